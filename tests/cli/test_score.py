"""``al-ray score``: from a file and a model's folder to scored rows, and its words."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.cli.conftest import Outcome
from tests.docs.pages import ROOT

Invoke = Callable[..., Outcome]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rows = [f'{i};"the goal, {i} match";x\r\n' for i in range(20)]
    file = tmp_path / "pool.csv"
    file.write_bytes("\ufeffnumber;body;kind\r\n".encode() + "".join([*rows, "20;;x\r\n"]).encode())
    return file


def test_a_csv_becomes_scored_parquet_and_the_same_command_does_nothing(
    al_ray: Invoke, classifier: Path, pool: Path, tmp_path: Path
) -> None:
    command = ("score", pool, "--model", classifier, "--to", tmp_path / "out", "--local")
    first = al_ray(*command)
    assert first.code == 0, first.text
    for words in (
        "21 rows in 1 shard, text in column 'body' (guessed; --text names another)",
        "probabilities are as the model gives them: no temperature was measured for it",
        "1 of 21 rows have no text in column 'body': prediction, probabilities and uncertainty are null there",
        "21 rows scored in",
        f"scores: {tmp_path / 'out'}",
    ):
        assert words in first.text
    table = ds.dataset(tmp_path / "out", format="parquet").to_table()
    assert table["number"].to_pylist() == [str(i) for i in range(21)]
    assert table["prediction"].null_count == 1
    again = al_ray(*command)
    assert again.code == 0
    assert "1 of the shards are there already" in again.text
    assert "every shard was scored before; nothing was done" in again.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--text", "bodi"), "unknown column 'bodi'. Did you mean 'body'?"),
        (("--set", "lanes=2"), "has no meaning here. This command takes address, cpus_per_worker"),
        (("--set", "cpus_per_worker=none"), "cpus_per_worker"),
        (("--model", "nowhere"), "model 'nowhere' is no folder"),
        (("--to", "s3://"), "names no bucket"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    al_ray: Invoke, classifier: Path, pool: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    outcome = al_ray("score", pool, "--model", classifier, "--to", tmp_path / "out", "--local", *options)
    assert outcome.code == 1
    assert words in outcome.text
    assert not (tmp_path / "out").exists()


def test_a_model_that_al_ray_exported_says_how_it_is_calibrated(
    al_ray: Invoke, classifier: Path, pool: Path, tmp_path: Path
) -> None:
    note = {
        "format": 1, "class_names": ["LABEL_0", "LABEL_1", "LABEL_2"], "max_tokens": 9, "temperature": 1.5,
        "n_calibrated": 44,
    }  # fmt: skip
    (classifier / "al_ray.json").write_text(json.dumps(note))
    try:
        outcome = al_ray("score", pool, "--model", classifier, "--to", tmp_path / "out", "--local")
    finally:
        (classifier / "al_ray.json").unlink()
    assert "probabilities are calibrated by a temperature of 1.50, from 44 answers" in outcome.text


@pytest.mark.ray
def test_the_script_scores_on_a_ray_of_its_own(classifier: Path, pool: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "pipelines.score_pool", str(pool), "--model", str(classifier)]
    done = subprocess.run(
        [*program, "--to", str(tmp_path / "out"), "--actors", "1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "21 rows scored in" in done.stdout
    assert ds.dataset(tmp_path / "out", format="parquet").to_table().num_rows == 21
