"""Rounds and cells made up for the tests of storage and tracking."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.records.cell import CellStore
from al_ray.records.json import fingerprint
from al_ray.records.study import StudyStore

SPEC: dict[str, Any] = {
    "dataset": {"name": "trec6"},
    "model": {"name": "minilm", "revision": None},
    "confidence": {"name": "softmax"},
    "strategy": {"name": "margin"},
    "filters": [{"name": "uncertainty_clipping", "fraction": 0.05}],
    "finetune": {"learning_rate": 2e-05, "epochs": 5},
    "seed": 42,
}


def make_record(index: int, *, size: int = 3, abstain: bool = False, last: bool = False) -> RoundRecord:
    """Return round ``index`` of a story in which every round asks for ``size`` new examples."""
    ids = np.arange(index * size, 0 if last else (index + 1) * size, dtype=np.int64)
    abstained = np.zeros(len(ids), dtype=np.bool_)
    abstained[:1] = abstain
    return RoundRecord(
        round_index=index,
        n_labeled=index * size,
        query=Query(ids=ids, scores=ids / 7.0, probs=np.tile([0.1, 0.9], (len(ids), 1)) if index else None),
        annotation=Annotation(ids=ids, labels=np.where(abstained, -1, ids % 2), abstained=abstained),
        metrics={"accuracy": 0.5 + index / 10, "macro_f1": 0.4 + index / 10, "loss": 1 / index} if index else {},
        seconds={"finetune": 0.25, "query": 0.125} if index else {"query": 0.5},
        stop_reason="all rounds done" if last else None,
    )


def make_story(n_rounds: int) -> list[RoundRecord]:
    """Return the initial query and ``n_rounds`` rounds after it, the last of which asks for nothing."""
    return [make_record(index, last=index == n_rounds) for index in range(n_rounds + 1)]


def open_cell(storage: Path | str, study: str = "softmax", slug: str = "trec6-margin-s42", **changes: Any) -> CellStore:
    """Claim a study and begin a cell of it."""
    store = StudyStore.open(str(storage), study)
    store.claim()
    spec = {**SPEC, **changes}
    cell = store.cell(slug, fingerprint(spec))
    cell.begin(spec, {"al_ray": "0.1.0"})
    return cell


def run_cell(cell: CellStore, n_rounds: int = 3) -> None:
    """Record a whole cell that is done."""
    for record in make_story(n_rounds):
        cell.append(record)
    cell.finish({"n_rounds": n_rounds + 1})


def summary(cell: CellStore) -> Any:
    """Return the final figures of a cell that is done."""
    return json.loads(cell.folder.read("done.json") or b"")["summary"]
