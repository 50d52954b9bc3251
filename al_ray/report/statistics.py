"""Is one method better than another? Paired comparisons over the cells that both have.

Input everywhere: a frame of one value per block (rows: data set x model x seed) and method (columns), NaN where a cell
is missing or failed, and the stratum (data set x model) of every block. Higher is better: negate a loss or a count of
labels first. A p-value and an interval speak about these data sets and models over new seeds, not about other ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.errors import ConfigError, DataError, unknown_name
from al_ray.report.bootstrap import MeanInterval, mean_intervals
from al_ray.report.comparison import Comparisons, PairedComparison, Settings
from al_ray.report.wilcoxon import DECIMALS, SignedRank, fewest_pairs, holm, signed_rank, smallest_p_value

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
