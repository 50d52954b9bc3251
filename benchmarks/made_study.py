"""A large study made up for the benchmark of reports: real formats and sizes, invented numbers, written quickly.

Every record is what :class:`~al_ray.records.cell.CellStore` would have written, checksums included, but
nothing is flushed to the disk and texts that repeat are made once: 5,000 cells take a minute instead of an hour.
Packed cells have arrays of their own, as real ones have, so that a part is as large as a real one.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from al_ray.core.metrics import evaluate
from al_ray.core.seeding import stream
from al_ray.records.arrays import encode_tables
from al_ray.records.cell import cell_key
from al_ray.records.json import json_file
from al_ray.records.packed import FilesOfCell, write_part
from al_ray.records.round import round_file
from al_ray.records.study import StudyStore
from al_ray.runtime.tasks import MAX_HELD_BYTES
from al_ray.storage.memory import MemoryFolder
from al_ray.study.names import name_cells
from al_ray.study.spec import CellSpec, fingerprints, make_spec, once_a_kind

DATASETS = ("trec6", "ag_news", "subj", "rotten_tomatoes", "sst2")
N_CLASSES = {"trec6": 6, "ag_news": 4}
MODELS = ("bert-base-uncased", "roberta-base")
STRATEGIES = ("least_confidence", "margin", "entropy")
CONFIDENCES = (
    "softmax", "temperature_scaling", "label_smoothing", "inhibited_softmax", "evidential", "energy", "trust_score",
    "adaptive_temperature",
)  # fmt: skip
CLIPPING = ({"name": "uncertainty_clipping", "fraction": 0.1},)
N_TRAIN, N_TEST = 5452, 500
N_SEEDS, FIRST_SEED = 10, 42
QUERY_SIZE = 25
N_TEMPLATES = 40
UNREAD_BYTES = 13_700  # of a packed cell's arrays of a round, so that it takes about 262 KiB in its part, as a real one
SECONDS = {"finetune": 3.25, "evaluate": 0.51, "score": 4.125, "query": 0.0021, "select": 0.001}
TIME = "2026-01-02T03:04:05.678+00:00"
PROVENANCE = {"al_ray": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"}


@dataclass
class MadeStudy:
    """Writes the study.

    Attributes:
        storage: folder above it.
        n_cells: cells, the first of the grid of 2 models x 5 data sets x 50 methods x 10 seeds.
        n_rounds: fine-tuned rounds a cell, so points of a learning curve.
        n_seeds: cells of one method on one setting.
        part_size: cells that are packed into one part; 0: each has a folder.
    """

    storage: Path
    n_cells: int
    n_rounds: int
    n_seeds: int = N_SEEDS
    part_size: int = 0
    _templates: dict[int, "_Templates"] = field(default_factory=dict)

    def write(self) -> Path:
        """Write everything; return the study's folder."""
        store = StudyStore.open(str(self.storage), "made")
        store.claim()
        of_kind = once_a_kind(fingerprints)
        cells = [(spec, slug, of_kind(spec)(spec.seed)) for spec, slug in self._specs()]
        root, held = Path(store.root), list[FilesOfCell]()
        for number, (spec, slug, digest) in enumerate(cells, start=1):
            files = self._files_of(spec, slug, digest)
            if self.part_size:
                held.append(FilesOfCell(cell_key(slug, digest), digest, MemoryFolder("made", files)))
            else:
                self._write_folder(root / cell_key(slug, digest), files)
            if held and (len(held) == self.part_size or number == len(cells)):
                n_bytes = sum(cell.folder.n_bytes for cell in held)
                assert n_bytes <= MAX_HELD_BYTES, f"no lane holds {n_bytes} bytes: take a smaller part_size"
                write_part(store.folder, held)
                held = []
        store.write_plan(_plan(cells))
        return root

    def _specs(self) -> Iterator[tuple[CellSpec, str]]:
        """Yield cells method by method and seed by seed within a setting, as few settings as the number needs."""
        n_left = self.n_cells
        for model in MODELS:
            for dataset in DATASETS:
                for method in _methods():
                    if n_left == 0:
                        return
                    values = {**method, "dataset": dataset, "model": model, "rounds": self.n_rounds - 1}
                    if self.part_size:
                        values["finetune"] = {"frozen_layers": "all"}
                    spec = make_spec({**values, "seed": 0}, "made study")
                    name = "-".join(_parts(spec))
                    for seed in range(FIRST_SEED, FIRST_SEED + min(self.n_seeds, n_left)):
                        n_left -= 1
                        yield spec.changed(seed=seed), f"{name}-s{seed}"

    def _files_of(self, spec: CellSpec, slug: str, digest: str) -> dict[str, bytes]:
        """Return the files of a cell; arrays that no report reads are all the same, or noise where it is packed."""
        n_classes = N_CLASSES.get(spec.dataset_name(), 2)
        if n_classes not in self._templates:
            self._templates[n_classes] = _Templates(n_classes)
        head = {"format": 1, "slug": slug, "fingerprint": digest, "created_at": TIME, "spec": spec.to_json()}
        files = {"spec.json": json_file(head), "provenance.json": json_file([{"time": TIME, **PROVENANCE}])}
        files |= self._templates[n_classes].rounds(spec, self.n_rounds, has_own_arrays=self.part_size > 0)
        final = {"n_rounds": self.n_rounds + 1, "n_labeled": self.n_rounds * QUERY_SIZE, "final": {"accuracy": 0.9}}
        files["done.json"] = json_file({"format": 1, "finished_at": TIME, "summary": final})
        return files

    def _write_folder(self, folder: Path, files: dict[str, bytes]) -> None:
        """Write a cell, its unread arrays as names of one file."""
        folder.mkdir()
        for name, data in files.items():
            templates = [each for each in self._templates.values() if each.unread is data]
            if not templates:
                (folder / name).write_bytes(data)
                continue
            shared = self.storage / f"unread-{templates[0].n_classes}.parquet"
            if not shared.exists():
                shared.write_bytes(data)
            os.link(shared, folder / name)


class _Templates:
    """Texts and arrays that cells share."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        draws = stream(0, "made", n_classes)
        self._draws = draws
        self.parts_of = once_a_kind(_parts)
        self._probs = [_json(_beliefs(draws, n_classes, QUERY_SIZE).tolist()) for _ in range(N_TEMPLATES)]
        self._scores = [_json(np.sort(draws.random(QUERY_SIZE))[::-1].tolist()) for _ in range(N_TEMPLATES)]
        self._tests = [_test_table(draws, n_classes) for _ in range(N_TEMPLATES)]
        self._files = [encode_tables({"test": table}) for table in self._tests]
        self._train = encode_tables({"test": self._tests[0], "train": _test_table(draws, n_classes, N_TRAIN)})
        self.unread = bytes(bytearray(self._files[0]))  # arrays of rounds that no report reads

    def rounds(self, spec: CellSpec, n_rounds: int, *, has_own_arrays: bool) -> dict[str, bytes]:
        """Return the files of all rounds of a cell."""
        files: dict[str, bytes] = {}
        draws = stream(spec.seed, "made", *self.parts_of(spec))
        if spec.strategy.labels_everything:
            return self._passive()
        ids = draws.permutation(N_TRAIN)[: QUERY_SIZE * n_rounds].reshape(n_rounds, QUERY_SIZE)
        labels = draws.integers(self.n_classes, size=ids.shape)
        gain = draws.normal(0.02 * (spec.strategy.name != "random"), 0.01)
        picks = draws.integers(N_TEMPLATES, size=(n_rounds + 1, 2))
        self._write(files, 0, 0, ids[0], labels[0], {}, None, "")
        for index in range(1, n_rounds + 1):
            is_last = index == n_rounds
            accuracy = 0.9 - 0.5 * np.exp(-index / 5) + gain + draws.normal(0, 0.01)
            metrics = {**self._metrics(picks[index, 0]), "accuracy": float(accuracy)}
            asked = (ids[:0], labels[:0]) if is_last else (ids[index], labels[index])
            stop = f"all {n_rounds - 1} rounds done" if is_last else ""
            self._write(files, index, index * QUERY_SIZE, *asked, metrics, picks[index], stop)
            if not is_last:
                files[round_file(index, "parquet")] = draws.bytes(UNREAD_BYTES) if has_own_arrays else self.unread
        own = {"test": _test_table(draws, self.n_classes)} if has_own_arrays else {}
        files[round_file(n_rounds, "parquet")] = encode_tables(own) if own else self._files[picks[-1, 0]]
        return files

    def _passive(self) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        ids = np.arange(N_TRAIN)
        nothing = ids[:0]
        self._write(files, 0, 0, ids, ids % self.n_classes, {}, None, "")
        tables = {"test": N_TEST, "train": N_TRAIN}
        metrics = {**self._metrics(0), "accuracy": 0.95}
        self._write(files, 1, N_TRAIN, nothing, nothing, metrics, (0, 0), "everything is labelled", tables)
        files[round_file(1, "parquet")] = self._train
        return files

    def _metrics(self, pick: int) -> dict[str, float]:
        table = self._tests[pick]
        return evaluate(table["log_probs"].astype(np.float64), table["label"])

    def _write(
        self,
        files: dict[str, bytes],
        index: int,
        n_labeled: int,
        ids: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        metrics: dict[str, float],
        picks: Any,
        stop: str,
        tables: dict[str, int] | None = None,
    ) -> None:
        asks = len(ids) == QUERY_SIZE and picks is not None
        scores = "SCORES" if asks else [0.0] * len(ids)
        probs = "PROBS" if asks else [] if index else None
        record = {
            "round_index": index,
            "n_labeled": n_labeled,
            "query": {"ids": ids.tolist(), "scores": scores, "probs": probs},
            "annotation": {"labels": labels.tolist(), "abstained": [False] * len(ids)},
            "metrics": metrics,
            "seconds": SECONDS if index else {},
            "stop_reason": stop or None,
            "checkpoint": None,
        }
        text = _json(record)
        if asks:
            text = text.replace('"SCORES"', self._scores[picks[1]]).replace('"PROBS"', self._probs[picks[0]])
        rows = tables or ({"test": N_TEST} if index else {})
        digest = hashlib.sha256(text.encode("ascii")).hexdigest()
        whole = f'{{"format":1,"record":{text},"recorded_at":"{TIME}","sha256":"{digest}","tables":{_json(rows)}}}'
        files[round_file(index)] = whole.encode("ascii")


def _methods() -> list[dict[str, Any]]:
    """Return 50 methods: 8 confidences x 3 strategies, clipped and not, random and passive."""
    pairs = [(confidence, strategy) for confidence in CONFIDENCES for strategy in STRATEGIES]
    found = [
        {"confidence": confidence, "strategy": strategy, "filters": filters}
        for confidence, strategy in pairs
        for filters in ((), CLIPPING)
    ]
    return [{"strategy": "random"}, {"strategy": "passive"}, *found]


def _parts(spec: CellSpec) -> list[str]:
    """Return what the name of a cell is joined of, the seed aside."""
    (names,) = name_cells([spec])
    return [names.dataset, names.model, *names.method.labels]


def _plan(cells: list[tuple[CellSpec, str, str]]) -> dict[str, Any]:
    rows, parts_of = [], once_a_kind(_parts)
    for spec, slug, digest in cells:
        dataset, model, *method = parts_of(spec)
        names = {"dataset": dataset, "model": model, "method": " + ".join(method), "variant": ""}
        rows.append({"slug": slug, "fingerprint": digest, **names, "strategy": spec.strategy.name, "seed": spec.seed})
    return {"format": 1, "study": "made", "cells": rows, "datasets": {name: _note(name) for name in DATASETS}}


def _note(name: str) -> dict[str, Any]:
    n_classes = N_CLASSES.get(name, 2)
    counts = [N_TRAIN // n_classes] * n_classes
    names = [f"class {at}" for at in range(n_classes)]
    return {"class_names": names, "class_counts": counts, "group_counts": None, "n_train": sum(counts),
            "n_test": N_TEST, "source": "made up"}  # fmt: skip


def _test_table(draws: np.random.Generator, n_classes: int, n: int = N_TEST) -> dict[str, npt.NDArray[Any]]:
    log_probs = np.log(_beliefs(draws, n_classes, n))
    labels = np.where(draws.random(n) < 0.85, log_probs.argmax(axis=1), draws.integers(n_classes, size=n))
    return {"id": np.arange(n), "label": labels.astype(np.int64), "log_probs": log_probs.astype(np.float32)}


def _beliefs(draws: np.random.Generator, n_classes: int, n: int) -> npt.NDArray[np.float64]:
    logits = draws.normal(0, 2.0, size=(n, n_classes))
    probs = np.exp(logits)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
