"""One total order per round: score first, ties by a hash of example id and seed."""

import numpy as np

from al_ray.core.seeding import tie_keys
from al_ray.core.types import FloatArray, IntArray, Query, Ranking, check_finite
from al_ray.errors import RoundError


def rank(ids: IntArray, scores: FloatArray, seed: int, what: str = "the query strategy") -> Ranking:
    """Order candidates by falling score; equal scores fall back to a hash, so pool order never matters.

    Args:
        ids: candidates ``[n_candidates]``.
        scores: acquisition values ``[n_candidates]``, high = query first.
        seed: the cell's seed; it settles ties.
        what: who gave the scores, for the error message.

    Raises:
        RoundError: a score is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    check_finite(ids, values, what)
    order = np.lexsort((tie_keys(ids, seed), -values))
    return Ranking(ids=ids[order], scores=values[order])


def take(ranking: Ranking, query_size: int, round_index: int, n_labeled: int) -> Query:
    """Take the first ``query_size`` candidates.

    Raises:
        RoundError: fewer candidates are left.
    """
    if len(ranking) < query_size:
        raise RoundError(
            f"pool exhausted in round {round_index}: {len(ranking)} candidates left after filters, "
            f"query_size is {query_size}. Lower query_size or stop at {n_labeled} labels."
        )
    return Query(ids=ranking.ids[:query_size], scores=ranking.scores[:query_size])
