"""MaxHerding: greedy cover of the pool by soft balls, Gaussian kernels round labelled examples."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.clustering import followed_by_rest
from al_ray.core.distances import nearest, row_blocks, single, squared_distances, squared_norms
from al_ray.core.seeding import tie_keys
from al_ray.core.types import Float32Array, Float64Array, IntArray, PoolView, Ranking
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

BLOCK_ROWS = 128
"""Candidates whose gain is computed anew at once."""

NO_GAIN = 1e-6
"""A mean gain below this is zero but for float32 kernels, and counts as zero."""


@strategies.register("max_herding")
@dataclass(frozen=True)
class MaxHerding(QueryStrategy):
    """The example that brings the pool nearest to labelled and chosen ones by a soft measure: for small budgets.

    Generalized coverage (Bae et al. 2024, arXiv 2407.12212): the mean, over the candidates x, of the largest k(x, y) of
    all labelled or chosen y, where k is exp(-||x - y||^2 / sigma^2) on unit-length embeddings of the pretrained
    encoder. What adds most to it is taken, again and again. ProbCover is the same with a kernel of 0 or 1, and hangs
    on its radius. Gains never grow, so that only candidates whose last known gain is large enough are looked at again;
    the choice is the same. Equal gains are settled by a hash of id and round.

    Deviation: pools of more than ``max_candidates`` are subsampled at random, anew in every round; the mean is over
    that sample.
    Deviation: a mean gain below 1e-6 counts as none.

    Attributes:
        sigma: width of the kernel; the authors' code has 1 for all its data sets.
        max_candidates: pool examples at most; time grows with the square.
    """

    source: ClassVar[str] = "Bae et al. 2024, arXiv 2407.12212"
    needs_scores: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    sigma: Annotated[float, Within(ge=0.01, le=100, advice="1 is the authors' value for unit length.")] = 1.0
    max_candidates: Annotated[int, Within(ge=2, advice="20000 takes some 40 s of CPU time.")] = 20_000

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids, the one that adds most to the coverage first."""
        assert pool.embeddings is not None, "max_herding needs PoolView.embeddings"
        assert pool.labeled_embeddings is not None, "max_herding needs PoolView.labeled_embeddings"
        # In the order of a hash the first of several best ones is a fair choice, and the first rows are a fair sample.
        order = np.argsort(tie_keys(pool.ids, int(stream.integers(2**62))))
        points = single(pool.embeddings[order[: self.max_candidates]].read())
        covered = np.zeros(len(points), dtype=np.float32)
        if len(pool.labeled):
            covered = np.exp(-nearest(points, pool.labeled_embeddings)[1] / self.sigma**2).astype(np.float32)
        chosen = greedy_coverage(_Kernel(points, self.sigma), covered, min(n, len(points)))
        return pool.ids[order[followed_by_rest(chosen, len(order))[:n]]]


class _Kernel:
    """Gaussian kernel of some points with all points, computed where it is asked for."""

    def __init__(self, points: Float32Array, sigma: float) -> None:
        self._points, self._norms = points, squared_norms(points).astype(np.float32)
        self._scale = np.float32(-1 / sigma**2)

    def __len__(self) -> int:
        return len(self._points)

    def rows(self, rows: IntArray) -> Float32Array:
        """Return the kernel of some points, given by their rows, with all ``[n_rows, n_points]``."""
        squared = squared_distances(self._points[rows], self._points, self._norms[rows], self._norms)
        squared *= self._scale
        return np.exp(squared, out=squared)


def greedy_coverage(kernel: _Kernel, covered: Float32Array, n: int) -> IntArray:
    """Choose the points that add most to the mean, over all points, of the largest kernel with a chosen one.

    Args:
        kernel: of all points with one another.
        covered: largest kernel of each with a labelled example ``[n_points]``; 0 without any.
        n: how many, at most ``n_points``.

    Returns:
        rows ``[n]`` in the order of choice, unique; the lower row where two add as much.
    """
    covered = covered.copy()
    gains = np.empty(len(kernel))
    for block in row_blocks(len(kernel), len(kernel)):
        gains[block] = _gains(kernel.rows(np.arange(block.start, block.stop)), covered)
    chosen: list[int] = []
    is_new = np.ones(len(kernel), dtype=np.bool_)
    while True:
        while not is_new[row := int(np.argmax(gains))]:
            # What is old is as large as it was or smaller now: the largest of all has to be of those that are new.
            old = np.flatnonzero(~is_new)
            rows = old[np.argsort(-gains[old], kind="stable")[:BLOCK_ROWS]]
            gains[rows] = _gains(kernel.rows(rows), covered)
            is_new[rows] = True
        chosen.append(row)
        if len(chosen) == n:
            return np.asarray(chosen, dtype=np.int64)
        np.maximum(covered, kernel.rows(np.asarray([row]))[0], out=covered)
        gains[row] = -1.0
        is_new[:] = False
        is_new[chosen] = True


def _gains(kernel: Float32Array, covered: Float32Array) -> Float64Array:
    """Return what each row of a kernel ``[n_rows, n_points]``, which is overwritten, adds to the mean ``[n_rows]``."""
    kernel -= covered
    np.maximum(kernel, 0.0, out=kernel)
    gains = kernel.mean(axis=1, dtype=np.float64)
    return np.where(gains > NO_GAIN, gains, 0.0)
