"""Methods ranked by mean accuracy over all points, compared with random, with the best, with themselves unclipped."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from al_ray.report.analysis.results import (
    ClippingEffect,
    Comparison,
    CriticalDifference,
    Estimate,
    Interval,
    LevelReached,
    MethodScore,
    Metric,
    Ranking,
)
from al_ray.report.stats.bootstrap import mean_intervals
from al_ray.report.stats.paired import (
    Comparisons,
    PairedComparison,
    Settings,
    compare_with_baseline,
    seeds_for_observed,
)
from al_ray.report.stats.ranks import RankComparison, rank_methods

METRIC: Metric = "aulc"
SETTINGS = Settings()
EFFECT = "rank-biserial r"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the rankings are made from.

    Attributes:
        scores: of the finished cells (:func:`al_ray.report.analysis.curves.score_cells`).
        cells: all cells of the study.
        savings: labels saved (:func:`al_ray.report.analysis.curves.savings_table`).
        reference: name of the method that stands for random queries, None without one.
    """

    scores: pd.DataFrame
    cells: pd.DataFrame
    savings: pd.DataFrame
    reference: str | None

    @property
    def queried(self) -> pd.DataFrame:
        """Return the scores of all cells but passive ones."""
        return self.scores[self.scores["role"] != "passive"]

    @functools.cached_property
    def passives(self) -> dict[str, Estimate]:
        """Return the accuracy of the models that were trained on all labels, for the settings that have some."""
        members = self.scores[self.scores["role"] == "passive"].groupby("setting", sort=False)["accuracy"]
        found = {str(setting): estimate(accuracy, None) for setting, accuracy in members}
        return {setting: one for setting, one in found.items() if one is not None}


def estimate(values: pd.Series, interval: Interval | None) -> Estimate | None:
    """Return the mean of what is known of some values, None where nothing is."""
    there = values.dropna().to_numpy(dtype=np.float64)
    if not len(there):
        return None
    std = float(there.std(ddof=1)) if len(there) > 1 else None
    return Estimate(mean=float(there.mean()), n=len(there), std=std, interval=interval)


def block_matrix(part: pd.DataFrame, column: str) -> tuple[pd.DataFrame, list[str]]:
    """Return one value a block (setting, seed) and method, and the setting of each block."""
    values = part.pivot_table(index=["setting", "seed"], columns="method", values=column, sort=False, aggfunc="mean")
    return values, [str(setting) for setting, _ in values.index]


def to_comparison(one: PairedComparison, family: Comparisons) -> Comparison:
    """Return a comparison as the page shows it."""
    needed = seeds_for_observed(one, alpha=family.alpha, n_tests=family.n_tests)
    return Comparison(
        method=one.method,
        against=one.other,
        metric=METRIC,
        n_pairs=one.n_pairs,
        difference=one.mean_difference,
        interval=to_interval(one.low, one.high, family.level),
        p_value=one.p_value,
        p_holm=one.p_holm,
        refusal=one.reason,
        effect_size=None if one.p_value is None else known(one.rank_biserial),
        effect_name=EFFECT,
        wins=one.wins,
        ties=one.ties,
        losses=one.losses,
        more_seeds=needed.more_seeds,
    )


def to_interval(low: float, high: float, level: float) -> Interval | None:
    """Return an interval, None where its ends are NaN."""
    return None if math.isnan(low) or math.isnan(high) else Interval(low=float(low), high=float(high), level=level)


def known(value: float) -> float | None:
    """Return a number, None for NaN."""
    return None if math.isnan(value) else float(value)


class RankingRows:
    """Makes the rows of one ranking."""

    def __init__(
        self,
        compared: Compared,
        part: pd.DataFrame,
        settings: Sequence[str],
        ranked: RankComparison,
        versus_random: Mapping[str, Comparison],
        versus_best: Mapping[str, Comparison],
    ) -> None:
        self._compared, self._part, self._settings = compared, part, settings
        self._members = {str(method): members for method, members in part.groupby("method", sort=False)}
        self._ranks = dict(zip(ranked.methods, ranked.average_ranks, strict=True))
        self._versus_random, self._versus_best = versus_random, versus_best
        self._intervals = {column: self._all_intervals(column) for column in ("accuracy", "aulc", "aulc_last5")}
        planned = compared.cells[compared.cells["setting"].isin(settings)]
        self._n_planned = planned.groupby("method").size().to_dict()
        savings = compared.savings[compared.savings["setting"].isin(settings)]
        n_settings = savings.groupby("label", sort=False)["setting"].nunique()
        self._labels = n_settings[n_settings == len(settings)].index.tolist()
        self._savings: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in savings.to_dict("records"):
            self._savings.setdefault((row["method"], row["label"]), []).append(row)

    def of(self, method: str) -> MethodScore:
        """Return the row of a method that has a finished cell here."""
        members = self._members[method]
        final, aulc = self._estimate(method, "accuracy"), self._estimate(method, "aulc")
        assert final is not None and aulc is not None  # noqa: PT018 - a finished cell has both
        return MethodScore(
            method=method,
            n_cells=len(members),
            n_cells_planned=int(self._n_planned.get(method, len(members))),
            final=final,
            aulc=aulc,
            aulc_last5=self._estimate(method, "aulc_last5"),
            passive_share=self._passive_share(members),
            levels=tuple(self._level(method, label) for label in self._labels),
            mean_rank=known(self._ranks.get(method, math.nan)),
            versus_random=self._versus_random.get(method),
            versus_best=self._versus_best.get(method),
        )

    def _estimate(self, method: str, column: str) -> Estimate | None:
        members = self._members[method]
        if members[column].isna().all():
            return None
        by_setting = members.groupby("setting")[column]
        is_balanced = by_setting.count().nunique() == 1
        whole = estimate(members[column], self._intervals[column].get(method) if is_balanced else None)
        if whole is None or len(self._settings) == 1:
            return whole
        return Estimate(mean=float(by_setting.mean().mean()), n=whole.n, interval=whole.interval)

    def _all_intervals(self, column: str) -> dict[str, Interval | None]:
        values, strata = block_matrix(self._part, column)
        if values.empty:
            return {}
        found = mean_intervals(
            values.to_numpy(dtype=np.float64),
            np.asarray(strata, dtype=np.str_),
            level=SETTINGS.level,
            n_resamples=SETTINGS.n_resamples,
            seed=SETTINGS.seed,
        )
        # An interval across settings would hold the differences between data sets, which nobody asks of a mean.
        return {
            str(method): to_interval(one.low, one.high, SETTINGS.level) if one.resampled == "within strata" else None
            for method, one in zip(values.columns, found, strict=True)
        }

    def _passive_share(self, members: pd.DataFrame) -> float | None:
        shares = []
        for setting, accuracy in members.groupby("setting", sort=False)["accuracy"]:
            passive = self._compared.passives.get(str(setting))
            if passive is None or passive.mean == 0:
                return None
            shares.append(float(accuracy.mean()) / passive.mean)
        return float(np.mean(shares))

    def _level(self, method: str, label: str) -> LevelReached:
        rows = self._savings.get((method, label), [])
        if len(rows) < len(self._settings):
            return LevelReached(label=label)
        alone = rows[0] if len(rows) == 1 else None
        means = {name: known(float(np.mean([row[name] for row in rows]))) for name in ("n_labels", "saved", "saved_of")}
        return LevelReached(
            label=label,
            level=None if alone is None else float(alone["level"]),
            n_labels=means["n_labels"],
            saved=means["saved"],
            saved_of=means["saved_of"],
            saved_interval=None if alone is None else to_interval(alone["low"], alone["high"], SETTINGS.level),
        )


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


def clipping_effects(compared: Compared) -> list[ClippingEffect]:
    """Compare every clipped method with the same one unclipped, over all settings and on each.

    Holm's correction runs over the methods that one kind of clipping is tried with.
    """
    scores = compared.queried
    clipped = scores[scores["clipping"] != ""]
    found: list[ClippingEffect] = []
    for clipping, members in clipped.groupby("clipping", sort=False):
        pairs = members[["method", "base_method"]].drop_duplicates()
        both = scores[scores["method"].isin(pairs["method"]) | scores["method"].isin(pairs["base_method"])]
        settings = [None, *both["setting"].unique().tolist()]
        for setting in settings:
            part = both if setting is None else both[both["setting"] == setting]
            found += _effects(str(clipping), pairs, part, setting)
    return found


def _effects(clipping: str, pairs: pd.DataFrame, part: pd.DataFrame, setting: str | None) -> list[ClippingEffect]:
    """Compare all methods with one kind of clipping in one family: each is a column of differences against zero."""
    values, strata = block_matrix(part, METRIC)
    pairs_here = [
        (str(method), str(base))
        for method, base in pairs.itertuples(index=False)
        if method in values and base in values and (values[method] - values[base]).notna().any()
    ]
    if not pairs_here:
        return []
    gains = pd.DataFrame({method: values[method] - values[base] for method, base in pairs_here})
    unchanged = "without clipping"
    gains[unchanged] = 0.0
    family = compare_with_baseline(gains, strata, baseline=unchanged, settings=SETTINGS)
    effects = []
    for method, base in pairs_here:
        one = to_comparison(family.of(method, unchanged), family)
        shown = Comparison(**{**vars(one), "against": base})
        effects.append(ClippingEffect(method=base, filters=clipping, setting=setting, comparison=shown))
    return effects
