"""Small studies for the tests of reports, written through the real store."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.records.cell import CellStore
from al_ray.records.json import fingerprint
from al_ray.records.study import StudyStore
from al_ray.study.names import Method, name_cells
from al_ray.study.spec import CellSpec, make_spec

QUERY_SIZE = 2
N_TRAIN = 40
CLIPPING = ({"name": "uncertainty_clipping"},)
CLASS_NAMES = ["no", "yes"]
RANDOM, MARGIN, ENTROPY = "softmax + random", "softmax + margin", "softmax + entropy"
CLIPPED = "softmax + margin + uncertainty_clipping"
LOG_PROBS = np.log(np.array([[0.95, 0.05], [0.65, 0.35], [0.42, 0.58], [0.12, 0.88]], dtype=np.float32))
TEST = {"id": np.arange(4), "label": np.array([0, 1, 1, 1]), "log_probs": LOG_PROBS}


class SampleStudy:
    """A study of two classes in which every query asks for two examples."""

    def __init__(self, storage: Path, name: str = "sample") -> None:
        self.store = StudyStore.open(str(storage), name)
        self.store.claim()
        self.planned: list[dict[str, Any]] = []
        self.methods: dict[str, Any] = {}

    @property
    def path(self) -> str:
        return self.store.root

    def spec(self, **changes: Any) -> CellSpec:
        values = {"dataset": "subj", "strategy": "margin", "seed": 42, "initial_size": 2, "query_size": 2, "rounds": 2}
        return make_spec({**values, **changes}, "sample")

    def plan(self, variant: str = "", **changes: Any) -> CellSpec:
        """Note a cell in the plan, without records."""
        spec = self.spec(**changes)
        slug, digest = _slug(spec, variant), fingerprint(spec.to_json())
        dataset, model, *labels = _parts(spec)
        names = {"dataset": dataset, "model": model, "variant": variant}
        method = " + ".join([*labels, *([variant] if variant else [])])
        self.methods[method] = asdict(Method.of(spec))
        self.planned.append(
            {"slug": slug, "fingerprint": digest, **names, "method": method,
             "strategy": spec.strategy.name, "seed": spec.seed}
        )  # fmt: skip
        return spec

    def write_plan(self, datasets: Mapping[str, Any] | None = None) -> None:
        note = {"class_names": CLASS_NAMES, "class_counts": [30, 10], "group_counts": None, "n_train": N_TRAIN,
                "n_test": 4, "source": "made up"}  # fmt: skip
        plan = {"format": 1, "study": self.store.study, "cells": self.planned, "datasets": datasets or {"subj": note}}
        self.store.write_plan(plan | ({"methods": self.methods} if self.methods else {}))

    def begin(self, variant: str = "", **changes: Any) -> CellStore:
        spec = self.spec(**changes)
        cell = self.store.cell(_slug(spec, variant), fingerprint(spec.to_json()))
        cell.begin(spec.to_json(), {"al_ray": "0.1.0", "class_names": CLASS_NAMES})
        return cell

    def cell(
        self,
        accuracy: Sequence[float] = (0.5, 0.6, 0.7),
        *,
        ids: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        metrics: Mapping[str, float] | None = None,
        probs: Sequence[float] = (0.75, 0.25),
        test: Mapping[str, np.ndarray] | None = None,
        seconds: float = 1.0,
        end: str = "done",
        variant: str = "",
        **changes: Any,
    ) -> CellStore:
        """Record a cell.

        Args:
            accuracy: of each fine-tuned round.
            ids: queried, the initial query included; two a round.
            labels: answered, -1 = abstained.
            metrics: beside accuracy, of every round.
            probs: believed of every queried example.
            test: arrays of the last round.
            seconds: of fine-tuning a round.
            end: ``done``, ``failed`` or ``running``.
            variant: what the slug says beside the method.
            changes: of the spec.
        """
        cell = self.begin(variant, rounds=len(accuracy) - 1, **changes)
        n = QUERY_SIZE * len(accuracy)
        asked = np.arange(n) if ids is None else np.asarray(ids)
        answers = np.zeros(n, np.int64) if labels is None else np.asarray(labels)
        assert len(asked) == len(answers) == n
        n_answered = 0
        for index in range(len(accuracy) + 1):
            at = slice(QUERY_SIZE * index, QUERY_SIZE * (index + 1))
            is_last = index == len(accuracy)
            figures = {"accuracy": accuracy[index - 1], "ece": 0.1, "brier": 0.2, **(metrics or {})} if index else {}
            record = _round(index, n_answered, asked[at], answers[at], figures, probs, seconds, is_last)
            cell.append(record, {"test": test} if test and is_last else None)
            n_answered += len(record.annotation.answered())
        return _ended(cell, end)

    def passive(
        self,
        accuracy: float,
        wrong: Sequence[int] = (),
        charted: Mapping[str, np.ndarray] | None = None,
        **changes: Any,
    ) -> CellStore:
        """Record a passive cell that gets some training examples wrong; labels are 0 for ids below 30, else 1.

        Args:
            accuracy: on the test split.
            wrong: ids.
            charted: columns of the training examples that tell how they fared over the epochs.
            changes: of the spec.
        """
        cell = self.begin(strategy="passive", **changes)
        ids = np.arange(N_TRAIN)
        labels = (ids >= 30).astype(np.int64)
        predicted = np.where(np.isin(ids, wrong), 1 - labels, labels)
        log_probs = np.where(np.arange(2) == predicted[:, None], -0.1, -2.4).astype(np.float32)
        cell.append(_round(0, 0, ids, labels, {}, (), 0.0, False))
        record = _round(
            1, N_TRAIN, ids[:0], labels[:0], {"accuracy": accuracy, "ece": 0.1, "brier": 0.2}, (), 9.0, True
        )
        cell.append(record, {"train": {"id": ids, "label": labels, "log_probs": log_probs, **(charted or {})}})
        return _ended(cell, "done")


def row(table: pd.DataFrame, **keys: object) -> pd.Series:
    for name, value in keys.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def _round(
    index: int,
    n_labeled: int,
    ids: np.ndarray,
    labels: np.ndarray,
    metrics: Mapping[str, float],
    probs: Sequence[float],
    seconds: float,
    is_last: bool,
) -> RoundRecord:
    believed = np.tile(probs, (len(ids), 1)) if index and len(ids) else None
    return RoundRecord(
        round_index=index,
        n_labeled=n_labeled,
        query=Query(ids=ids, scores=np.zeros(len(ids)), probs=believed),
        annotation=Annotation(ids=ids, labels=labels, abstained=labels < 0),
        metrics=metrics,
        seconds={"finetune": seconds} if index else {},
        stop_reason="all rounds done" if is_last else None,
    )


def _ended(cell: CellStore, end: str) -> CellStore:
    if end == "done":
        cell.finish({"n_rounds": cell.n_rounds()})
    elif end == "failed":
        cell.fail({"kind": "input", "error": "RoundError", "message": "the pool is empty\nsecond line", "attempts": 1})
    return cell


def _parts(spec: CellSpec) -> list[str]:
    (names,) = name_cells([spec])
    return [names.dataset, names.model, *names.method.labels]


def _slug(spec: CellSpec, variant: str) -> str:
    return "-".join([*_parts(spec), *([variant] if variant else []), f"s{spec.seed}"])
