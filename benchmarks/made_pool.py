"""A pool without texts: features of every example, made up, in a file that is mapped, and a frozen learner on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from al_ray.core.types import RoundRecord
from al_ray.loop import learner
from al_ray.model.worker import SingleProcess
from al_ray.records.cell import CellStore
from al_ray.runtime.pool import Arrays, CellPool
from al_ray.storage.memory import MemoryFolder
from al_ray.study.cell import make_classifier, make_loop
from al_ray.study.spec import make_spec

WIDTH, N_CLASSES, N_TEST, N_QUERIES = 384, 6, 1_000, 3
BLOCK_ROWS = 50_000


@dataclass(frozen=True)
class MadePool:
    """Clouds of points of unit length around a centre a class, rows in no order.

    Attributes:
        features: of the pool ``[n, 384]`` float32, mapped.
        labels: of the pool ``[n]``.
        test: of the test split ``[1000, 384]``.
        test_labels: of the test split.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    test: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]

    @classmethod
    def make(cls, file: Path, n: int) -> "MadePool":
        """Write the features of a pool block by block."""
        draws = np.random.default_rng(0)
        centres = draws.normal(size=(N_CLASSES, WIDTH)).astype(np.float32)
        written = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(n, WIDTH))
        labels = draws.integers(N_CLASSES, size=n)
        for start in range(0, n, BLOCK_ROWS):
            written[start : start + BLOCK_ROWS] = _around(centres, labels[start : start + BLOCK_ROWS], draws)
        written.flush()
        test_labels = draws.integers(N_CLASSES, size=N_TEST)
        return cls(np.load(file, mmap_mode="r"), labels, _around(centres, test_labels, draws), test_labels)

    def run(self, strategy: Any, filters: Sequence[Any]) -> list[RoundRecord]:
        """Run the rounds of a cell of the frozen learner on this pool, which also has the features for embeddings."""
        values = {
            "dataset": "tickets",
            "model": "minilm",
            "rounds": N_QUERIES,
            "initial_size": 25,
            "query_size": 25,
            "seed": 1,
        }
        finetune = {"frozen_layers": "all"}
        confidence = {"name": "mc_dropout", "where": "head"} if strategy == "batch_bald" else "softmax"
        spec = make_spec(
            {**values, "strategy": strategy, "filters": filters, "confidence": confidence, "finetune": finetune},
            "made_pool",
        )
        arrays: Arrays = {"pool": self.features, "test": self.test}
        labels = {"pool": self.labels, "test": self.test_labels}
        tables = {name: pa.table({"id": np.arange(len(of)), "label": of}) for name, of in labels.items()}
        loop = make_loop(spec, N_CLASSES, tables)
        classifier = make_classifier(spec, loop, CellPool(tables=tables, encoded=lambda key: arrays), SingleProcess())
        return learner.run(loop, classifier, CellStore(MemoryFolder("memory"), "made", "0" * 64))


def _around(
    centres: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], draws: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw points around their classes' centres, at unit length ``[n, width]``."""
    points = centres[labels] + 2 * draws.standard_normal((len(labels), centres.shape[1]), dtype=np.float32)
    unit: npt.NDArray[np.float32] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit
