"""Rankings of the methods, over all settings and on each."""

from collections.abc import Sequence

import pandas as pd

from al_ray.report.comparing import METRIC, SETTINGS, Compared, block_matrix, to_comparison
from al_ray.report.content import Comparison, CriticalDifference, Ranking
from al_ray.report.ranking_rows import RankingRows
from al_ray.report.ranks import RankComparison, rank_methods
from al_ray.report.statistics import compare_with_baseline


def rank_all(compared: Compared) -> tuple[list[Ranking], str]:
    """Return the ranking over all settings, then one a setting; empty where no cell is finished.

    Returns:
        the rankings, and a sentence on what was ranked for the test over all settings.
    """
    scores = compared.queried
    settings = scores["setting"].unique().tolist()
    if not settings:
        return [], ""
    overall, unit = _overall(compared, settings)
    return [overall, *(_ranking(compared, [setting], setting, "")[0] for setting in settings)], unit


def _overall(compared: Compared, settings: Sequence[str]) -> tuple[Ranking, str]:
    """Rank over the largest block of settings and methods in which every method has a finished cell everywhere."""
    scores = compared.queried
    has = scores.groupby(["setting", "method"], sort=False).size().unstack(fill_value=0) > 0
    kept, methods = _largest_block(has, compared.reference)
    left_settings = [setting for setting in settings if setting not in kept]
    left_methods = [str(method) for method in has.columns if method not in methods]
    parts = []
    if left_methods:
        parts.append(f"methods without a finished cell on each of its settings: {', '.join(left_methods)}")
    if left_settings:
        parts.append(f"settings that too few methods have finished: {', '.join(left_settings)}")
    note = f"The ranking over all settings leaves out {'; '.join(parts)}." if parts else ""
    return _ranking(compared, kept, None, note, methods)


def _largest_block(has: pd.DataFrame, reference: str | None) -> tuple[list[str], list[str]]:
    """Return the settings and methods, all of them finished together, that hold the most cells; random among them."""
    best: tuple[int, int, list[str], list[str]] = (-1, 0, [], [])
    for _, column in has.items():
        settings = has.index[column].tolist()
        methods = has.columns[has.loc[settings].all(axis=0)].tolist()
        score = (int(reference in methods) * has.size + len(settings) * len(methods), len(settings))
        if score > best[:2]:
            best = (*score, settings, methods)
    return [str(name) for name in best[2]], [str(name) for name in best[3]]


def _ranking(
    compared: Compared, settings: Sequence[str], setting: str | None, note: str, methods: Sequence[str] | None = None
) -> tuple[Ranking, str]:
    scores = compared.queried
    part = scores[scores["setting"].isin(settings)]
    if methods is not None:
        part = part[part["method"].isin(methods)]
    values, strata = block_matrix(part, METRIC)
    order = _macro(part, METRIC).sort_values(ascending=False, kind="stable").index.tolist()
    best, random = str(order[0]), compared.reference
    data_sets = compared.cells.drop_duplicates("setting").set_index("setting")["dataset"]
    ranked = rank_methods(values, data_sets.loc[list(strata)].tolist(), alpha=SETTINGS.alpha)
    versus_random = _versus(values, strata, random) if random in values.columns else {}
    rows = RankingRows(compared, part, settings, ranked, versus_random, _versus(values, strata, best))
    ranking = Ranking(
        setting=setting,
        metric=METRIC,
        rows=tuple(rows.of(str(method)) for method in order),
        critical_difference=_critical_difference(ranked),
        refusal=ranked.reason or "",
        note=note,
    )
    return ranking, ranked.unit_note if ranked.reason is None else ""


def _macro(part: pd.DataFrame, column: str) -> "pd.Series[float]":
    """Return the mean over settings of the mean over seeds, so that a setting with more seeds weighs no more."""
    by_setting = part.groupby(["method", "setting"], sort=False)[column].mean()
    return by_setting.groupby(level=0, sort=False).mean()


def _versus(values: pd.DataFrame, strata: Sequence[str], baseline: str | None) -> dict[str, Comparison]:
    assert baseline is not None
    family = compare_with_baseline(values, strata, baseline=baseline, settings=SETTINGS)
    return {one.method: to_comparison(one, family) for one in family.comparisons if one.n_pairs}


def _critical_difference(ranked: RankComparison) -> CriticalDifference | None:
    if ranked.p_value is None:
        return None
    return CriticalDifference(
        mean_ranks=dict(zip(ranked.methods, ranked.average_ranks, strict=True)),
        critical_difference=ranked.critical_difference,
        cliques=ranked.cliques,
        n_blocks=ranked.n_units,
        statistic=ranked.chi_square,
        p_value=ranked.p_value,
        alpha=ranked.alpha,
        n_blocks_dropped=ranked.n_dropped,
    )
