"""ICAL: examples whose labels depend most on the labels of the rest of the pool."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.distances import row_blocks
from al_ray.core.types import Float64Array, FloatArray, IntArray, PoolView, Ranking
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

STEPS_AT_ONCE = 100
"""Choices whose points are drawn together, so that all candidates are gone through once for all of them."""


@strategies.register("ical")
@dataclass(frozen=True)
class Ical(QueryStrategy):
    """The examples whose label says most about the labels of the pool, over the draws of the model.

    Information condensing active learning (Jain, Liu and Gifford 2020, arXiv 2002.07916). Each draw gives each
    candidate one label, sampled from what that draw predicts; a kernel of one-hot labels over pairs of draws
    ``[n_draws, n_draws]`` belongs to each candidate. The batch grows by the candidate that maximises the
    Hilbert-Schmidt independence criterion HSIC(mean kernel of ``n_pool_points`` random candidates, drawn anew every
    time; mean kernel of the batch with it). A draw has to be one model for all examples. Equal values are settled by
    the ranking, which is a hash of id and seed.

    Any kernel of one-hot labels has two values, one where labels are equal and one where they differ. HSIC centres
    kernels and is linear in each, so that these values change it by a factor and a constant, and so does what is
    already in the batch, for all candidates alike: they are left out, and the choice is the same for every kernel. It
    also means that nothing keeps near duplicates out of a batch but the points being drawn anew.

    Deviation: this is the plain form of the method, as in public code; the paper's pointwise variant is not here.

    Attributes:
        n_pool_points: candidates whose mean kernel stands for the pool.
    """

    source: ClassVar[str] = "Jain et al. 2020, arXiv 2002.07916"
    min_draws: ClassVar[int] = 2
    needs_consistent_draws: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    n_pool_points: Annotated[int, Within(ge=1, advice="200 is usual.")] = 200

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids in the order of choice."""
        assert len(ranking) == len(pool), "the ranking has other candidates than the pool"
        labels = sampled_labels(pool.log_probs, stream)[np.searchsorted(pool.ids, ranking.ids)]
        chosen: list[int] = []
        while len(chosen) < n:
            n_steps = min(STEPS_AT_ONCE, n - len(chosen))
            n_points = min(self.n_pool_points, len(pool))
            points = np.stack([stream.choice(len(pool), n_points, replace=False) for _ in range(n_steps)])
            for values in dependence_on(labels, points, pool.n_classes).T:
                values[chosen] = -1.0
                chosen.append(int(values.argmax()))
        return ranking.ids[chosen]


def sampled_labels(log_probs: FloatArray, stream: np.random.Generator) -> IntArray:
    """Draw a label of each example from every draw's prediction ``[n, n_draws, n_classes]`` -> ``[n, n_draws]``."""
    n, n_draws, n_classes = log_probs.shape
    labels = np.empty((n, n_draws), dtype=np.int64)
    for rows in row_blocks(n, n_draws * n_classes):
        cumulative = np.exp(np.asarray(log_probs[rows], dtype=np.float64)).cumsum(axis=2)
        at = stream.random(cumulative.shape[:2]) * cumulative[..., -1]
        labels[rows] = np.minimum((cumulative <= at[..., None]).sum(axis=2), n_classes - 1)
    return labels


def dependence_on(labels: IntArray, points: IntArray, n_classes: int) -> Float64Array:
    """Return HSIC of each candidate's kernel and each mean kernel of some points ``[n, n_steps]``, 0 or more.

    The kernel is 1 where two draws give the same label, else 0. All sums are of whole numbers, so that candidates whose
    labels agree in the same pairs of draws have bit-equal values.

    Args:
        labels: ``[n, n_draws]``.
        points: rows of ``labels`` ``[n_steps, n_points]``.
        n_classes: labels are below.
    """
    n, n_draws = labels.shape
    one, other = np.triu_indices(n_draws, 1)
    pairs = np.empty((len(one), len(points)))
    for step, rows in enumerate(points):
        votes = np.eye(n_classes)[labels[rows]].transpose(1, 0, 2).reshape(n_draws, -1)
        equal = votes @ votes.T
        sums = equal.sum(axis=0)
        # n_draws^2 times the centred kernel. All of it adds up to 0: the pairs that differ say what the equal ones do.
        centred = n_draws**2 * equal - n_draws * (sums[:, None] + sums) + sums.sum()
        pairs[:, step] = centred[one, other]
    values = np.empty((n, len(points)))
    for block in row_blocks(n, max(len(one), len(points))):
        differ = (labels[block][:, one] != labels[block][:, other]).astype(np.float64)
        values[block] = differ @ pairs
    return values * (-2.0 / (points.shape[1] * n_draws**4))
