"""Forecasts of learning curves on recorded studies: how often the band holds what the next 100 labels bring.

48 frozen cells, whose accuracy is estimated by a random sample beside the test split: the forecast sees the estimates,
the test split tells the truth.
"""

import os
import tempfile
from typing import Any

import numpy as np

import al_ray
from al_ray.core.types import RoundRecord
from al_ray.project.outlook import COVERAGE, N_MORE, outlook
from al_ray.project.project import curve_of
from al_ray.records.study import StudyStore
from benchmarks.inputs import minilm, trec6
from benchmarks.report import Report, run_benchmark

QUERY_SIZE = 20
STUDY: dict[str, Any] = {
    "study": "forecast",
    "defaults": {
        "model": "minilm",
        "max_tokens": 64,
        "finetune": {"frozen_layers": "all"},
        "initial": "random",
        "initial_size": 20,
        "query_size": QUERY_SIZE,
        "rounds": 30,
        "evaluation": {"name": "random_sample", "n": 200, "share": 0.25},
    },
    "grid": [
        {
            "dataset": ["trec6", "subj", {"name": "ag_news", "keep_train": 8000, "keep_test": 3000}],
            "strategy": ["margin", "random", "entropy", "badge"],
            "seed": {"range": [1, 5]},
        }
    ],
}


def measure(report: Report) -> None:
    """Run the study, then forecast from every second round on."""
    trec6()
    minilm()
    with tempfile.TemporaryDirectory() as storage:
        al_ray.run(STUDY, storage=storage, lanes=os.cpu_count(), tracking="off")
        cells = StudyStore.open(storage, "forecast").cells()
        found = {cell.slug: forecasts(cell.rounds()) for cell in cells}
    for name in ("trec6", "subj", "ag_news", ""):
        rows = np.concatenate([rows for slug, rows in found.items() if name in slug])
        gain, low, high, truth = rows.T
        held = float(((low <= truth) & (truth <= high)).mean())
        note = (
            f"{len(rows)} forecasts; off by {100 * np.abs(gain - truth).mean():.1f} points, 'nothing changes' by "
            f"{100 * np.abs(truth).mean():.1f}"
        )
        target = {} if name else {"at_least": COVERAGE}
        report.add(f"{name or 'all'}: the band holds the truth", held, "of 1", note=note, **target)


def forecasts(rounds: list[RoundRecord]) -> np.ndarray[Any, Any]:
    """Return gain, low, high and truth of each forecast of one cell."""
    rows = []
    ahead = N_MORE // QUERY_SIZE
    for end in range(6, len(rounds) - ahead, 2):
        forecast = outlook(tuple(curve_of(rounds[:end])))
        assert forecast is not None
        then, now = (rounds[at].metrics["accuracy"] for at in (end - 1 + ahead, end - 1))
        rows.append((forecast.gain, forecast.low, forecast.high, then - now))
    return np.array(rows)


if __name__ == "__main__":
    run_benchmark("curve_forecast", "forecasts of learning curves on recorded studies", measure)
