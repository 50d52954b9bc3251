"""A small part of TREC-6 as a pool without labels, with MiniLM on it; skipped where this machine has neither."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from al_ray.data import resolve_dataset
from al_ray.errors import AlRayError
from al_ray.model.source import resolve_model
from tests.needs import lacks
from tests.project.simulated import Pool

N_TEXTS, N_TEST = 400, 50


def trec_pool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """Write the first texts of TREC-6, without labels and with them."""
    _point_to_data(monkeypatch)
    try:
        dataset = resolve_dataset("trec6")
        resolve_model("minilm", None)
    except AlRayError as error:
        lacks("minilm", f"no TREC-6 or no MiniLM here: {error}")
    names, labels = dataset.class_names, dataset.train.labels[:N_TEXTS].tolist()
    train = list(zip(dataset.train.texts[:N_TEXTS], labels, strict=True))
    test = list(zip(dataset.test.texts[:N_TEST], dataset.test.labels[:N_TEST].tolist(), strict=True))
    tables = {
        "pool.csv": [["text"], *([text] for text, _ in train)],
        "train.csv": [["text", "label"], *([text, names[label]] for text, label in train)],
        "test.csv": [["text", "label"], *([text, names[label]] for text, label in test)],
    }
    for name, rows in tables.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows(rows)
    return Pool(folder=folder, class_names=names, labels=dict(enumerate(labels)))


def trec_project(pool: Pool, storage: Path) -> dict[str, Any]:
    """Return a project on it: the frozen learner, a random sample to measure by."""
    return {
        "project": "questions",
        "data": str(pool.folder / "pool.csv"),
        "classes": list(pool.class_names),
        "model": "minilm",
        "max_tokens": 32,
        "finetune": {"frozen_layers": "all"},
        "initial_size": 12,
        "query_size": 8,
        "stopping": [],
        "evaluation": {"name": "random_sample", "n": 40},
        "storage": str(storage),
    }


def _point_to_data(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Path(__file__).parents[2] / "shared" / "data", Path(__file__).parents[3] / "shared" / "data"
    found = [folder for folder in beside if folder.is_dir()]
    if "AL_RAY_DATA" not in os.environ and found:
        monkeypatch.setenv("AL_RAY_DATA", str(found[0]))
