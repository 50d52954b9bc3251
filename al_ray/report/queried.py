"""What cells queried and what their models believed of it, in little memory: 50 million queries of 100,000 cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from al_ray.core.types import RoundRecord

N_BINS = 10

Bins = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]


def bin_of(confidence: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return the bin of each confidence, as :func:`al_ray.core.metrics.expected_calibration_error` has them."""
    values = np.asarray(confidence, dtype=np.float64)
    return np.clip(np.ceil(values * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)


def bin_sums(confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.floating]) -> Bins:
    """Return, for ten equal bins ``(a, b]`` of confidence, how many, sum of confidence, how many right ``[3, 10]``."""
    return bin_sums_by(np.zeros(len(confidence), np.int64), 1, confidence, correct)[0]


def bin_sums_by(
    group: npt.NDArray[np.int64], n_groups: int, confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.floating]
) -> Bins:
    """Return :func:`bin_sums` of each group ``[n_groups, 3, 10]``.

    Args:
        group: of each prediction ``[n]``.
        n_groups: of which some may have none.
        confidence: ``[n]``.
        correct: 1 where the prediction is right ``[n]``.
    """
    at, size = group * N_BINS + bin_of(confidence), n_groups * N_BINS
    sums = [np.bincount(at, weights, size).reshape(n_groups, N_BINS) for weights in (None, confidence, correct)]
    return np.stack([each.astype(np.float64) for each in sums], axis=1)


@dataclass(frozen=True)
class QueriedCell:
    """What one cell queried.

    Attributes:
        ids, labels: after the initial query, in the order of asking ``[n]``; label -1: the oracle abstained.
        sums: what was believed of the answered ones, binned ``[3, 10]``; see :func:`bin_sums`.
        brier: their mean Brier score; NaN without any.
    """

    ids: Ints
    labels: Ints
    sums: Bins
    brier: float


NOTHING = QueriedCell(np.empty(0, np.int64), np.empty(0, np.int64), np.zeros((3, N_BINS)), float("nan"))


def queried_cell(records: Sequence[RoundRecord]) -> QueriedCell:
    """Return what the rounds of a cell queried."""
    asked = [record for record in records if len(record.query) and record.round_index]
    if not asked:
        return NOTHING
    labels = np.concatenate([record.annotation.labels for record in asked])
    believed = [record for record in asked if record.query.probs is not None]
    confidence, brier, right = (
        beliefs(
            np.concatenate([record.query.probs for record in believed if record.query.probs is not None]),
            np.concatenate([record.annotation.labels for record in believed]),
        )
        if believed
        else (np.empty(0), np.empty(0), np.empty(0))
    )
    sums = bin_sums(confidence, right)
    return QueriedCell(
        np.concatenate([record.query.ids for record in asked]),
        labels,
        sums,
        float(np.bincount(np.zeros(len(brier), np.int64), brier)[0] / len(brier)) if len(brier) else float("nan"),
    )


def beliefs(probs: Floats, labels: Ints) -> tuple[Floats, Floats, Floats]:
    """Return confidence, Brier score and whether the belief was right, of the examples that were answered.

    Args:
        probs: what was believed of each queried example ``[n, n_classes]``.
        labels: what was answered ``[n]``; those with -1 are left out.
    """
    answered = labels >= 0
    probs, labels = probs[answered], labels[answered]
    of_answer = probs[np.arange(len(probs)), labels]
    brier = ((probs**2).sum(axis=1) - 2 * of_answer + 1).astype(np.float32)
    confidence = probs.max(axis=1, initial=0.0).astype(np.float32)
    right = probs.argmax(axis=1) == labels if len(probs) else np.empty(0)
    return tuple(np.asarray(each, dtype=np.float64) for each in (confidence, brier, right))  # type: ignore[return-value]


def _smallest_type(arrays: Sequence[Ints]) -> np.dtype[Any]:
    """Return the smallest type of signed integers that holds the values of all arrays; ids may be negative."""
    lowest = min((int(array.min(initial=0)) for array in arrays), default=0)
    highest = max((int(array.max(initial=0)) for array in arrays), default=0)
    return np.min_scalar_type(min(lowest, -highest - 1))


@dataclass(frozen=True)
class QueriedExamples:
    """What all cells of a study queried; cells are numbered as in the study's table of cells.

    Attributes:
        ids, labels: of all cells, one after the other ``[n]``.
        starts: where each cell's begin, and the end ``[n_cells + 1]``.
        sums: ``[n_cells, 3, 10]``.
        brier: ``[n_cells]``.
    """

    ids: Ints
    labels: Ints
    starts: npt.NDArray[np.int64]
    sums: Bins
    brier: Floats

    @classmethod
    def of(cls, cells: Sequence[QueriedCell]) -> "QueriedExamples":
        """Put cells one after the other, in the smallest types that hold them."""
        of_ids, of_labels = (_smallest_type([getattr(cell, name) for cell in cells]) for name in ("ids", "labels"))
        return cls(
            ids=np.concatenate([np.empty(0, of_ids), *(cell.ids.astype(of_ids) for cell in cells)]),
            labels=np.concatenate([np.empty(0, of_labels), *(cell.labels.astype(of_labels) for cell in cells)]),
            starts=np.cumsum([0, *(len(cell.ids) for cell in cells)], dtype=np.int64),
            sums=np.stack([cell.sums for cell in cells]) if cells else np.empty((0, 3, N_BINS)),
            brier=np.array([cell.brier for cell in cells], dtype=np.float64),
        )

    def has(self, cell: int) -> bool:
        """Tell whether a cell queried anything after its initial query."""
        return cell < len(self.brier) and bool(self.starts[cell + 1] > self.starts[cell])

    def ids_of(self, cell: int) -> Ints:
        """Return the ids that a cell queried."""
        return self.ids[self.starts[cell] : self.starts[cell + 1]]

    def labels_of(self, cell: int) -> Ints:
        """Return their labels."""
        return self.labels[self.starts[cell] : self.starts[cell + 1]]

    def believed(self, cell: int) -> bool:
        """Tell whether it is known what a cell's model believed of what it queried."""
        return cell < len(self.brier) and bool(self.sums[cell, 0].any())
