"""A study of a pool that holds texts of no class, from its file to its report."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from al_ray.api import results as results_of
from al_ray.records.study import StudyStore

LOCAL = ("--local", "--set", "tracking=off")
OPEN = {"name": "tickets", "n_train": 160, "n_test": 60, "no_class_fraction": 0.3}


def test_a_fine_tuned_study_of_an_open_set_is_run_and_reported(study, al_ray, tmp_path: Path) -> None:
    path = study(
        {"strategy": ["open_set_margin", "random"]},
        {"strategy": "passive"},
        dataset=OPEN,
        initial="random",
        confidence="temperature_scaling",
    )
    outcome = al_ray("run", path, "--storage", tmp_path, *LOCAL)
    assert outcome.code == 0, outcome.text
    assert "(of no class)" in outcome.text
    results = results_of(tmp_path / "tiny")
    spent = results.acquired[results.acquired["what"] == "rejected"].set_index("method")["share"]
    assert spent["pool"] == 0.3
    assert {name.split(" + ")[-1] for name in spent.index} == {"pool", "open_set_margin", "random"}
    for cell in StudyStore.open(str(tmp_path), "tiny").cells():
        rounds = cell.rounds()
        n_rejected = sum(int(record.annotation.abstained.sum()) for record in rounds)
        assert rounds[-1].metrics["n_rejected"] == n_rejected > 0
        assert rounds[-1].n_labeled + n_rejected == sum(len(record.query) for record in rounds)
    assert {curve.n_labeled for curve in results.learning_curves} == {(20, 30, 40)}
    assert al_ray("report", tmp_path / "tiny").code == 0
    written = tmp_path / "tiny" / "report"
    assert "of no class" in (written / "report.html").read_text("utf-8")
    assert "rejected" in set(pd.read_csv(written / "acquired.csv")["what"])
    assert "rejected" in set(pq.read_table(written / "acquired.parquet")["what"].to_pylist())
