"""A small pool to label, its hidden answers, and a tiny encoder."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from al_ray.data import resolve_dataset
from tests.model import tiny
from tests.project.simulated import Pool


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Write 160 tickets without labels, and the same ones with labels beside a test split, for a study of them."""
    folder = tmp_path_factory.mktemp("pool")
    dataset = resolve_dataset({"name": "tickets", "n_train": 200, "n_test": 40})
    texts, labels = list(dataset.train.texts)[:160], dataset.train.labels[:160].tolist()
    names = list(dataset.class_names)
    tested = zip(dataset.test.texts, dataset.test.labels.tolist(), strict=True)
    tables = {
        "pool.csv": [["text"], *([text] for text in texts)],
        "train.csv": [["text", "label"], *([text, names[c]] for text, c in zip(texts, labels, strict=True))],
        "test.csv": [["text", "label"], *([text, names[c]] for text, c in tested)],
    }
    for name, rows in tables.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows(rows)
    return Pool(folder=folder, class_names=tuple(names), labels=dict(enumerate(labels)))


@pytest.fixture
def project(tmp_path: Path, pool: Pool, encoder: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that gives what a project file of the pool holds, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "project": "tickets",
            "data": str(pool.folder / "pool.csv"),
            "classes": list(pool.class_names),
            "model": str(encoder),
            "max_tokens": 16,
            "initial_size": 8,
            "query_size": 6,
            "evaluation": {"name": "random_sample", "n": 30},
            "storage": str(tmp_path / "projects"),
        }
        return values | changes

    return make
