"""Methods ranked by their area under the learning curve, compared with random, the best and themselves unclipped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from al_ray.report.analysis.results import METRIC, ClippingEffect, Estimate, LabelsSaved, MethodRanking, MethodScore
from al_ray.report.stats.bootstrap import Interval, mean_intervals
from al_ray.report.stats.paired import Comparison, compare_with_baseline
from al_ray.report.stats.ranks import rank_methods
from al_ray.study.names import JOIN, Method

ALPHA = 0.05
"""Level of every test."""
_QUANTITIES = ("final_accuracy", "aulc", "aulc_last5", "ramp_up_aulc", "plateau_aulc")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Finished cells with their scores, of which rankings are made.

    Attributes:
        cells: of the study, all of them.
        scores: the finished ones but passive ones and upper bounds: columns of ``cells``, and what each comes to
            (:func:`al_ray.report.analysis.curves.score_cells`).
        passive: the same of the finished passive ones.
        savings: labels saved.
        reference: name of the method that stands for random queries, None without one.
    """

    cells: pd.DataFrame
    scores: pd.DataFrame
    passive: pd.DataFrame
    savings: Sequence[LabelsSaved]
    reference: str | None

    def passive_accuracy(self, setting: str) -> Estimate | None:
        """Return the final accuracy of the models that were trained on all labels, None without one."""
        return estimate(self.passive.loc[self.passive["setting"] == setting, "final_accuracy"], None)


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


def rank_all(finished: Finished) -> tuple[MethodRanking, ...]:
    """Return the ranking over all settings, then one a setting; empty where no cell is finished."""
    scores = finished.scores
    settings = scores["setting"].unique().tolist()
    if not settings:
        return ()
    each = [_ranking(finished, scores[scores["setting"] == setting], [setting], setting, "") for setting in settings]
    return (_overall(finished, settings), *each)


def reference_scores(finished: Finished, scores: pd.DataFrame) -> dict[str, tuple[MethodScore, ...]]:
    """Return the rows of methods that no ranking holds, trained on all labels or upper bounds, by setting."""
    return {
        str(setting): tuple(
            _score(finished, str(method), cells, [str(setting)], {}) for method, cells in members.groupby("method")
        )
        for setting, members in scores.groupby("setting", sort=False)
    }


def _overall(finished: Finished, settings: Sequence[str]) -> MethodRanking:
    """Rank over the largest block of settings and methods in which every method has a finished cell everywhere."""
    scores = finished.scores
    has = scores.groupby(["setting", "method"], sort=False).size().unstack(fill_value=0) > 0
    kept, methods = largest_block(has, finished.reference)
    left_settings = [setting for setting in settings if setting not in kept]
    left_methods = [str(method) for method in has.columns if method not in methods]
    parts = []
    if left_methods:
        parts.append(f"methods without a finished cell on each of its settings: {', '.join(left_methods)}")
    if left_settings:
        parts.append(f"settings that too few methods have finished: {', '.join(left_settings)}")
    note = f"The ranking over all settings leaves out {'; '.join(parts)}." if parts else ""
    part = scores[scores["setting"].isin(kept) & scores["method"].isin(methods)]
    return _ranking(finished, part, kept, None, note)


def largest_block(has: pd.DataFrame, reference: str | None = None) -> tuple[list[Any], list[str]]:
    """Return the rows and methods of the largest part of a table in which every method has a value in every row.

    Args:
        has: ``[n_rows, n_methods]``, true where there is a value.
        reference: a method that is to be among them where it has any value; None = whatever is largest.
    """
    if bool(has.to_numpy().all()):
        return has.index.tolist(), has.columns.tolist()
    best: tuple[int, int, list[Any], list[Any]] = (-1, 0, [], [])
    for _, column in has.items():
        rows = has.index[column].tolist()
        methods = has.columns[has.loc[rows].all(axis=0)].tolist()
        score = (int(reference in methods) * has.size + len(rows) * len(methods), len(rows))
        if score > best[:2]:
            best = (*score, rows, methods)
    return best[2], [str(name) for name in best[3]]


def _ranking(
    finished: Finished, part: pd.DataFrame, settings: Sequence[str], setting: str | None, note: str
) -> MethodRanking:
    values, strata = block_matrix(part, METRIC)
    # The mean over settings of the mean over seeds, so that a setting with more seeds weighs no more.
    means = part.groupby(["method", "setting"], sort=False)[METRIC].mean().groupby(level=0, sort=False).mean()
    order = means.sort_values(ascending=False, kind="stable").index.tolist()
    data_sets = part.drop_duplicates("setting").set_index("setting")["dataset"]
    ranked = rank_methods(values, data_sets.loc[strata].tolist(), alpha=ALPHA)
    intervals = {quantity: _intervals(part, quantity) for quantity in _QUANTITIES}
    levels = _levels(finished.savings, settings, order)
    versus_random = _versus(values, strata, finished.reference)
    versus_best = _versus(values, strata, str(order[0]))
    members = dict(iter(part.groupby("method", sort=False)))
    rows = [
        replace(
            _score(finished, str(method), members[method], settings, intervals),
            levels=levels[method],
            mean_rank=ranked.mean_ranks.get(method),
            versus_random=versus_random.get(method),
            versus_best=versus_best.get(method),
        )
        for method in order
    ]
    return MethodRanking(
        setting=setting, rows=tuple(rows), critical_difference=ranked.test, refusal=ranked.refusal, note=note
    )


def _score(
    finished: Finished,
    method: str,
    members: pd.DataFrame,
    settings: Sequence[str],
    intervals: Mapping[str, Mapping[str, Interval]],
) -> MethodScore:
    """Return what some finished cells of a method come to, without what other methods have to be there for."""
    cells = finished.cells
    n_planned = int((cells["setting"].isin(settings) & (cells["method"] == method)).sum())
    final, mean, last5, ramp_up, plateau = (
        _estimate(members, quantity, intervals.get(quantity, {}).get(method), len(settings)) for quantity in _QUANTITIES
    )
    assert final is not None and mean is not None  # noqa: PT018 - a finished cell has both
    return MethodScore(
        method=method,
        n_cells=len(members),
        n_cells_planned=n_planned,
        n_labeled=(int(members["n_labeled"].min()), int(members["n_labeled"].max())),
        final_accuracy=final,
        aulc=mean,
        aulc_last5=last5,
        ramp_up_aulc=ramp_up,
        plateau_aulc=plateau,
        passive_share=_passive_share(finished, members),
    )


def _estimate(members: pd.DataFrame, column: str, interval: Interval | None, n_settings: int) -> Estimate | None:
    if n_settings == 1:
        return estimate(members[column], interval)
    by_setting = members.groupby("setting")[column]
    is_balanced = by_setting.count().nunique() == 1
    whole = estimate(members[column], interval if is_balanced else None)
    return whole and replace(whole, mean=float(by_setting.mean().mean()), std=None)


def _intervals(part: pd.DataFrame, column: str) -> dict[str, Interval]:
    values, strata = block_matrix(part, column)
    if values.empty:
        return {}
    found = mean_intervals(values.to_numpy(dtype=np.float64), np.asarray(strata, dtype=np.str_))
    # An interval across settings would hold the differences between data sets, which nobody asks of a mean.
    return {
        str(method): one
        for method, one in zip(values.columns, found, strict=True)
        if one is not None and one.resampled == "within strata"
    }


def _passive_share(finished: Finished, members: pd.DataFrame) -> float | None:
    shares = []
    for setting, accuracy in members.groupby("setting", sort=False)["final_accuracy"]:
        passive = finished.passive_accuracy(str(setting))
        if passive is None or passive.mean == 0:
            return None
        shares.append(float(accuracy.mean()) / passive.mean)
    return float(np.mean(shares))


def _levels(
    savings: Sequence[LabelsSaved], settings: Sequence[str], methods: Sequence[str]
) -> dict[str, tuple[LabelsSaved, ...]]:
    """Return, for every method, the levels that all of the settings have; means over them where there are several."""
    known: dict[str, dict[str, dict[str, LabelsSaved]]] = {}
    for one in savings:
        if one.setting in settings:
            known.setdefault(one.label, {}).setdefault(one.method, {})[str(one.setting)] = one
    everywhere = {
        label: by_method
        for label, by_method in known.items()
        if len({setting for of in by_method.values() for setting in of}) == len(settings)
    }
    return {
        method: tuple(
            _over_settings(method, label, list(by_method.get(method, {}).values()), len(settings))
            for label, by_method in everywhere.items()
        )
        for method in methods
    }


def _over_settings(method: str, label: str, rows: Sequence[LabelsSaved], n_settings: int) -> LabelsSaved:
    if len(rows) == n_settings == 1:
        return rows[0]
    means = {
        name: float(np.mean([getattr(row, name) for row in rows]))
        if len(rows) == n_settings and all(getattr(row, name) is not None for row in rows)
        else None
        for name in ("n_labels", "saved_of", "labels_saved")
    }
    return LabelsSaved(setting=None, method=method, label=label, level=None, interval=None, **means)


def _versus(values: pd.DataFrame, strata: Sequence[str], baseline: str | None) -> dict[str, Comparison]:
    if baseline is None or baseline not in values.columns:
        return {}
    return {one.method: one for one in compare_with_baseline(values, strata, baseline=baseline, alpha=ALPHA)}


def clipping_effects(finished: Finished, methods: Mapping[str, Method]) -> tuple[ClippingEffect, ...]:
    """Compare every clipped method with the same one unclipped, over all settings and on each.

    Holm's correction runs over the methods that one kind of clipping is tried with. Random queries are left out:
    clipping takes the top of the ranking away, which for them is as random as the rest.
    """
    scores = finished.scores
    pairs: dict[str, dict[str, str]] = {}
    for name in scores["method"].unique():
        if clips_a_choice(methods[name]):
            pairs.setdefault(JOIN.join(methods[name].clipping), {})[name] = methods[name].unclipped
    found: list[ClippingEffect] = []
    for clipping, unclipped in pairs.items():
        both = scores[scores["method"].isin([*unclipped, *unclipped.values()])]
        for setting in (None, *both["setting"].unique().tolist()):
            part = both if setting is None else both[both["setting"] == setting]
            found += _effects(clipping, unclipped, part, setting)
    return tuple(found)


def clips_a_choice(method: Method) -> bool:
    """Return whether a method clips a ranking that means something."""
    return bool(method.clipping) and method.strategy != "random"


def _effects(
    clipping: str, unclipped: Mapping[str, str], part: pd.DataFrame, setting: str | None
) -> list[ClippingEffect]:
    """Compare all methods with one kind of clipping in one family: each is a column of differences against zero."""
    values, strata = block_matrix(part, METRIC)
    gains = pd.DataFrame(
        {
            method: values[method] - values[base]
            for method, base in unclipped.items()
            if method in values and base in values and (values[method] - values[base]).notna().any()
        },
        index=values.index,
    )
    unchanged = "without clipping"
    gains[unchanged] = 0.0
    return [
        ClippingEffect(
            method=unclipped[one.method],
            filters=clipping,
            setting=setting,
            comparison=replace(one, against=unclipped[one.method]),
        )
        for one in compare_with_baseline(gains, strata, baseline=unchanged, alpha=ALPHA)
    ]
