"""The Wilcoxon signed-rank test of paired differences, exact for small samples with ties, and Holm's correction.

Zeros and ties: differences are rounded to `DECIMALS` first, so that 0.3 - 0.1 and 0.2 tie as they should. Zeros are
ranked with the rest and then left out of both rank sums (Pratt 1959, doi 10.1080/01621459.1959.10501526): dropping them
before ranking, as Wilcoxon did, can turn a small effect into a significant one. Ties get the mean of their ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from al_ray.core.types import FloatArray

DECIMALS = 12
"""Differences are compared at this many decimals: far below one test item, far above the rounding of float64."""

MAX_EXACT = 50
"""Non-zero differences up to which the p-value is exact; its null distribution then has at most 2**50 sign patterns."""


@dataclass(frozen=True, kw_only=True)
class SignedRank:
    """The Wilcoxon signed-rank test of one set of paired differences (Wilcoxon 1945, doi 10.2307/3001968).

    Attributes:
        n: differences, zeros included.
        n_nonzero: those that are not zero at `DECIMALS`.
        n_positive: those above zero.
        plus, minus: sums of the ranks of the positive and of the negative differences (mid-ranks, Pratt's zeros).
        p_value: two-sided, in (0, 1]; exact over all sign patterns of the ranks at hand, up to `MAX_EXACT` non-zero
            differences; above, normal, corrected for ties and zeros, without continuity correction (scipy). None where
            even n_nonzero differences of one sign could not reach ``alpha``.
    """

    n: int
    n_nonzero: int
    n_positive: int
    plus: float
    minus: float
    p_value: float | None

    @property
    def rank_biserial(self) -> float:
        """Matched-pairs rank-biserial correlation, in [-1, 1]; 0 where all differences are zero.

        The share of the rank sum that speaks for the method minus the share against it (King and Minium 2003; Kerby
        2014, doi 10.2466/11.IT.3.1).
        """
        total = self.plus + self.minus
        return (self.plus - self.minus) / total if total else 0.0


def smallest_p_value(n_nonzero: int) -> float:
    """Return the least two-sided p-value that ``n_nonzero`` paired differences can give: 2 of their sign patterns."""
    return min(1.0, 2.0 ** (1 - n_nonzero))


def fewest_pairs(alpha: float) -> int:
    """Return how many non-zero differences a two-sided p-value below ``alpha`` takes at least; 6 for 0.05."""
    return math.floor(1 - math.log2(alpha)) + 1


def signed_rank(differences: FloatArray, alpha: float) -> SignedRank:
    """Test whether paired differences are symmetric about zero.

    Args:
        differences: finite ``[n]``.
        alpha: level of the test, only to tell when there is too little data for it.
    """
    rounded: npt.NDArray[np.float64] = np.asarray(differences, dtype=np.float64).round(DECIMALS)
    ranks, positive = _nonzero_ranks(rounded)
    plus, minus = float(ranks[positive].sum()), float(ranks[~positive].sum())
    n_nonzero = len(ranks)
    p_value: float | None = None
    if smallest_p_value(n_nonzero) < alpha:
        is_exact = n_nonzero <= MAX_EXACT
        p_value = _exact_p_value(ranks, max(plus, minus)) if is_exact else _asymptotic_p_value(rounded)
    n_positive = int(positive.sum())
    return SignedRank(
        n=len(rounded), n_nonzero=n_nonzero, n_positive=n_positive, plus=plus, minus=minus, p_value=p_value
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values so that the chance of any false finding in the family stays below alpha.

    Step-down: the i-th smallest of m is multiplied by m - i + 1 and never falls below the one before it (Holm 1979).
    The family is the tests that were made: entries without a p-value stay None and do not count.
    """
    tested = [at for at, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for step, at in enumerate(sorted(tested, key=lambda at: p_values[at] or 0.0)):
        least = min(1.0, max(least, (len(tested) - step) * (p_values[at] or 0.0)))
        adjusted[at] = least
    return adjusted


def _nonzero_ranks(rounded: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    from scipy.stats import rankdata

    nonzero = rounded != 0
    return rankdata(np.abs(rounded))[nonzero], rounded[nonzero] > 0


def _exact_p_value(ranks: npt.NDArray[np.float64], larger_sum: float) -> float:
    """Count sign patterns by rank sum; mid-ranks are doubled to whole numbers, so that ties stay exact."""
    doubled = np.rint(2 * ranks).astype(np.int64)
    chance = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(chance)
        shifted[rank:] = chance[: len(chance) - rank]
        chance = (chance + shifted) / 2
    return min(1.0, 2 * float(chance[round(2 * larger_sum) :].sum()))


def _asymptotic_p_value(rounded: npt.NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(rounded, zero_method="pratt", method="asymptotic", correction=False).pvalue)
