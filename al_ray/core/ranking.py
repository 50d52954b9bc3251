"""One total order per round: score first, ties by a hash of example id and seed."""

import numpy as np

from al_ray.core.seeding import tie_keys
from al_ray.core.types import FloatArray, IntArray, Ranking, listed_ids
from al_ray.errors import RoundError


def rank(ids: IntArray, scores: FloatArray, seed: int, what: str = "the query strategy") -> Ranking:
    """Order candidates by falling score; equal scores fall back to a hash, so pool order never matters.

    Args:
        ids: candidates ``[n_candidates]``.
        scores: acquisition values ``[n_candidates]``, high = query first.
        seed: the cell's seed; it settles ties.
        what: who gave the scores, for the error message.

    Raises:
        RoundError: a score is not finite; the message names the examples, and none is replaced.
    """
    values = np.asarray(scores, dtype=np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        kind = "NaN" if np.isnan(values[bad][0]) else "infinite"
        raise RoundError(f"{what} gave a {kind} score for {int(bad.sum())} examples (ids {listed_ids(ids[bad])}).")
    order = np.lexsort((tie_keys(ids, seed), -values))
    return Ranking(ids=ids[order], scores=values[order])


def check_enough(ranking: Ranking, query_size: int, round_index: int, n_labeled: int) -> None:
    """Make sure that the filters left enough candidates for a query.

    Raises:
        RoundError: fewer than ``query_size`` are left.
    """
    if len(ranking) < query_size:
        raise RoundError(
            f"pool exhausted in round {round_index}: {len(ranking)} candidates left after filters, "
            f"query_size is {query_size}. Lower query_size or stop at {n_labeled} labels."
        )
