"""Simulated annotators, who answer by hidden labels, and the ground-truth cell that they have to agree with."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from al_ray.api import run
from al_ray.core.answers import Answer
from al_ray.core.types import RoundRecord
from al_ray.data import resolve_dataset
from al_ray.project.project import Project
from al_ray.project.state import Task
from al_ray.records.study import StudyStore
from al_ray.study.file import load_study


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool whose labels only the tests know.

    Attributes:
        folder: holds ``pool.csv`` without labels, and ``train.csv`` and ``test.csv`` with them.
        class_names: in label order.
        labels: id -> class.
    """

    folder: Path
    class_names: tuple[str, ...]
    labels: Mapping[int, int]

    def answers(self, tasks: Iterable[Task], annotator: str = "ada") -> list[Answer]:
        """Answer tasks by the hidden labels."""
        return [Answer(id=task.id, label=self.labels[task.id], annotator=annotator, source="file") for task in tasks]


def ticket_pool(folder: Path, n: int) -> Pool:
    """Write some tickets without labels, and the same ones with labels beside a test split, for a study of them."""
    dataset = resolve_dataset({"name": "tickets", "n_train": max(200, n), "n_test": 40})
    texts, labels = list(dataset.train.texts)[:n], dataset.train.labels[:n].tolist()
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


def ground_truth(pool: Pool, values: Mapping[str, Any], storage: Path, n_rounds: int) -> list[RoundRecord]:
    """Run the cell of a study that asks the hidden labels, with the settings of a project."""
    settings = {key: values[key] for key in values if key not in ("project", "data", "classes", "storage")}
    study = {
        "study": "truth",
        "defaults": {
            "finetune": {"frozen_layers": "all"},
            "strategy": "margin",
            "initial": "random",
            "seed": 42,
            **settings,
            "dataset": {
                "path": str(pool.folder / "train.csv"),
                "test": str(pool.folder / "test.csv"),
                "classes": list(pool.class_names),
            },
            "rounds": n_rounds,
        },
        "grid": [{"stopping": settings.get("stopping", [])}],
    }
    run(load_study(study), storage=str(storage), local=True, tracking="off")
    cells = StudyStore.open(str(storage), "truth").cells()
    assert len(cells) == 1
    return cells[0].rounds()


def answer_rounds(
    project: Mapping[str, Any], pool: Pool, n_rounds: int, *, seed: int = 0, annotators: Sequence[str] = ("ada",)
) -> list[RoundRecord]:
    """Label until so many rounds are closed: in another order, in parts, opened anew every few answers."""
    rng = np.random.default_rng(seed)
    while True:
        with Project.open(dict(project), threads=1) as opened:
            for _ in range(rng.integers(1, 4)):
                batch = opened.batch()
                if batch is None or len(opened.rounds) >= n_rounds:
                    return list(opened.rounds)
                part = rng.permutation(len(batch.open))[: rng.integers(1, len(batch.open) + 1)]
                opened.tell(pool.answers([batch.open[i] for i in part], str(rng.choice(annotators))))


def asked(record: RoundRecord) -> dict[str, Any]:
    """Return what a round asked for and was told, by what both kinds of cell have."""
    content = record.to_json()
    return {key: content.get(key) for key in ("round_index", "n_labeled", "query", "annotation", "evaluation")}
