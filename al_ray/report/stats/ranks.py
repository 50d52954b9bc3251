"""Which methods rank alike over many data sets? Friedman's test, Nemenyi's critical difference and its cliques.

The recipe of Demsar 2006 (Statistical comparisons of classifiers over multiple data sets, JMLR 7:1-30). Its unit is the
independent data set. Seeds of one data set are no further data sets, so ranks are taken over data set means wherever
there are at least `MIN_UNITS` of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.report.stats.paired import checked_matrix
from al_ray.report.stats.wilcoxon import DECIMALS

MIN_UNITS = 3
"""Data sets (or blocks) that a Friedman test is made on at least."""

Unit = Literal["data set means", "blocks"]


@dataclass(frozen=True, kw_only=True)
class RankComparison:
    """Average ranks of the methods and whether they differ.

    Attributes:
        unit: what was ranked: "data set means" (over models and seeds of the complete blocks; says something about
            other data sets of the kind), or "blocks" (seeds counted as data sets; says something about these).
        unit_note: the same as a sentence, with the reason.
        methods: from best to worst average rank.
        average_ranks: ``[n_methods]``, 1 = best; ties share their mean rank. NaN without a complete block.
        n_units: data sets or blocks that were ranked.
        n_blocks, n_complete: blocks there are, and blocks where every method has a value.
        n_dropped: blocks left out because a method is missing: n_blocks - n_complete.
        missing: how many blocks each method lacks.
        data_sets_left_out: data sets without any complete block.
        methods_left_out: methods without any value, which would have left no complete block.
        chi_square: Friedman's statistic, corrected for ties (scipy; Friedman 1937); NaN without a test.
        p_value: from the chi-square distribution with n_methods - 1 degrees of freedom; None where ``reason`` says why.
        iman_davenport_f, iman_davenport_p: the less conservative F form of it (Iman and Davenport 1980), with
            n_methods - 1 and (n_methods - 1)(n_units - 1) degrees of freedom; infinite and 0 where all units agree.
        alpha: level of the critical difference.
        critical_difference: average ranks that are at least this far apart differ (Nemenyi 1963); NaN without a test.
        nemenyi_p: ``[n_methods, n_methods]``, methods on both axes, best first (scikit-posthocs); None without a test.
        cliques: maximal groups of two and more methods whose average ranks do not differ, best first: the bars of a
            critical-difference diagram.
        reason: why there is no test, in a sentence; None where there is one.
    """

    unit: Unit
    unit_note: str
    methods: tuple[str, ...]
    average_ranks: tuple[float, ...]
    n_units: int
    n_blocks: int
    n_complete: int
    n_dropped: int
    missing: dict[str, int]
    data_sets_left_out: tuple[str, ...]
    methods_left_out: tuple[str, ...]
    chi_square: float
    p_value: float | None
    iman_davenport_f: float
    iman_davenport_p: float | None
    alpha: float
    critical_difference: float
    nemenyi_p: pd.DataFrame | None
    cliques: tuple[tuple[str, ...], ...]
    reason: str | None


def rank_methods(
    values: pd.DataFrame,
    data_sets: Sequence[str],
    *,
    alpha: float = 0.05,
    unit: Unit | None = None,
) -> RankComparison:
    """Rank the methods on every data set, and test whether their average ranks differ.

    Args:
        values: ``[n_blocks, n_methods]``, higher = better, NaN = missing.
        data_sets: name of the data set of every block ``[n_blocks]``; the stratum would count models as data sets.
        alpha: level of significance.
        unit: what to rank; by default "data set means" with at least 3 data sets, else "blocks".

    Raises:
        DataError: a value is infinite, or two columns have one name.
    """
    assert len(data_sets) == len(values), "one data set per block"
    matrix, names = checked_matrix(values), np.asarray(data_sets, dtype=np.str_)
    present: npt.NDArray[np.bool_] = np.asarray(np.isfinite(matrix).any(axis=0))
    methods = [str(method) for method in values.columns]
    complete = np.isfinite(matrix[:, present]).all(axis=1) & present.any()
    n_data_sets = len(np.unique(names[complete]))
    used: Unit = unit or ("data set means" if n_data_sets >= MIN_UNITS else "blocks")
    units = _units(matrix[np.ix_(complete, present)], names[complete], used)
    ranked = _rank(units)
    average = ranked.mean(axis=0) if len(ranked) else np.full(ranked.shape[1], np.nan)
    order = np.argsort(average, kind="stable")
    kept = [method for method, there in zip(methods, present, strict=True) if there]
    missing = dict(zip(methods, np.isnan(matrix).sum(axis=0).tolist(), strict=True))
    reason = _reason(len(ranked), len(kept), used, missing, alpha)
    best_first = [kept[at] for at in order]
    test = _Test.of(units[:, order], average[order], best_first, alpha) if reason is None else _Test.none()
    return RankComparison(
        unit=used,
        unit_note=_unit_note(used, len(ranked), n_data_sets),
        methods=tuple(best_first),
        average_ranks=tuple(average[order].tolist()),
        n_units=len(ranked),
        n_blocks=len(matrix),
        n_complete=int(complete.sum()),
        n_dropped=int((~complete).sum()),
        missing=missing,
        data_sets_left_out=tuple(sorted(set(names.tolist()) - set(names[complete].tolist()))),
        methods_left_out=tuple(method for method, there in zip(methods, present, strict=True) if not there),
        chi_square=test.chi_square,
        p_value=test.p_value,
        iman_davenport_f=test.f,
        iman_davenport_p=test.f_p_value,
        alpha=alpha,
        critical_difference=test.critical_difference,
        nemenyi_p=test.nemenyi_p,
        cliques=test.cliques,
        reason=reason,
    )


def critical_difference(n_methods: int, n_units: int, alpha: float = 0.05) -> float:
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


@dataclass(frozen=True, kw_only=True)
class _Test:
    chi_square: float
    p_value: float | None
    f: float
    f_p_value: float | None
    critical_difference: float
    nemenyi_p: pd.DataFrame | None
    cliques: tuple[tuple[str, ...], ...]

    @classmethod
    def none(cls) -> "_Test":
        nan = float("nan")
        return cls(
            chi_square=nan, p_value=None, f=nan, f_p_value=None, critical_difference=nan, nemenyi_p=None, cliques=()
        )

    @classmethod
    def of(
        cls, units: npt.NDArray[np.float64], average: npt.NDArray[np.float64], methods: list[str], alpha: float
    ) -> "_Test":
        from scipy.stats import friedmanchisquare

        n, k = units.shape
        rounded = np.round(units, DECIMALS)
        alike = bool((rounded == rounded[:, :1]).all())  # scipy would divide zero by zero
        chi_square, p_value = (0.0, 1.0) if alike else map(float, friedmanchisquare(*rounded.T))
        f, f_p_value = _iman_davenport(chi_square, n, k)
        difference = critical_difference(k, n, alpha)
        return cls(
            chi_square=chi_square,
            p_value=p_value,
            f=f,
            f_p_value=f_p_value,
            critical_difference=difference,
            nemenyi_p=_nemenyi(rounded, methods),
            cliques=find_cliques(methods, average.tolist(), difference),
        )


def _units(complete: npt.NDArray[np.float64], data_sets: npt.NDArray[np.str_], unit: Unit) -> npt.NDArray[np.float64]:
    if unit == "blocks" or not len(complete):
        return complete
    return np.stack([np.sort(complete[data_sets == name], axis=0).mean(axis=0) for name in np.unique(data_sets)])


def _rank(units: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(-np.round(units, DECIMALS), axis=1), dtype=np.float64) if units.size else units


def _iman_davenport(chi_square: float, n: int, k: int) -> tuple[float, float]:
    from scipy.stats import f as f_distribution

    left = n * (k - 1) - chi_square
    if left <= 1e-9 * n * k:
        return float("inf"), 0.0
    f = (n - 1) * chi_square / left
    return f, float(f_distribution.sf(f, k - 1, (k - 1) * (n - 1)))


def _nemenyi(rounded: npt.NDArray[np.float64], methods: list[str]) -> pd.DataFrame:
    import scikit_posthocs

    p_values = np.clip(np.asarray(scikit_posthocs.posthoc_nemenyi_friedman(rounded), dtype=np.float64), 0.0, 1.0)
    return pd.DataFrame(p_values, index=methods, columns=methods)


def _unit_note(unit: Unit, n_units: int, n_data_sets: int) -> str:
    if unit == "data set means":
        return (
            f"Ranked on the means of {n_units} data sets over their models and seeds, since seeds of one data set are "
            "not independent data sets (Demsar 2006)."
        )
    return (
        f"Ranked on {n_units} blocks of {n_data_sets} data {'set' if n_data_sets == 1 else 'sets'}: seeds are counted "
        "as if they were data sets, so this speaks about new seeds, not about other data (Demsar 2006)."
    )


def _reason(n_units: int, n_methods: int, unit: Unit, missing: dict[str, int], alpha: float) -> str | None:
    what = "data sets" if unit == "data set means" else "blocks"
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
    return None
