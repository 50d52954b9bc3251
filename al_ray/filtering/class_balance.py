"""Class balancing: query so that the answers of all classes become equally many."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.types import BoolArray, IntArray, PoolView, Ranking
from al_ray.filtering import CandidateFilter, filters


@filters.register("class_balance")
@dataclass(frozen=True)
class ClassBalance(CandidateFilter):
    """Give every class a quota in the query, the rarest answers so far first (after Aggarwal et al. 2020, WACV).

    The quotas bring labelled plus query as near to balanced as they can be, as if every prediction were right. The
    ranking is walked down and each candidate taken while the quota of its predicted class lasts; places that the
    candidates cannot fill go to the best of the rest. What ranks before the last one taken and was not taken is
    removed, so that the first ``query_size`` of what is left are those chosen. It changes what a strategy asks that
    takes the top of the ranking; one that draws from further down is held to no quota.

    Deviation: the paper balances several acquisition functions of its own in this spirit; walking the ranking of any
    strategy, and the exact quotas, are our own. The predicted class is that of the mean over the draws.
    """

    source: ClassVar[str] = "Aggarwal et al. 2020, WACV"
    clips: ClassVar[bool] = True
    needs_probs: ClassVar[bool] = True

    def apply(self, ranking: Ranking, pool: PoolView, query_size: int) -> Ranking:
        """Return the ranking without those that have to stand back for a rarer class."""
        if len(ranking) <= query_size or not query_size:
            return ranking
        answered = np.bincount(pool.labeled.labels, minlength=pool.n_classes)
        taken = _take(_predicted(ranking, pool), quotas(answered, query_size), query_size)
        taken[np.flatnonzero(taken)[-1] :] = True
        return Ranking(ids=ranking.ids[taken], scores=ranking.scores[taken])

    def n_removed(self, n_candidates: int, query_size: int) -> int:
        """Return all but the query: the last one taken may be the last of the ranking."""
        return max(n_candidates - query_size, 0)


def quotas(answered: IntArray, query_size: int) -> IntArray:
    """Deal out the query so that answers and query together are as near to balanced as possible.

    Each place goes to the class that has fewest by then; the lower class index where several have.

    Args:
        answered: answers so far by class ``[n_classes]``.
        query_size: places to deal out.

    Returns:
        places by class ``[n_classes]``, summing to ``query_size``.
    """
    filled = answered.copy()
    for _ in range(query_size):
        filled[np.argmin(filled)] += 1
    return filled - answered


def _predicted(ranking: Ranking, pool: PoolView) -> IntArray:
    assert pool.log_probs.shape[1], "class_balance reads probabilities"
    return pool.probs().argmax(axis=1)[np.searchsorted(pool.ids, ranking.ids)]


def _take(predicted: IntArray, quota: IntArray, query_size: int) -> BoolArray:
    """Mark the first of each predicted class up to its quota, then the first of the rest up to the query size."""
    taken = np.zeros(len(predicted), np.bool_)
    for c, n in enumerate(quota):
        taken[np.flatnonzero(predicted == c)[:n]] = True
    taken[np.flatnonzero(~taken)[: query_size - int(taken.sum())]] = True
    return taken
