"""Paired comparisons of methods over the cells that both have, and how many more seeds would settle them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.errors import ConfigError, DataError, unknown_name
from al_ray.report.stats.bootstrap import N_RESAMPLES, Interval, mean_intervals
from al_ray.report.stats.wilcoxon import DECIMALS, SignedRank, fewest_pairs, holm, signed_rank, smallest_p_value


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method against another, paired by data set, model and seed.

    Attributes:
        method: whose gain a positive ``difference`` is.
        against: the other one.
        n_pairs: blocks where both have a value, at least one.
        difference: mean of ``method - against`` over them.
        interval: of that mean (stratified bootstrap), None where there is too little data.
        p_value: Wilcoxon signed-rank, two-sided, uncorrected; None where ``refusal`` says why.
        p_holm: the same after Holm's correction over the family; None where refused.
        refusal: one sentence why there is no p-value; None where there is one.
        effect_size: matched-pairs rank-biserial correlation in [-1, 1] (Kerby 2014); None where refused.
        wins: pairs in which ``method`` is better.
        ties: pairs that are equal at 12 decimals.
        losses: pairs in which it is worse.
        more_seeds: further seeds on every data set and model that a difference of this size would need before it could
            be told from none, at the strictest step of Holm's correction; 0 = there are enough, None = nobody can say.
    """

    EFFECT_NAME: ClassVar[str] = "rank-biserial r"

    method: str
    against: str
    n_pairs: int
    difference: float
    interval: Interval | None
    p_value: float | None
    p_holm: float | None
    refusal: str | None
    effect_size: float | None
    wins: int
    ties: int
    losses: int
    more_seeds: int | None

    def __post_init__(self) -> None:
        assert math.isfinite(self.difference), "an unknown number is None, never NaN"
        assert self.wins + self.ties + self.losses == self.n_pairs
        assert (self.p_value is None) == (self.p_holm is None), "a p-value is shown corrected or not at all"
        assert (self.p_value is None) == bool(self.refusal), "where there is no p-value, a sentence says why"

    def is_significant(self, alpha: float) -> bool:
        """Return whether the corrected p-value is below ``alpha``; never true where it was refused."""
        return self.p_holm is not None and self.p_holm < alpha

    def swapped(self) -> "Comparison":
        """Return the same comparison seen from the other method."""
        return replace(
            self,
            method=self.against,
            against=self.method,
            difference=0.0 - self.difference,
            interval=self.interval.mirrored() if self.interval else None,
            effect_size=None if self.effect_size is None else 0.0 - self.effect_size,
            wins=self.losses,
            losses=self.wins,
        )


def compare_with_baseline(
    values: pd.DataFrame, strata: Sequence[str], *, baseline: str, alpha: float, n_resamples: int = N_RESAMPLES
) -> tuple[Comparison, ...]:
    """Compare every method with one baseline; Holm's family is the methods that share a block with it.

    Args:
        values: ``[n_blocks, n_methods]``, higher = better, NaN = missing.
        strata: data set x model of every block ``[n_blocks]``.
        baseline: a column, mostly random queries.
        alpha: level of significance, after correction.
        n_resamples: of the bootstrap.

    Raises:
        ConfigError: the baseline is no column.
        DataError: a value is infinite, or two columns have one name.
    """
    if baseline not in values.columns:
        raise ConfigError(unknown_name("baseline", baseline, map(str, values.columns)))
    assert len(strata) == len(values), "one stratum per block"
    matrix, names = checked_matrix(values), np.asarray(strata, dtype=np.str_)
    columns = {str(method): matrix[:, at] for at, method in enumerate(values.columns)}
    reference = columns.pop(baseline)
    # Taken in one direction, whichever was asked, so that swapping a pair mirrors its interval exactly.
    differences = {
        method: column - reference if method < baseline else reference - column
        for method, column in columns.items()
        if np.isfinite(column - reference).any()
    }
    if not differences:
        return ()
    intervals = mean_intervals(np.column_stack(list(differences.values())), names, n_resamples=n_resamples)
    # Sorted, so that sums do not depend on the order of the blocks.
    pairs = {method: np.sort(each[np.isfinite(each)]) for method, each in differences.items()}
    tests = [signed_rank(pair, alpha) for pair in pairs.values()]
    adjusted = holm([test.p_value for test in tests])
    n_tests = sum(p is not None for p in adjusted)
    found = []
    for (method, pair), interval, test, p_holm in zip(pairs.items(), intervals, tests, adjusted, strict=True):
        n_strata = len(np.unique(names[np.isfinite(differences[method])]))
        n_left_out = int((np.isfinite(columns[method]) ^ np.isfinite(reference)).sum())
        one = Comparison(
            method=min(method, baseline),
            against=max(method, baseline),
            n_pairs=len(pair),
            difference=float(pair.mean()),
            interval=interval,
            p_value=test.p_value,
            p_holm=p_holm,
            refusal=_refusal(test, n_left_out, alpha),
            effect_size=None if test.p_value is None else test.rank_biserial,
            wins=test.n_positive,
            ties=test.n - test.n_nonzero,
            losses=test.n_nonzero - test.n_positive,
            more_seeds=more_seeds(pair, n_strata, alpha / max(n_tests, 1)),
        )
        if one.is_significant(alpha):
            one = replace(one, more_seeds=0)
        found.append(one if one.method == method else one.swapped())
    return tuple(found)


def checked_matrix(values: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the frame as float64 ``[n_blocks, n_methods]``, NaN = missing.

    Raises:
        DataError: a value is infinite, or two columns have one name.
    """
    doubled = values.columns[values.columns.duplicated()]
    if len(doubled):
        raise DataError(f"two columns are named {str(doubled[0])!r}, each method must have one. Merge or rename them.")
    matrix = values.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.argwhere(np.isinf(matrix))
    if len(infinite):
        row, column = infinite[0]
        raise DataError(
            f"method {str(values.columns[column])!r} is {matrix[row, column]} in block {values.index[row]!r}, values "
            "must be finite, or NaN where a cell is missing. Look at that cell's record."
        )
    return np.asarray(matrix, dtype=np.float64)


def _refusal(test: SignedRank, n_left_out: int, alpha: float) -> str | None:
    if test.p_value is not None:
        return None
    left_out = f" {n_left_out} blocks were left out because one of the two is missing." if n_left_out else ""
    if not test.n_nonzero:
        what = f"All {test.n} pairs are equal" if test.n > 1 else "The only pair is equal"
        return f"{what}, so there is no difference to test.{left_out}"
    return (
        f"{test.n_nonzero} of {test.n} pairs differ, and a test below {alpha:g} takes at least {fewest_pairs(alpha)}: "
        f"the smallest p-value that {test.n_nonzero} can give is {smallest_p_value(test.n_nonzero):.4g}. "
        f"Run more seeds.{left_out}"
    )


WILCOXON_EFFICIENCY = 3 / math.pi
"""Pairs that a paired t test needs for each one of the signed-rank test, on normal differences: 0.955.

The asymptotic relative efficiency (Hodges and Lehmann 1956, doi 10.1214/aoms/1177728261); never below 0.864.
"""

POWER = 0.8
"""Chance of finding a difference for which further seeds are counted."""

MAX_PAIRS = 1000
"""Pairs above which a difference is called noise at this size."""


def more_seeds(differences: npt.NDArray[np.float64], n_strata: int, alpha: float) -> int | None:
    """Return how many more seeds the observed mean difference needs to become significant; 0 where it has enough.

    The paired t test's noncentral power at the observed spread of differences, over the efficiency of the signed-rank
    test. The spread is an estimate too, so below some 10 pairs the answer is only an order of magnitude, and it
    inherits the observed difference's own luck besides.

    Args:
        differences: of the pairs at hand ``[n_pairs]``.
        n_strata: data sets x models among them, each of which gets the further seeds.
        alpha: level of the test, divided by the tests of its family.

    Returns:
        None where one pair shows no spread, and where it would take more than `MAX_PAIRS`.
    """
    n = len(differences)
    if n < 2:
        return None
    alike = np.ptp(np.round(differences, DECIMALS)) == 0  # else rounding would pass for spread
    spread, size = 0.0 if alike else float(np.std(differences, ddof=1)), abs(float(differences.mean()))
    effect = size / spread if spread > 0 else math.inf if size > 0 else 0.0
    needed = pairs_for_power(effect, alpha)
    return None if needed is None else math.ceil(max(needed - n, 0) / n_strata)


def pairs_for_power(effect: float, alpha: float) -> int | None:
    """Return how many pairs a two-sided signed-rank test needs for `POWER`, or None for more than `MAX_PAIRS`.

    Args:
        effect: difference over the standard deviation of differences (Cohen's d_z), at least 0; may be infinite.
        alpha: level of the test.
    """
    low, high = 2, math.floor(MAX_PAIRS * WILCOXON_EFFICIENCY)
    if t_power(effect, high, alpha) < POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if t_power(effect, middle, alpha) >= POWER else (middle + 1, high)
    return max(fewest_pairs(alpha), math.ceil(low / WILCOXON_EFFICIENCY))


def t_power(effect: float, n: int, alpha: float) -> float:
    """Return the power of the two-sided paired t test with ``n`` pairs (Cohen 1988; noncentral t)."""
    from scipy.stats import nct, t

    bound = float(t.ppf(1 - alpha / 2, n - 1))
    shift = min(effect, 10.0) * math.sqrt(n)  # scipy's tails fail far out; 10 is certain to be found anyway
    tails = np.asarray([nct.sf(bound, n - 1, shift), nct.cdf(-bound, n - 1, shift)], dtype=np.float64)
    return float(np.nan_to_num(tails, nan=0.0).sum())  # the lower tail is NaN where it vanishes
