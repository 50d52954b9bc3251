"""An annotator who labels by files, out of order, in parts and through kills, gets the rounds of the ground truth."""

import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from al_ray.cli.app import app
from al_ray.project.project import Project
from tests.project.simulated import asked, ground_truth
from tests.project.spreadsheets import resave
from tests.project.trec import trec_pool, trec_project

ROOT = Path(__file__).parents[2]
N_ROUNDS = 5
SHARE_KILLED = 0.7


def run(rng: np.random.Generator, killed: list[int], *arguments: object) -> str:
    """Run a command to its end; now and then it is killed before that while it writes, and started again."""
    words = [str(each) for each in arguments]
    if rng.random() < SHARE_KILLED:
        moment, n = rng.choice(["before", "after"]), rng.integers(1, 3)
        ended = subprocess.run(
            [sys.executable, "-m", "tests.project.dying", str(n), str(moment), *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ended.returncode in (0, -signal.SIGKILL), ended.stdout + ended.stderr
        killed.append(ended.returncode)
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_trec_labelled_by_files_gives_the_rounds_of_the_ground_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # as the study: with other threads, the last bits are others
    rng = np.random.default_rng(13)
    pool = trec_pool(tmp_path, monkeypatch)
    values = trec_project(pool, tmp_path / "projects")
    project = tmp_path / "questions.yaml"
    project.write_text(yaml.safe_dump(values), encoding="utf-8")
    killed = list[int]()
    for step in range(1000):
        query, answers = tmp_path / "query.csv", tmp_path / f"answers {step}.csv"
        said = run(rng, killed, "ask", project, "--to", query, "--force")
        if f"round {N_ROUNDS}:" in said:
            break
        rows = list(csv.DictReader(io.StringIO(query.read_text(encoding="utf-8-sig"), newline="")))
        chosen = {row["id"] for row in rng.permutation(np.array(rows, dtype=object))[: rng.integers(1, len(rows) + 1)]}
        labels = {id_: pool.class_names[pool.labels[int(id_)]] for id_ in chosen}
        answers.write_bytes(
            resave(_shuffled(query.read_bytes(), rng), lambda row, known=labels: known.get(row["id"], ""))
        )
        run(rng, killed, "tell", project, answers, "--annotator", "ada")
    assert killed.count(-signal.SIGKILL) >= 3, "the schedule kills too seldom"
    with Project.open(values, write=False) as opened:
        rounds = opened.rounds
        ids = [answer.id for answer in opened.answers()]
    assert len(ids) == len(set(ids)), "an answer is there twice"
    truth = ground_truth(pool, values, tmp_path / "results", N_ROUNDS)
    assert len(rounds) == N_ROUNDS
    assert [asked(record) for record in rounds] == [asked(record) for record in truth[:N_ROUNDS]]


def _shuffled(content: bytes, rng: np.random.Generator) -> bytes:
    """Sort the rows of a file anew, as a spreadsheet may."""
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows([header, *(rows[place] for place in rng.permutation(len(rows)))])
    return lines.getvalue().encode("utf-8-sig")
