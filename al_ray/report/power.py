"""How many more seeds would it take to tell two methods apart?"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from al_ray.report.comparison import PairedComparison
from al_ray.report.wilcoxon import fewest_pairs

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
