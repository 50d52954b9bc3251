"""What README and docs say can be followed: links, paths, commands, keys, tables, examples."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from al_ray.cli.app import app
from al_ray.cli.methods import markdown
from al_ray.data.files import PathSource
from al_ray.model.recipe import FinetuneRecipe
from al_ray.records.json import FORMAT
from al_ray.registry import fields_of
from al_ray.study.file import Execution, Study, load_study, read_scalar, read_yaml
from al_ray.study.spec import SPEC_VERSION, CellSpec
from tests.docs.pages import BY_NAME, ROOT, anchors, code_spans, fences, links, rows, text_of

MADE_UP = {"al_ray/strategy/two_faces.py"}  # the example of adding_a_method.md

every_page = pytest.mark.parametrize("name", BY_NAME)


def test_the_readme_is_short_and_names_its_two_commands() -> None:
    text = text_of("README.md")
    assert text.count("\n") <= 200
    assert {"make quickstart", "make test"} <= {line.split("  ")[0] for line in fences(text, "sh")[0].splitlines()}


@every_page
def test_every_link_leads_somewhere(name: str) -> None:
    for target in links(text_of(name)):
        path, _, anchor = target.partition("#")
        file = (BY_NAME[name].parent / path).resolve() if path else BY_NAME[name]
        assert file.exists(), target
        assert file.is_relative_to(ROOT), f"{target} leaves the repository"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


def test_every_page_is_found_from_the_index() -> None:
    index = links(text_of("docs/index.md"))
    assert {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")} <= {*index, "index.md"}


@every_page
def test_every_path_that_a_page_names_is_there(name: str) -> None:
    pattern = r"(?:al_ray|tests|pipelines|benchmarks|docs)/[\w./*-]+"
    for path in (span for span in code_spans(text_of(name)) if re.fullmatch(pattern, span)):
        assert path in MADE_UP or list(ROOT.glob(path.rstrip("/"))), path


@every_page
def test_every_module_that_a_page_names_is_there(name: str) -> None:
    there = {
        path.name
        for folder in ("al_ray", "pipelines", "tests", "docs", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    named = set(re.findall(r"\b\w+\.py\b", text_of(name)))
    assert named <= there | {path.rpartition("/")[2] for path in MADE_UP}


@every_page
def test_make_knows_every_target_that_a_page_names(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    lines = [line for block in fences(text_of(name), "sh") for line in block.splitlines()]
    named = {found[1] for span in (*code_spans(text_of(name)), *lines) if (found := re.match(r"make ([a-z-]+)", span))}
    assert named <= targets


def commands() -> dict[str, Any]:
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def options(name: str, words: Sequence[str] = ()) -> set[str]:
    command = commands()[name]
    if inner := getattr(command, "commands", {}):  # such as "cache list"
        assert words, f"al-ray {name} is followed by one of {sorted(inner)}"
        command = inner[words[0]]
    found = {option for param in command.params for option in param.opts}
    return {"--help", *(option for option in found if option.startswith("--"))}


def calls(text: str) -> Iterator[list[str]]:
    """Yield the words after ``al-ray`` wherever it is called, without comments."""
    blocks = "\n".join(fences(text, "sh")).replace("\\\n", " ")
    for line in (*blocks.splitlines(), *code_spans(text)):
        if found := re.match(r"(?:\w+=\S+ )?(?:\S*/)?al-ray ([^#>]+)", line):
            yield found[1].split()


@every_page
def test_al_ray_knows_every_command_and_option_that_a_page_names(name: str) -> None:
    for command, *words in calls(text_of(name)):
        assert command in commands(), command
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options(command, words), words


def test_the_page_of_studies_names_every_command_and_the_options_of_a_run() -> None:
    text = text_of("docs/studies.md")
    assert {command for command, *_ in calls(text)} == set(commands())
    shown = {span.split()[1] for span in code_spans(text) if span.startswith("... --")}
    assert shown == options("run") - {"--help"}


def test_the_tables_of_methods_are_those_that_the_registries_give() -> None:
    found = re.search(r"<!-- al-ray list --markdown -->\n(.*?)\n<!-- end -->", text_of("docs/methods.md"), re.DOTALL)
    assert found is not None
    assert found[1] == markdown(), "run 'al-ray list --markdown' and put it between the two comments"


@pytest.mark.parametrize(
    "defaults",
    [
        {key: field.default for key, field in CellSpec.model_fields.items() if key != "dataset_sha256"},
        {key: field.default for key, field in Execution.model_fields.items()},
        {key: default for key, (_, default) in fields_of(FinetuneRecipe).items()},
        {key: default for key, (_, default) in fields_of(PathSource).items()},
        dict.fromkeys(Study.model_fields),
    ],
    ids=["cell", "execution", "finetune", "path", "file"],
)
def test_the_page_of_studies_names_every_key_with_its_default(defaults: dict[str, Any]) -> None:
    shown = rows("docs/studies.md")
    assert set(defaults) <= set(shown)
    for key, default in defaults.items():
        if isinstance(default, bool | int | float | str) and default != "":
            assert read_scalar(shown[key].strip("`")) == default, key


def test_the_page_of_studies_names_every_study_that_comes_along() -> None:
    studies = {path.name for path in (ROOT / "pipelines" / "studies").iterdir()}
    section = text_of("docs/studies.md").split("\n## Studies that come along\n")[1]
    assert {span for span in code_spans(section) if span.endswith(".yaml")} == studies


def test_the_changelog_says_which_versions_are_written() -> None:
    text = text_of("CHANGELOG.md")
    assert f"| record format | {FORMAT} |" in text
    assert f"| spec version | {SPEC_VERSION} |" in text


@every_page
def test_every_study_that_a_page_shows_can_be_laid_out(name: str) -> None:
    for block in fences(text_of(name), "yaml"):
        if "grid:" in block:
            load_study(read_yaml(name, block))


def test_the_strategy_that_is_added_in_one_file_works_and_keeps_its_contract() -> None:
    (block,) = fences(text_of("docs/adding_a_method.md"), "python")
    asked = (
        "from al_ray.core.types import LabeledSet\n"
        "view = PoolView(ids=np.array([3, 7, 9]), labeled=LabeledSet(ids=np.array([1]), labels=np.array([0])),\n"
        "    log_probs=np.log([[[.5, .25, .25]], [[.4, .4, .2]], [[.8, .1, .1]]]))\n"
        "scores = strategies.build({'name': 'two_faces', 'power': 2.0}).score(view, np.random.default_rng(0))\n"
        "assert np.allclose(scores, [.25, 1, 1 / 64])\n"
    )
    # In a process of its own: what is registered here would be a method of every other test.
    subprocess.run([sys.executable, "-c", block + asked], cwd=ROOT, check=True)


def test_the_hooks_are_the_linters_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    linters = re.findall(r"^\t\$\(BIN\)/(ruff \w+|mypy|lint-imports)", makefile, flags=re.MULTILINE)
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
    assert len(entries) == len(linters)
    assert all(entry.startswith(linter) for entry, linter in zip(entries, linters, strict=True))


@pytest.mark.parametrize(
    ("target", "needs_tools"), [("quickstart", False), ("install", False), ("test", True), ("lint", True)]
)
def test_only_who_tests_installs_the_tools_of_the_tests(tmp_path: Path, target: str, needs_tools: bool) -> None:
    make = ["make", "--dry-run", target, f"VENV={tmp_path / 'none'}"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (".[dev]" in done.stdout) is needs_tools
    assert " -e . " in done.stdout
    assert "--torch-backend cpu torch" in done.stdout
