"""``al-ray choose``: from a file and a model's folder to the texts to label, and its words."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Outcome
from tests.docs.pages import ROOT

Invoke = Callable[..., Outcome]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rows = [f"{i};the goal, {i} match {'of the bank' * (i % 4)};{'known' if i < 3 else ''}\n" for i in range(40)]
    file = tmp_path / "pool.csv"
    file.write_text("".join(["number;body;kind\n", *rows, "40;;\n"]), encoding="utf-8")
    return file


def test_a_csv_becomes_a_file_of_the_texts_to_label(
    al_ray: Invoke, classifier: Path, pool: Path, tmp_path: Path
) -> None:
    (tmp_path / "done.jsonl").write_text('{"number": 7}\n{"number": 8}\n')
    words = ("--id", "number", "--label", "kind", "--labeled", tmp_path / "done.jsonl", "--local")
    found = al_ray("choose", pool, "--model", classifier, "--n", 6, "--to", tmp_path / "query.jsonl", *words)
    assert found.code == 0, found.text
    for sentence in (
        "6 of 41 rows in 1 shard, text in column 'body' (guessed; --text names another); 2 ids are labelled already",
        "probabilities are as the model gives them: no temperature was measured for it",
        "1 of 41 rows have no text in column 'body' or no id in column 'number' and were left out",
        "5 rows left out as labelled already",
        "6 of 41 rows chosen in",
        f"chosen texts: {tmp_path / 'query.jsonl'}",
    ):
        assert sentence in found.text
    rows = [json.loads(line) for line in (tmp_path / "query.jsonl").read_text().splitlines()]
    numbers = [int(row["number"]) for row in rows]
    assert len({*numbers}) == 6
    assert not {*numbers} & {0, 1, 2, 7, 8, 40}
    assert all(row["body"].startswith(f"the goal, {row['number']} match") for row in rows)


def test_ids_that_none_of_the_rows_has_are_told(al_ray: Invoke, classifier: Path, pool: Path, tmp_path: Path) -> None:
    (tmp_path / "done.csv").write_text("number\nx7\n")
    words = ("--id", "number", "--labeled", tmp_path / "done.csv", "--local", "--n", 41)
    found = al_ray("choose", pool, "--model", classifier, "--to", tmp_path / "query.parquet", *words)
    assert "none of the 1 labelled ids was met in column 'number': is it the right one?" in found.text
    assert "only 40 rows could be chosen: no more have a text and no label" in found.text
    assert pq.read_table(tmp_path / "query.parquet").column_names == ["number", "body"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--text", "bodi"), "unknown column 'bodi'. Did you mean 'body'?"),
        (("--set", "lanes=2"), "has no meaning here. This command takes address, cpus_per_worker"),
        (("--model", "nowhere"), "model 'nowhere' is no folder"),
        (("--to", "query.csv"), "ends in neither .parquet nor .jsonl"),
        (("--to", "pool.jsonl"), "pool.jsonl is there already. Name a new file, or delete it."),
        (("--id", "numbr"), "has no column 'numbr' (--id)"),
        (("--labeled", "done.csv"), "--labeled names rows by their ids: name the column of them too, --id COLUMN."),
        (("--labeled", "done.csv", "--id", "number"), "done.csv"),
        (("--n", 42), "has 41 rows, so 42 cannot be chosen"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    al_ray: Invoke,
    classifier: Path,
    pool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool.jsonl").write_text("{}\n")
    named = ("--model", classifier, "--to", tmp_path / "query.parquet", "--n", 5, "--local")
    outcome = al_ray("choose", pool, *named, *options)
    assert outcome.code == 1, outcome.text
    assert words in outcome.text
    assert not (tmp_path / "query.parquet").exists()


def test_the_chosen_texts_do_not_go_into_the_pool_itself(
    al_ray: Invoke, classifier: Path, pool: Path, tmp_path: Path
) -> None:
    words = ("--model", classifier, "--n", 5, "--local", "--to", tmp_path / "query.jsonl")
    inside = tmp_path / "texts"
    inside.mkdir()
    pool.rename(inside / "pool.csv")
    found = al_ray("choose", inside, *words[:-1], inside / "query.jsonl")
    assert found.code == 1
    assert "lies inside the pool, which would then hold its own rows twice" in found.text
    assert al_ray("choose", inside, *words).code == 0


@pytest.mark.ray
def test_the_script_chooses_on_a_ray_of_its_own(al_ray: Invoke, classifier: Path, pool: Path, tmp_path: Path) -> None:
    words = [str(pool), "--model", str(classifier), "--n", "5", "--id", "number"]
    program = [sys.executable, "-m", "pipelines.choose_texts", *words, "--to", str(tmp_path / "ray.parquet")]
    done = subprocess.run([*program, "--actors", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert al_ray("choose", *words, "--to", tmp_path / "here.parquet", "--local").code == 0
    assert pq.read_table(tmp_path / "ray.parquet").equals(pq.read_table(tmp_path / "here.parquet"))
