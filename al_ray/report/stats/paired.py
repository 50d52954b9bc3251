"""Paired comparisons of methods over the cells that both have, and how many more seeds would settle them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.errors import ConfigError, DataError, unknown_name
from al_ray.report.stats.bootstrap import MeanInterval, Resampled, mean_intervals
from al_ray.report.stats.wilcoxon import (
    DECIMALS,
    MAX_EXACT,
    SignedRank,
    fewest_pairs,
    holm,
    signed_rank,
    smallest_p_value,
)


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """How one method does against another on the blocks that both have; differences are ``method`` minus ``other``.

    Attributes:
        n_blocks: rows of the frame: n_pairs + n_left_out + n_absent.
        n_pairs: blocks where both have a value.
        n_left_out: blocks left out because one of the two is missing: method_missing + other_missing.
        method_missing, other_missing: blocks where only the other, or only the method, has a value.
        n_absent: blocks where neither has a value.
        n_strata: strata (data set x model) among the pairs.
        mean_difference, median_difference: over pairs, unit of the values; NaN without a pair.
        std_difference: sample standard deviation of the differences over all pairs; NaN below 2 pairs.
        low, high: stratified bootstrap interval of the mean difference; NaN with too little data.
        resampled: how the interval was resampled (see `al_ray.report.stats.bootstrap.MeanInterval`).
        n_borrowed: pairs that are alone in their stratum; the interval takes their variance from the others.
        wins, ties, losses: pairs with a difference above, within and below the tolerance.
        n_nonzero: pairs whose difference is not zero at 12 decimals, which is what the test is made from.
        p_value: two-sided Wilcoxon signed-rank test; None where ``reason`` says why there is none.
        p_kind: "exact" or "asymptotic".
        p_holm: p_value after Holm's correction over the family of comparisons.
        significant: p_holm is below the family's alpha.
        reason: why there is no p-value, in a sentence; None where there is one.
        rank_biserial: matched-pairs rank-biserial correlation in [-1, 1] (Kerby 2014); NaN without a pair.
        cohens_dz: mean_difference / std_difference (Cohen 1988); NaN without a spread.
    """

    method: str
    other: str
    n_blocks: int
    n_pairs: int
    n_left_out: int
    method_missing: int
    other_missing: int
    n_absent: int
    n_strata: int
    mean_difference: float
    median_difference: float
    std_difference: float
    low: float
    high: float
    resampled: Resampled | None
    n_borrowed: int
    wins: int
    ties: int
    losses: int
    n_nonzero: int
    p_value: float | None
    p_kind: str | None
    p_holm: float | None
    significant: bool
    reason: str | None
    rank_biserial: float
    cohens_dz: float

    def swapped(self) -> "PairedComparison":
        """Return the same comparison seen from the other method."""
        return replace(
            self,
            method=self.other,
            other=self.method,
            method_missing=self.other_missing,
            other_missing=self.method_missing,
            mean_difference=0.0 - self.mean_difference,
            median_difference=0.0 - self.median_difference,
            low=0.0 - self.high,
            high=0.0 - self.low,
            wins=self.losses,
            losses=self.wins,
            rank_biserial=0.0 - self.rank_biserial,
            cohens_dz=0.0 - self.cohens_dz,
        )


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """A family of paired comparisons, corrected together.

    Attributes:
        comparisons: in the order of the columns.
        n_tests: p-values in the family, by which Holm corrects.
        alpha: level of significance after correction.
        tolerance: largest absolute difference that counts as a tie.
        level: coverage of the intervals.
        n_resamples: of the bootstrap.
        note: a sentence where nothing in the family could have been significant, whatever the data; else None.
    """

    comparisons: tuple[PairedComparison, ...]
    n_tests: int
    alpha: float
    tolerance: float
    level: float
    n_resamples: int
    note: str | None

    @property
    def how(self) -> str:
        """How the numbers were made, in sentences for the foot of a table."""
        return (
            f"Two-sided Wilcoxon signed-rank test on paired differences (zeros by Pratt; exact up to {MAX_EXACT} "
            f"non-zero pairs, normal above), Holm's correction over {self.n_tests} tests, significant below "
            f"{self.alpha:g}. Intervals of the mean difference: {self.level:.0%}, expanded percentile bootstrap with "
            f"{self.n_resamples:,} resamples of blocks within data set and model. Ties: differences up to "
            f"{self.tolerance:g} either way. This speaks about these data sets over new seeds, not about other ones."
        )

    def of(self, method: str, other: str) -> PairedComparison:
        """Return the comparison of two methods, seen from the first.

        Raises:
            KeyError: the family has no such comparison.
        """
        for found in self.comparisons:
            if (found.method, found.other) == (method, other):
                return found
            if (found.method, found.other) == (other, method):
                return found.swapped()
        raise KeyError((method, other))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per comparison and one column per attribute."""
        return pd.DataFrame([asdict(found) for found in self.comparisons])


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a family of comparisons is made with.

    Attributes:
        alpha: level of significance, after correction.
        tolerance: largest absolute difference that counts as a tie in win / tie / loss; the test does not use it.
        level: coverage of the bootstrap intervals.
        n_resamples: of the bootstrap.
        seed: of the bootstrap's streams.
    """

    alpha: float = 0.05
    tolerance: float = 0.0
    level: float = 0.95
    n_resamples: int = 4000
    seed: int = 0


PAIRS_AT_ONCE = 512
"""Pairs of methods whose resamples are held in memory together: 16 MiB at 4,000 resamples."""


def compare_with_baseline(
    values: pd.DataFrame, strata: Sequence[str], *, baseline: str, settings: Settings | None = None
) -> Comparisons:
    """Compare every method with one baseline; the family is the methods.

    Args:
        values: ``[n_blocks, n_methods]``, higher = better, NaN = missing.
        strata: data set x model of every block ``[n_blocks]``.
        baseline: a column, mostly random queries.
        settings: level, tolerance, bootstrap.

    Raises:
        ConfigError: the baseline is no column.
        DataError: a value is infinite, or two columns have one name.
    """
    if baseline not in values.columns:
        raise ConfigError(unknown_name("baseline", baseline, map(str, values.columns)))
    pairs = [(str(method), baseline) for method in values.columns if method != baseline]
    return _family(values, strata, pairs, settings or Settings())


def compare_all_pairs(values: pd.DataFrame, strata: Sequence[str], *, settings: Settings | None = None) -> Comparisons:
    """Compare every two methods; the family is all pairs. Arguments and errors as `compare_with_baseline`."""
    return _family(values, strata, list(combinations(map(str, values.columns), 2)), settings or Settings())


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


def _family(
    values: pd.DataFrame, strata: Sequence[str], pairs: Sequence[tuple[str, str]], settings: Settings
) -> Comparisons:
    assert len(strata) == len(values), "one stratum per block"
    matrix, names = checked_matrix(values), np.asarray(strata, dtype=np.str_)
    columns = {str(method): matrix[:, at] for at, method in enumerate(values.columns)}
    found: list[PairedComparison] = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        found += _compare(columns, names, pairs[start : start + PAIRS_AT_ONCE], settings)
    adjusted = holm([one.p_value for one in found])
    return Comparisons(
        comparisons=tuple(
            replace(one, p_holm=p, significant=p is not None and p < settings.alpha)
            for one, p in zip(found, adjusted, strict=True)
        ),
        n_tests=sum(p is not None for p in adjusted),
        alpha=settings.alpha,
        tolerance=settings.tolerance,
        level=settings.level,
        n_resamples=settings.n_resamples,
        note=_out_of_reach(found, settings.alpha),
    )


def _compare(
    columns: dict[str, npt.NDArray[np.float64]],
    strata: npt.NDArray[np.str_],
    pairs: Sequence[tuple[str, str]],
    settings: Settings,
) -> list[PairedComparison]:
    # Resampled in one direction, whichever was asked, so that swapping a pair mirrors its interval exactly.
    ordered = [(min(pair), max(pair)) for pair in pairs]
    differences = np.column_stack([columns[first] - columns[second] for first, second in ordered])
    intervals = mean_intervals(
        differences, strata, level=settings.level, n_resamples=settings.n_resamples, seed=settings.seed
    )
    found = []
    for at, (first, second) in enumerate(ordered):
        one = _one(first, second, columns, strata, intervals[at], settings)
        found.append(one if (first, second) == pairs[at] else one.swapped())
    return found


def _one(
    method: str,
    other: str,
    columns: dict[str, npt.NDArray[np.float64]],
    strata: npt.NDArray[np.str_],
    interval: MeanInterval,
    settings: Settings,
) -> PairedComparison:
    mine, theirs = np.isfinite(columns[method]), np.isfinite(columns[other])
    both = mine & theirs
    differences = np.sort(columns[method][both] - columns[other][both])  # sums do not depend on the blocks' order
    test = signed_rank(differences, settings.alpha)
    mean, std = _mean_and_std(differences)
    wins, losses = _beyond(differences, settings.tolerance), _beyond(-differences, settings.tolerance)
    left_out = int((mine ^ theirs).sum())
    return PairedComparison(
        method=method,
        other=other,
        n_blocks=len(both),
        n_pairs=len(differences),
        n_left_out=left_out,
        method_missing=int((theirs & ~mine).sum()),
        other_missing=int((mine & ~theirs).sum()),
        n_absent=len(both) - len(differences) - left_out,
        n_strata=len(np.unique(strata[both])),
        mean_difference=mean,
        median_difference=float(np.median(differences)) if len(differences) else float("nan"),
        std_difference=std,
        low=interval.low,
        high=interval.high,
        resampled=interval.resampled,
        n_borrowed=interval.n_borrowed,
        wins=wins,
        ties=len(differences) - wins - losses,
        losses=losses,
        n_nonzero=test.n_nonzero,
        p_value=test.p_value,
        p_kind=test.kind,
        p_holm=None,
        significant=False,
        reason=_reason(test, left_out, settings.alpha),
        rank_biserial=test.rank_biserial,
        cohens_dz=mean / std if std > 0 else float("nan"),
    )


def _mean_and_std(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    if not len(differences):
        return float("nan"), float("nan")
    alike = np.ptp(np.round(differences, DECIMALS)) == 0  # else rounding would pass for spread
    std = 0.0 if alike else float(np.std(differences, ddof=1))
    return float(differences.mean()), std if len(differences) > 1 else float("nan")


def _beyond(differences: npt.NDArray[np.float64], tolerance: float) -> int:
    return int((np.round(differences, DECIMALS) > tolerance).sum())


def _reason(test: SignedRank, n_left_out: int, alpha: float) -> str | None:
    if test.p_value is not None:
        return None
    left_out = f" {n_left_out} blocks were left out because one of the two is missing." if n_left_out else ""
    if not test.n:
        return f"No block has a value of both methods, so there is nothing to compare.{left_out}"
    needed = fewest_pairs(alpha)
    if not test.n_nonzero:
        what = f"All {test.n} pairs are equal" if test.n > 1 else "The only pair is equal"
        return f"{what}, so there is no difference to test.{left_out}"
    return (
        f"{test.n_nonzero} of {test.n} pairs differ, and a test below {alpha:g} takes at least {needed}: the smallest "
        f"p-value that {test.n_nonzero} can give is {smallest_p_value(test.n_nonzero):.4g}. Run more seeds.{left_out}"
    )


def _out_of_reach(found: Sequence[PairedComparison], alpha: float) -> str | None:
    """Say when even the best p-value that this many pairs can give would not survive the correction."""
    tested = [one.n_nonzero for one in found if one.p_value is not None]
    if not tested or smallest_p_value(max(tested)) * len(tested) < alpha:
        return None
    best, m = smallest_p_value(max(tested)), len(tested)
    return (
        f"No comparison in this family can be significant: with {max(tested)} pairs the smallest p-value is "
        f"{best:.4g}, and Holm's correction over {m} tests makes it {min(1.0, best * m):.4g}, which is not below "
        f"{alpha:g}. Compare fewer methods, or run at least {fewest_pairs(alpha / m)} pairs."
    )


WILCOXON_EFFICIENCY = 3 / math.pi
"""Pairs that a paired t test needs for each one of the signed-rank test, on normal differences: 0.955.

The asymptotic relative efficiency (Hodges and Lehmann 1956, doi 10.1214/aoms/1177728261); never below 0.864.
"""

MAX_PAIRS = 1000
"""Pairs above which a difference is called noise at this size."""

Outcome = Literal["already significant", "enough", "more", "noise", "unknown"]


@dataclass(frozen=True, kw_only=True)
class SeedsNeeded:
    """What it takes to find a difference of a given size between two methods.

    The paired t test's noncentral power at the observed spread of differences, over the efficiency of the signed-rank
    test. The spread is an estimate too, so below some 10 pairs the answer is only an order of magnitude; the answer for
    the observed difference inherits that difference's own luck besides.

    Attributes:
        difference: that is to be found, unit of the values, without sign.
        is_observed: it is the observed mean difference, rather than the smallest one of interest.
        n_pairs: blocks at hand.
        needed_pairs: blocks for the power asked; None where the outcome is "already significant", "noise" or "unknown".
        more_seeds: further seeds for each data set and model; 0 where nothing is missing, None where unknown or noise.
        power: asked for.
        alpha: level of the test, before correction.
        n_tests: tests in the family: the level used is alpha / n_tests, Holm's strictest step.
        outcome: "already significant"; "enough" (the blocks at hand have that power); "more"; "noise" (over
            `MAX_PAIRS` blocks); "unknown" (no spread can be estimated).
        sentence: the outcome in words.
    """

    difference: float
    is_observed: bool
    n_pairs: int
    needed_pairs: int | None
    more_seeds: int | None
    power: float
    alpha: float
    n_tests: int
    outcome: Outcome
    sentence: str


def seeds_for_observed(
    comparison: PairedComparison, *, power: float = 0.8, alpha: float = 0.05, n_tests: int = 1
) -> SeedsNeeded:
    """Say how many more seeds the observed mean difference needs to become significant."""
    size = abs(comparison.mean_difference)
    return _seeds(comparison, size, is_observed=True, power=power, alpha=alpha, n_tests=n_tests)


def seeds_for_smallest(
    comparison: PairedComparison,
    *,
    difference: float = 0.01,
    power: float = 0.8,
    alpha: float = 0.05,
    n_tests: int = 1,
) -> SeedsNeeded:
    """Say how many more seeds it takes to find the smallest difference of interest, whatever was observed.

    Args:
        comparison: whose spread of differences is used.
        difference: smallest one of interest, above 0, unit of the values; 0.01 is one point of accuracy.
        power: chance of finding it.
        alpha: level of the test.
        n_tests: tests in the family.
    """
    assert difference > 0, "a difference of interest is above 0"
    return _seeds(comparison, difference, is_observed=False, power=power, alpha=alpha, n_tests=n_tests)


def pairs_for_power(effect: float, *, power: float = 0.8, alpha: float = 0.05, limit: int = MAX_PAIRS) -> int | None:
    """Return how many pairs a two-sided signed-rank test needs, or None for more than ``limit``.

    Args:
        effect: difference over the standard deviation of differences (Cohen's d_z), at least 0; may be infinite.
        power: chance of a p-value below ``alpha``.
        alpha: level of the test.
        limit: most pairs to consider.
    """
    low, high = 2, math.floor(limit * WILCOXON_EFFICIENCY)
    if t_power(effect, high, alpha) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if t_power(effect, middle, alpha) >= power else (middle + 1, high)
    return max(fewest_pairs(alpha), math.ceil(low / WILCOXON_EFFICIENCY))


def t_power(effect: float, n: int, alpha: float = 0.05) -> float:
    """Return the power of the two-sided paired t test with ``n`` pairs (Cohen 1988; noncentral t)."""
    from scipy.stats import nct, t

    bound = float(t.ppf(1 - alpha / 2, n - 1))
    shift = min(effect, 10.0) * math.sqrt(n)  # scipy's tails fail far out; 10 is certain to be found anyway
    tails = np.asarray([nct.sf(bound, n - 1, shift), nct.cdf(-bound, n - 1, shift)], dtype=np.float64)
    return float(np.nan_to_num(tails, nan=0.0).sum())  # the lower tail is NaN where it vanishes


def _seeds(
    comparison: PairedComparison, difference: float, *, is_observed: bool, power: float, alpha: float, n_tests: int
) -> SeedsNeeded:
    needed: int | None = None
    std = comparison.std_difference
    outcome: Outcome = "unknown"
    if is_observed and comparison.significant:
        outcome = "already significant"
    elif not math.isnan(std):
        effect = difference / std if std > 0 else math.inf if difference > 0 else 0.0
        needed = pairs_for_power(effect, power=power, alpha=alpha / max(n_tests, 1))
        outcome = "noise" if needed is None else "enough" if needed <= comparison.n_pairs else "more"
    missing = max((needed or 0) - comparison.n_pairs, 0)
    more = None if outcome in ("noise", "unknown") else math.ceil(missing / max(comparison.n_strata, 1))
    return SeedsNeeded(
        difference=difference,
        is_observed=is_observed,
        n_pairs=comparison.n_pairs,
        needed_pairs=needed,
        more_seeds=more,
        power=power,
        alpha=alpha,
        n_tests=n_tests,
        outcome=outcome,
        sentence=_sentence(outcome, comparison, difference, needed, more, is_observed),
    )


def _sentence(
    outcome: Outcome,
    comparison: PairedComparison,
    difference: float,
    needed: int | None,
    more: int | None,
    is_observed: bool,
) -> str:
    what = f"the observed difference of {difference:.4g}" if is_observed else f"a difference of {difference:.4g}"
    n = comparison.n_pairs
    match outcome:
        case "already significant":
            return "None: already significant."
        case "enough" if is_observed:
            return f"None by this reckoning: {n} pairs were likely to find {what} and did not, so it may be luck."
        case "enough":
            return f"None: {n} pairs are enough to find {what}, {needed} would do."
        case "more":
            seeds = f"{more} more {'seed' if more == 1 else 'seeds'} for each data set and model"
            return f"About {seeds} ({needed} pairs instead of {n}) to find {what}."
        case "noise":
            return f"Over {MAX_PAIRS:,} pairs: {what} is noise at this size."
        case "unknown":
            return f"Unknown: {n} {'pair shows' if n == 1 else 'pairs show'} no spread of differences. Run more seeds."
