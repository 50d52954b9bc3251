"""``al-ray new --project``, and the project file at the end of a report: both are projects that open."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from al_ray.project.project import Project
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]
CLASSES = ("billing", "=cmd()", "NA", "1", "yes")


def write_texts(path: Path, n: int = 40, **columns: list[Any]) -> Path:
    rows = [[f"text number {i} of a pool, which nobody labelled" for i in range(n)], *columns.values()]
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([["body", *columns], *zip(*rows, strict=True)])
    return path


def test_texts_without_labels_become_a_project_that_opens(
    al_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "tickets.csv")
    outcome = al_ray("new", "--project", "tickets.csv", "--classes", ",".join(CLASSES))
    assert outcome.code == 0, outcome.text
    assert "next: al-ray label tickets.yaml" in outcome.text
    with Project.open("tickets.yaml") as project:
        assert project.class_names == CLASSES
        assert len(project.dataset.train) == 40
        assert project.text_of(7).startswith("text number 7")
        assert project.spec.filters[0].name == "near_duplicates"
    again = al_ray("new", "--project", "tickets.csv", "--classes", "a,b")
    assert again.code == 1
    assert "tickets.yaml is there already. Name another file with --out, or write over it with --force." in again.text


def test_labels_that_are_there_name_the_classes(al_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "pool.csv", team=["bug", "billing", ""] + [""] * 37, nr=list(range(100, 140)))
    outcome = al_ray("new", "--project", "pool.csv", "--label", "team", "--id", "nr", "--out", "p.yaml")
    assert outcome.code == 0, outcome.text
    assert "billing (1 known), bug (1 known)" in outcome.text
    with Project.open("p.yaml") as project:
        assert project.class_names == ("billing", "bug")
        assert project.labels() == {100: 1, 101: 0}


def test_a_folder_of_text_files_becomes_one_table(al_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters").mkdir()
    for i in range(25):
        (tmp_path / "letters" / f"{i:02d}.txt").write_text(
            f"letter {i}: when does the parcel come?\n", encoding="utf-8"
        )
    outcome = al_ray("new", "--project", "letters", "--classes", "parcel,other")
    assert outcome.code == 0, outcome.text
    with Project.open("letters.yaml") as project:
        assert project.text_of(3) == "letter 3: when does the parcel come?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "classes are [], and two are needed at least. Name them: --classes billing,bug,other"),
        (["--classes", "one"], "classes are ['one'], and two are needed at least"),
        (["--classes", "a,b", "--test", "t.csv"], "--test names a test split, and a project has none"),
        (["--classes", "a,b", "--text", "bodi"], "Did you mean 'body'?"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_written(
    al_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "pool.csv")
    outcome = al_ray("new", "--project", "pool.csv", *arguments)
    assert outcome.code == 1
    assert message in outcome.text
    assert [path.name for path in tmp_path.iterdir()] == ["pool.csv"]


def test_empty_texts_are_refused_with_their_row_and_left_out_when_told(
    al_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = write_texts(tmp_path / "pool.csv").read_text().splitlines()
    (tmp_path / "pool.csv").write_text("\n".join([*lines[:5], '" "', *lines[5:]]))
    refused = al_ray("new", "--project", "pool.csv", "--classes", "a,b")
    assert refused.code == 1
    assert "1 row has no text in column 'body' (row 4, counted from 0)" in refused.text
    outcome = al_ray("new", "--project", "pool.csv", "--classes", "a,b", "--skip-unusable")
    assert outcome.code == 0, outcome.text
    with Project.open("pool.yaml") as project:
        assert len(project.dataset.train) == 40


def test_options_of_projects_need_the_word(al_ray: Run, tmp_path: Path) -> None:
    outcome = al_ray("new", write_texts(tmp_path / "pool.csv"), "--classes", "a,b")
    assert outcome.code == 1
    assert "--classes and --id belong to --project" in outcome.text


def test_a_report_ends_with_a_project_of_the_method_that_comes_first(
    al_ray: Run, study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = study({"strategy": ["random", "entropy"]}, finetune={"frozen_layers": "all", "epochs": 25}, rounds=1)
    assert al_ray("run", file, "--local", "--storage", "results", "--set", "tracking=off").code == 0
    outcome = al_ray("report", file, "--storage", "results", "--tracking", "off")
    assert outcome.code == 0, outcome.text
    written = tmp_path / "results" / "tiny" / "report" / "project.yaml"
    assert f"use this on your unlabelled pool: {written}" in outcome.text
    assert outcome.text.index("use this on your unlabelled pool") > outcome.text.index("tables:")
    values = yaml.safe_load(written.read_text(encoding="utf-8"))
    assert values["strategy"] in ("random", "entropy")
    assert values["finetune"] == {"frozen_layers": "all", "epochs": 25}
    assert (values["initial"], values["initial_size"], values["query_size"]) == ("random", 20, 10)
    assert set(values["classes"]) == {"billing", "bug", "access", "shipping", "feature", "cancellation"}
    write_texts(tmp_path / "your_texts.csv")
    values["data"] = {"path": "your_texts.csv", "text": "body"}
    with Project.open(values) as project:
        batch = project.batch()
        assert batch is not None
        assert len(batch.tasks) > 20
