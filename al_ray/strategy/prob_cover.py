"""ProbCover: greedy cover of the pool by balls of one radius around labelled examples."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from al_ray.core.clustering import LLOYD_PAIRS, followed_by_rest, k_means
from al_ray.core.distances import nearest, row_blocks, single, squared_distance_blocks
from al_ray.core.seeding import tie_keys
from al_ray.core.types import BoolArray, Float32Array, FloatArray, IntArray, PoolView, Ranking
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

N_BISECTIONS = 6


@strategies.register("prob_cover")
@dataclass(frozen=True)
class ProbCover(QueryStrategy):
    """The example whose ball holds most of what no ball around a labelled or chosen example holds: for small budgets.

    Yehuda et al. 2022 (arXiv 2205.11320, algorithm 1) on unit-length embeddings of the pretrained encoder: x covers y
    where ||x - y|| < delta; edges into what labelled examples cover are removed, then the example of most edges is
    taken and what it covers is removed, again and again. Equal numbers of edges are settled by a hash of id and round.
    Where everything is covered, the rest is drawn at random.

    Deviation: pools of more than ``max_candidates`` are subsampled at random, anew in every round.
    Deviation: delta is estimated, as Gupte et al. 2024 (arXiv 2401.14555) do, by 6 bisections of [0, 1]; the result is
    the largest value tried that is pure enough, or 0 where none is: then each example covers itself alone.
    Deviation: without a given delta it is estimated anew in every round, on the candidates.

    Attributes:
        delta: radius of the balls; None = the largest whose balls are pure enough under k-means pseudo-classes.
        purity: share of the balls that hold one pseudo-class only; counts where delta is None.
        max_candidates: pool examples at most; memory is ``max_candidates``^2 / 8 bytes (50 MB).
    """

    source: ClassVar[str] = "Yehuda et al. 2022, arXiv 2205.11320"
    needs_scores: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    delta: (
        Annotated[
            float,
            Within(
                gt=0,
                le=2,
                right="it must be above 0 and at most 2, as embeddings have length 1",
                advice="0.75 is the authors' example; leave it out to have it estimated.",
            ),
        ]
        | None
    ) = None
    purity: Annotated[float, Within(gt=0, le=1, advice="0.95 is the paper's value.")] = 0.95
    max_candidates: Annotated[int, Within(ge=2, advice="20000 takes 50 MB of memory.")] = 20_000

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids, the one that covers most first."""
        assert pool.embeddings is not None, "prob_cover needs PoolView.embeddings"
        assert pool.labeled_embeddings is not None, "prob_cover needs PoolView.labeled_embeddings"
        # In the order of a hash the first of several best ones is a fair choice, and the first rows are a fair sample.
        order = np.argsort(tie_keys(pool.ids, int(stream.integers(2**62))))
        points = single(pool.embeddings[order[: self.max_candidates]].read())
        delta = self.delta
        if delta is None:
            delta = largest_pure_delta(points, min(pool.n_classes, len(points)), self.purity, stream)
        chosen = greedy_cover(points, _covered(points, pool.labeled_embeddings, delta), delta, n)
        return pool.ids[order[followed_by_rest(chosen, len(order))[:n]]]


def greedy_cover(points: Float32Array, covered: BoolArray, delta: float, n: int) -> IntArray:
    """Choose the points that cover most of what is not covered yet, one by one.

    Args:
        points: ``[n_points, n_features]``.
        covered: what is covered from the start ``[n_points]``.
        delta: every point covers itself and all that are nearer.
        n: how many at most.

    Returns:
        rows in the order of choice, fewer than ``n`` where all is covered; the lower row where two cover as many.
    """
    coverers = _coverers(points, delta)
    uncovered = ~covered
    n_covers = _count_covers(coverers, np.flatnonzero(uncovered), len(points))
    chosen: list[int] = []
    while len(chosen) < n and uncovered.any():
        row = int(np.argmax(n_covers))
        newly = np.flatnonzero(uncovered & _bit_column(coverers, row))
        chosen.append(row)
        uncovered[newly] = False
        n_covers -= _count_covers(coverers, newly, len(points))
    return np.asarray(chosen, dtype=np.int64)


def largest_pure_delta(points: Float32Array, n_clusters: int, purity: float, stream: np.random.Generator) -> float:
    """Return the largest radius, of those that 6 bisections of [0, 1] try, whose balls are mostly of one cluster.

    Args:
        points: ``[n_points, n_features]``.
        n_clusters: k-means clusters that stand for classes.
        purity: share of the points that may have no point of another cluster in their ball.
        stream: for k-means.
    """
    centres = k_means(points, n_clusters, stream, mini_batch=n_clusters * len(points) > LLOYD_PAIRS)
    strangers = distances_to_other_clusters(points, nearest(points, centres)[0])
    low, high = 0.0, 1.0
    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        if (strangers >= middle).mean() >= purity:
            low = middle
        else:
            high = middle
    return low


def distances_to_other_clusters(points: Float32Array, cluster: IntArray) -> Float32Array:
    """Return how far the nearest point of another cluster is ``[n_points]``, infinite where there is only one."""
    result = np.empty(len(points), dtype=np.float32)
    for rows, squared in squared_distance_blocks(points):
        squared[cluster[rows, None] == cluster] = np.inf
        result[rows] = np.sqrt(squared.min(axis=1))
    return result


def _covered(points: Float32Array, labeled: FloatArray, delta: float) -> BoolArray:
    if not len(labeled):
        return np.zeros(len(points), dtype=np.bool_)
    return nearest(points, labeled)[1] < delta**2


def _coverers(points: Float32Array, delta: float) -> npt.NDArray[np.uint8]:
    """Return, packed eight to a byte, which points cover each point ``[n_points, n_points / 8]``."""
    coverers = np.empty((len(points), (len(points) + 7) // 8), dtype=np.uint8)
    for rows, squared in squared_distance_blocks(points):
        near = squared < np.float32(delta**2)
        near[np.arange(len(near)), np.arange(rows.start, rows.stop)] = True
        coverers[rows] = np.packbits(near, axis=1)
    return coverers


def _count_covers(coverers: npt.NDArray[np.uint8], rows: IntArray, n_points: int) -> IntArray:
    """Return how many of some points each point covers ``[n_points]``."""
    counts = np.zeros(n_points, dtype=np.int64)
    for block in row_blocks(len(rows), n_points):
        counts += np.unpackbits(coverers[rows[block]], axis=1, count=n_points).sum(axis=0, dtype=np.int64)
    return counts


def _bit_column(coverers: npt.NDArray[np.uint8], column: int) -> BoolArray:
    return (coverers[:, column // 8] >> (7 - column % 8)) & 1 == 1
