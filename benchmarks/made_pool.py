"""A pool without texts: features of every example, made up, in a file that is mapped, and a frozen learner on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from al_ray.core.types import RoundRecord, Split
from al_ray.loop import learner
from al_ray.loop.ports import Arrays
from al_ray.model.finetune import FitSettings
from al_ray.model.frozen import FrozenClassifier
from al_ray.model.worker import SingleProcess
from al_ray.study.cell import make_loop
from al_ray.study.spec import make_spec

WIDTH, N_CLASSES, N_TEST, N_QUERIES = 384, 6, 1_000, 3
BLOCK_ROWS = 50_000


class MemoryRecords:
    """Rounds that stay where they are, instead of a folder."""

    def __init__(self) -> None:
        self._rounds: list[RoundRecord] = []
        self._arrays: list[Arrays] = []

    def rounds(self) -> list[RoundRecord]:
        """Return the rounds so far."""
        return list(self._rounds)

    def arrays(self, round_index: int) -> Arrays:
        """Return the arrays of a round."""
        return self._arrays[round_index]

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        """Keep a round."""
        self._rounds.append(record)
        self._arrays.append(arrays)


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
        import pyarrow as pa

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
        ids: dict[Split, npt.NDArray[np.int64]] = {"pool": np.arange(len(self.labels)), "test": np.arange(N_TEST)}
        truth = {"pool": self.labels, "test": self.test_labels}
        loop = make_loop(spec, N_CLASSES, {name: pa.table({"id": ids[name], "label": truth[name]}) for name in ids})
        features: dict[Split, npt.NDArray[np.float32]] = {"pool": self.features, "test": self.test}
        settings = FitSettings(
            recipe=spec.finetune,
            precision=spec.precision,
            n_classes=N_CLASSES,
            scoring_batch_size=spec.scoring_batch_size,
            seed=spec.seed,
            new_loss=spec.confidence.new_loss,
        )
        classifier = FrozenClassifier(
            features=features,
            ids=ids,
            settings=settings,
            worker=SingleProcess(),
            sampling=spec.confidence.sampling,
            embeddings=lambda: features,
        )
        return learner.run(loop, classifier, MemoryRecords())


def _around(
    centres: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], draws: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw points around their classes' centres, at unit length ``[n, width]``."""
    points = centres[labels] + 2 * draws.standard_normal((len(labels), centres.shape[1]), dtype=np.float32)
    unit: npt.NDArray[np.float32] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit
