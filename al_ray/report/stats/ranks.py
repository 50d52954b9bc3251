"""Mean ranks over many data sets: Friedman's test, Nemenyi's critical difference and its cliques.

The recipe of Demsar 2006 (Statistical comparisons of classifiers over multiple data sets, JMLR 7:1-30). Its unit is the
independent data set. Seeds of one data set are no further data sets, so ranks are taken over data set means wherever
there are at least `MIN_UNITS` of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.report.stats.paired import checked_matrix
from al_ray.report.stats.wilcoxon import DECIMALS

MIN_UNITS = 3
"""Data sets (or blocks) that a Friedman test is made on at least."""

Unit = Literal["data set", "block"]


@dataclass(frozen=True, kw_only=True)
class CriticalDifference:
    """What Friedman's test and Nemenyi's critical difference say about mean ranks (Demsar 2006).

    Attributes:
        mean_ranks: method -> mean rank, best first, 1 = best; ties share their mean rank.
        critical_difference: mean ranks that are at least this far apart differ (Nemenyi 1963).
        cliques: maximal groups of two and more methods whose mean ranks do not differ, best first: the bars of a
            critical-difference diagram.
        n_units: data sets or blocks that were ranked.
        unit: what was ranked: a "data set" (means over its models and seeds; says something about other data sets of
            the kind), or a "block" (seeds counted as data sets; says something about these).
        unit_note: the same as a sentence, with the reason.
        n_blocks_dropped: blocks left out because a method has no value there.
        statistic: Friedman's chi-square, corrected for ties (scipy; Friedman 1937).
        p_value: from the chi-square distribution with n_methods - 1 degrees of freedom.
        alpha: level of the critical difference.
    """

    mean_ranks: Mapping[str, float]
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]
    n_units: int
    unit: Unit
    unit_note: str
    n_blocks_dropped: int
    statistic: float
    p_value: float
    alpha: float


@dataclass(frozen=True, kw_only=True)
class RankComparison:
    """Mean ranks of the methods and whether they differ.

    Attributes:
        mean_ranks: method -> mean rank, best first; empty without a block that every method has a value in.
        test: None where ``refusal`` says why.
        refusal: why there is no test, in a sentence; empty where there is one.
    """

    mean_ranks: Mapping[str, float]
    test: CriticalDifference | None
    refusal: str


def rank_methods(values: pd.DataFrame, data_sets: Sequence[str], *, alpha: float) -> RankComparison:
    """Rank the methods on every data set, or block where there are few, and test whether their mean ranks differ.

    Args:
        values: ``[n_blocks, n_methods]``, higher = better, NaN = missing. Blocks without a value of every method are
            dropped, methods without any value first.
        data_sets: name of the data set of every block ``[n_blocks]``; the stratum would count models as data sets.
        alpha: level of significance.

    Raises:
        DataError: a value is infinite, or two columns have one name.
    """
    assert len(data_sets) == len(values), "one data set per block"
    matrix, names = checked_matrix(values), np.asarray(data_sets, dtype=np.str_)
    present: npt.NDArray[np.bool_] = np.asarray(np.isfinite(matrix).any(axis=0))
    complete = np.isfinite(matrix[:, present]).all(axis=1) & present.any()
    n_data_sets = len(np.unique(names[complete]))
    unit: Unit = "data set" if n_data_sets >= MIN_UNITS else "block"
    units = np.round(_units(matrix[np.ix_(complete, present)], names[complete], unit), DECIMALS)
    methods = [str(method) for method, there in zip(values.columns, present, strict=True) if there]
    ranks = _mean_ranks(units, methods)
    n_missing = dict(zip(map(str, values.columns), np.isnan(matrix).sum(axis=0).tolist(), strict=True))
    refusal = _refusal(len(units), len(methods), unit, n_missing, alpha)
    if refusal:
        return RankComparison(mean_ranks=ranks, test=None, refusal=refusal)
    difference = critical_difference(len(ranks), len(units), alpha)
    statistic, p_value = _friedman(units)
    test = CriticalDifference(
        mean_ranks=ranks,
        critical_difference=difference,
        cliques=find_cliques(list(ranks), list(ranks.values()), difference),
        n_units=len(units),
        unit=unit,
        unit_note=_unit_note(unit, len(units), n_data_sets),
        n_blocks_dropped=int((~complete).sum()),
        statistic=statistic,
        p_value=p_value,
        alpha=alpha,
    )
    return RankComparison(mean_ranks=ranks, test=test, refusal="")


def kendall_tau_b(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far pairs of leaderboards agree: Kendall's tau-b (Kendall 1945, doi 10.1093/biomet/33.3.239).

    Pairs of methods in the same order minus those in the opposite one, over the geometric mean of the pairs that each
    leaderboard tells apart. 1 = the same order, 0 = none, -1 = the reverse.

    Args:
        first: values of the methods on leaderboards ``[..., n_methods]``; values that are equal but for rounding tie.
        second: of the same methods on the leaderboards that they are compared with, likewise.

    Returns:
        ``[...]``; NaN where one of the two tells no methods apart.
    """
    mine, theirs = _orders(first), _orders(second)
    untied = np.sqrt((mine**2).sum(axis=-1) * (theirs**2).sum(axis=-1))
    agreement = np.asarray((mine * theirs).sum(axis=-1), dtype=np.float64)
    return np.divide(agreement, untied, out=np.full(agreement.shape, np.nan), where=untied > 0)


def _orders(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the order of every pair of methods, -1, 0 or 1 ``[..., n_pairs]``."""
    rounded = np.round(values, DECIMALS)
    left, right = np.triu_indices(values.shape[-1], 1)
    return np.asarray(np.sign(rounded[..., left] - rounded[..., right]))


def critical_difference(n_methods: int, n_units: int, alpha: float) -> float:
    """Return how far apart two average ranks must be to differ (Nemenyi 1963; Demsar 2006, table 5a).

    q sqrt(k (k + 1) / (6 N)), with q the upper alpha point of the studentised range of k at infinite degrees of
    freedom, over sqrt(2).
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, n_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(n_methods * (n_methods + 1) / (6 * n_units))


def find_cliques(
    methods: Sequence[str], average_ranks: Sequence[float], difference: float
) -> tuple[tuple[str, ...], ...]:
    """Group methods whose average ranks are less than ``difference`` apart; only groups that no other one holds.

    Args:
        methods: from best to worst.
        average_ranks: of each, ascending.
        difference: the critical difference.
    """
    ranks = np.asarray(average_ranks, dtype=np.float64)
    ends = [int((ranks - rank < difference).sum()) for rank in ranks]
    spans = [(at, end) for at, end in enumerate(ends) if end - at > 1 and (at == 0 or ends[at - 1] < end)]
    return tuple(tuple(methods[at:end]) for at, end in spans)


def _units(complete: npt.NDArray[np.float64], data_sets: npt.NDArray[np.str_], unit: Unit) -> npt.NDArray[np.float64]:
    if unit == "block" or not len(complete):
        return complete
    return np.stack([np.sort(complete[data_sets == name], axis=0).mean(axis=0) for name in np.unique(data_sets)])


def _mean_ranks(units: npt.NDArray[np.float64], methods: Sequence[str]) -> dict[str, float]:
    from scipy.stats import rankdata

    if not units.size:
        return {}
    ranks = rankdata(-units, axis=1).mean(axis=0)
    return {methods[at]: float(ranks[at]) for at in np.argsort(ranks, kind="stable")}


def _friedman(units: npt.NDArray[np.float64]) -> tuple[float, float]:
    from scipy.stats import friedmanchisquare

    if bool((units == units[:, :1]).all()):
        return 0.0, 1.0  # scipy would divide zero by zero
    statistic, p_value = friedmanchisquare(*units.T)
    return float(statistic), float(p_value)


def _unit_note(unit: Unit, n_units: int, n_data_sets: int) -> str:
    if unit == "data set":
        return (
            f"Ranked on the means of {n_units} data sets over their models and seeds, since seeds of one data set are "
            "not independent data sets (Demsar 2006)."
        )
    return (
        f"Ranked on {n_units} blocks of {n_data_sets} data {'set' if n_data_sets == 1 else 'sets'}: seeds are counted "
        "as if they were data sets, so this speaks about new seeds, not about other data (Demsar 2006)."
    )


def _refusal(n_units: int, n_methods: int, unit: Unit, missing: dict[str, int], alpha: float) -> str:
    what = f"{unit}s"
    if n_methods < 3:
        return f"{n_methods} methods have values, and a Friedman test compares at least 3. See the paired comparison."
    if not n_units:
        worst = max(missing, key=lambda method: missing[method])
        return (
            f"No block has a value of every method; {worst!r} lacks {missing[worst]}, the most. Finish its cells or "
            "leave it out."
        )
    if n_units < MIN_UNITS:
        return f"{n_units} {what} with every method, and a Friedman test takes at least {MIN_UNITS}. Run more."
    smallest = math.factorial(min(n_methods, 20)) ** float(1 - n_units)
    if smallest >= alpha:
        return (
            f"{n_units} {what} are too few for {n_methods} methods: even full agreement has probability "
            f"{smallest:.3g}, not below {alpha:g}. Run more."
        )
    return ""
