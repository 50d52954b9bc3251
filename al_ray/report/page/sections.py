"""The sections of the page: what each one shows, in words, table rows and charts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from al_ray.records.cell import CellStatus
from al_ray.report.analysis.curves import MIN_SEEDS
from al_ray.report.analysis.results import (
    METRIC,
    POOL,
    Acquired,
    Agreement,
    Calibration,
    ClassShares,
    ClippingEffect,
    Cost,
    Crossing,
    Curve,
    MethodRanking,
    MethodScore,
    Queries,
    Setting,
    StudyResults,
)
from al_ray.report.analysis.survey import MIN_METHODS, SEED, AxisSummary, summarise
from al_ray.report.page.charts import (
    N_STYLES,
    Look,
    agreement_ruler,
    agreement_strip,
    bar_strip,
    curves_chart,
    difference_ruler,
    difference_scale,
    difference_strip,
    ranks_chart,
    reliability_chart,
)
from al_ray.report.stats.paired import Comparison
from al_ray.report.verdict import what_survives
from al_ray.report.wording import DASH, count, number, p_words, percent, plural, seconds_in_words, some

_UNFINISHED: tuple[CellStatus, ...] = ("failed", "running", "waiting")


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """One method on one setting: ``4 of 5``, what else there is, and the class that colours it."""

    words: str
    more: str
    css: str


@dataclass(frozen=True, kw_only=True)
class StateView:
    """The section on the state of the study; its cells are rows of :attr:`StudyResults.cells`.

    Attributes:
        counts: cells by status, those without a cell too.
        rows: method -> one grid cell a setting.
        failures: reason -> all cells that failed for it, the commonest first.
        running: cells that are under way.
    """

    counts: Mapping[str, int]
    rows: Mapping[str, tuple[GridCell, ...]]
    failures: Mapping[str, Sequence[Any]]
    running: Sequence[Any]


def state_view(results: StudyResults) -> StateView:
    """Sort the cells of a study."""
    cells = list(results.cells.itertuples())
    at_place: dict[tuple[str, str], Counter[str]] = {}
    failures: dict[str, list[Any]] = {}
    for cell in cells:
        at_place.setdefault((cell.method, cell.setting), Counter())[cell.status] += 1
        if cell.status == "failed":
            failures.setdefault(cell.reason, []).append(cell)
    return StateView(
        counts={status: results.n(status) for status in ("done", "running", "failed", "waiting")},
        rows={
            name: tuple(_grid_cell(at_place.get((name, setting.name))) for setting in results.settings)
            for name in results.methods
        },
        failures=dict(sorted(failures.items(), key=lambda entry: -len(entry[1]))),
        running=[cell for cell in cells if cell.status == "running"],
    )


def _grid_cell(counts: Counter[str] | None) -> GridCell:
    if counts is None:
        return GridCell(words=DASH, more="", css="none")
    unfinished = [status for status in _UNFINISHED if counts[status]]
    return GridCell(
        words=f"{counts['done']} of {counts.total()}",
        more=", ".join(f"{counts[status]} {status}" for status in unfinished),
        css=unfinished[0] if unfinished else "done",
    )


@dataclass(frozen=True, kw_only=True)
class CurvesView:
    """Learning curves of one setting, as a chart and as a table.

    Attributes:
        name: of the setting.
        facts: sizes, seeds and the passive model in a few words.
        chart: the picture.
        columns: numbers of labels of any curve.
        rows: look and accuracies, a dash where a curve has no such point.
    """

    name: str
    facts: str
    chart: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[Look, tuple[str, ...]], ...]


def curves_views(results: StudyResults, looks: Mapping[str, Look]) -> list[CurvesView]:
    """Return the settings that have a curve."""
    views = []
    for setting in results.settings:
        curves = [curve for curve in results.learning_curves if curve.setting == setting.name and curve.mean]
        if curves:
            views.append(_curves_view(setting, sorted(curves, key=lambda curve: looks[curve.method].index), looks))
    return views


def _curves_view(setting: Setting, curves: Sequence[Curve], looks: Mapping[str, Look]) -> CurvesView:
    columns = sorted({n for curve in curves for n in curve.n_labeled})
    values = [dict(zip(curve.n_labeled, curve.mean, strict=True)) for curve in curves]
    return CurvesView(
        name=setting.name,
        facts=_facts(setting, curves),
        chart=curves_chart(setting, curves, looks),
        columns=tuple(count(n) for n in columns),
        rows=tuple(
            (looks[curve.method], tuple(percent(found.get(n)) for n in columns))
            for curve, found in zip(curves, values, strict=True)
        ),
    )


def _facts(setting: Setting, curves: Sequence[Curve]) -> str:
    seeds = sorted({curve.n_seeds for curve in curves})
    words = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' if seeds[0] > 1 else ''}"
    parts = [words]
    sizes = ((setting.n_classes, "classes"), (setting.n_pool, "in the pool"), (setting.n_test, "test examples"))
    parts += [f"{count(n)} {noun}" for n, noun in sizes if n is not None]
    parts += [f"passive {percent(setting.passive.mean)}"] if setting.passive else []
    return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class RankingView:
    """One ranking, as a table and a critical-difference diagram.

    Attributes:
        title: which settings.
        rows: best first.
        levels: place among the levels of a row -> name, of those at which anything is known.
        figures: fields of :class:`MethodScore` that some row has, of those that not every row must have.
        has_spread: whether any row has a standard deviation.
        has_effect: whether any row has an effect size.
        interval_level: coverage of the intervals in it, None without any.
        chart: critical-difference diagram, None where refused.
        remarks: what was refused or left out, one sentence each.
    """

    title: str
    rows: tuple[MethodScore, ...]
    levels: Mapping[int, str]
    figures: frozenset[str]
    has_spread: bool
    has_effect: bool
    interval_level: float | None
    chart: Markup | None
    remarks: tuple[str, ...]


def ranking_views(results: StudyResults, looks: Mapping[str, Look]) -> list[RankingView]:
    """Return the rankings that have a row; with one setting only, the one over all of them stands for it."""
    rankings = [ranking for ranking in results.rankings if ranking.rows]
    per_setting = [ranking for ranking in rankings if ranking.setting is not None]
    kept = rankings if len(per_setting) > 1 else rankings[:1]
    only = per_setting[0].setting if len(per_setting) == 1 else None
    return [_ranking_view(ranking, ranking.setting or only or "All settings", looks) for ranking in kept]


def _ranking_view(ranking: MethodRanking, title: str, looks: Mapping[str, Look]) -> RankingView:
    rows, test = ranking.rows, ranking.critical_difference
    versus = [row.versus_random for row in rows if row.versus_random]
    levels = {
        at: level.label
        for at, level in enumerate(rows[0].levels)
        if any(row.levels[at].labels_saved is not None for row in rows)
    }
    optional = ("aulc_last5", "ramp_up_aulc", "passive_share", "mean_rank", "versus_random")
    return RankingView(
        title=title,
        rows=rows,
        levels=levels,
        figures=frozenset(name for name in optional if any(getattr(row, name) is not None for row in rows)),
        has_spread=any(row.final_accuracy.std is not None for row in rows),
        has_effect=any(one.effect_size is not None for one in versus),
        interval_level=next((one.interval.level for one in versus if one.interval), None),
        chart=ranks_chart(test, looks) if test else None,
        remarks=tuple(_ranking_remarks(ranking, levels, versus)),
    )


def _ranking_remarks(ranking: MethodRanking, levels: Mapping[int, str], versus: Sequence[Comparison]) -> list[str]:
    said = [ranking.note, f"No critical-difference diagram: {ranking.refusal}" if ranking.refusal else ""]
    unknown = [level.label for at, level in enumerate(ranking.rows[0].levels) if at not in levels]
    if unknown:
        said.append(f"No column for {some(unknown, 'level')}: no method has labels saved there.")
    if test := ranking.critical_difference:
        result = f"chi-square {test.statistic:.1f}, {p_words(test.p_value)}"
        said += [f"Friedman's test over {plural(test.n_units, test.unit)}: {result}.", test.unit_note]
        if test.n_blocks_dropped:
            dropped = plural(test.n_blocks_dropped, "block")
            said.append(f"{dropped} left out, because a method has no finished cell there.")
    return [text for text in (*said, *_refusals((one.method, one) for one in versus)) if text]


def _refusals(comparisons: Iterable[tuple[str, Comparison]]) -> list[str]:
    refused: dict[str, list[str]] = {}
    for method, comparison in comparisons:
        if comparison.refusal:
            refused.setdefault(comparison.refusal, []).append(method)
    return [f"No p-value for {some(methods, 'method')}: {reason}" for reason, methods in refused.items()]


@dataclass(frozen=True, kw_only=True)
class ClippingView:
    """Effects of clipping on one setting, or over all of them.

    Attributes:
        title: which.
        ruler: axis of the drawings.
        rows: effect and drawing, greatest gain first.
        remarks: what was refused, one sentence each.
    """

    title: str
    ruler: Markup
    rows: tuple[tuple[ClippingEffect, Markup], ...]
    remarks: tuple[str, ...]


def clipping_views(results: StudyResults) -> list[ClippingView]:
    """Return the effects over all settings first."""
    settings = list(dict.fromkeys(effect.setting for effect in results.clipping))
    ordered = sorted(settings, key=lambda name: name is not None)
    shown = ordered[:1] if len(ordered) == 2 and ordered[0] is None else ordered
    return [_clipping_view(name, [e for e in results.clipping if e.setting == name], results.alpha) for name in shown]


def _clipping_view(setting: str | None, effects: Sequence[ClippingEffect], alpha: float) -> ClippingView:
    scale = difference_scale([effect.comparison for effect in effects])
    ordered = sorted(effects, key=lambda effect: -effect.comparison.difference)
    return ClippingView(
        title=setting or "All settings",
        ruler=difference_ruler(scale),
        rows=tuple((effect, difference_strip(effect.comparison, scale, alpha)) for effect in ordered),
        remarks=tuple(_refusals((effect.method, effect.comparison) for effect in ordered)),
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationView:
    """Calibration on one setting, as a table and reliability diagrams; ``test`` or ``queried`` may lack a record.

    Attributes:
        name: of the setting.
        rows: look of a method -> split -> figures, in the order of the ranking.
        charts: look -> split -> diagram, of the methods that stand out.
        n_without_chart: methods that have bins but no diagram here.
    """

    name: str
    rows: Mapping[Look, Mapping[str, Calibration]]
    charts: Mapping[Look, Mapping[str, Markup]]
    n_without_chart: int


def calibration_views(results: StudyResults, looks: Mapping[str, Look]) -> list[CalibrationView]:
    """Return the settings that have a figure."""
    names = [setting.name for setting in results.settings]
    found = {name: [entry for entry in results.calibrations if entry.setting == name] for name in names}
    return [_calibration_view(name, entries, looks) for name, entries in found.items() if entries]


def _calibration_view(name: str, entries: Sequence[Calibration], looks: Mapping[str, Look]) -> CalibrationView:
    rows: dict[Look, dict[str, Calibration]] = {}
    for entry in sorted(entries, key=lambda entry: (looks[entry.method].index, entry.on != "test")):
        rows.setdefault(looks[entry.method], {})[entry.on] = entry
    drawable = [look for look, found in rows.items() if any(entry.bins for entry in found.values())]
    shown = [look for look in drawable if not look.is_plain] or drawable[:N_STYLES]
    return CalibrationView(
        name=name,
        rows=rows,
        charts={
            look: {on: reliability_chart(entry, look) for on, entry in rows[look].items() if entry.bins}
            for look in shown
        },
        n_without_chart=len(drawable) - len(shown),
    )


N_SHOWN = 12
_STRONG = 0.2


@dataclass(frozen=True, kw_only=True)
class Tint:
    """A table cell: words, and how strongly ([0, 100]) it is coloured, ``up``, ``down`` or ``heat``."""

    words: str
    css: str = ""
    strength: int = 0


@dataclass(frozen=True, kw_only=True)
class TintedTable:
    """A table of tinted cells.

    Attributes:
        columns: their names.
        rows: name, look (None for the pool) and cells.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, Look | None, tuple[Tint, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class QueriesView:
    """Queries of one setting; a table is None where nothing of it is known.

    Attributes:
        name: of the setting.
        classes: share of every class.
        overlap: Jaccard index of the first methods of the ranking.
        overlap_all: of all methods, None where ``overlap`` holds them already.
        by_chance: Jaccard index of random draws, in words; empty where unknown.
        has_pool: whether the shares of the pool are known, which the tints compare with.
        acquired: share of outliers, of texts of no class, and of kinds.
        chosen_by: which of several strategies chose, where a method chooses among them.
    """

    name: str
    classes: TintedTable | None
    overlap: TintedTable | None
    overlap_all: TintedTable | None
    by_chance: str
    has_pool: bool
    acquired: TintedTable | None
    chosen_by: TintedTable | None


def queries_views(results: StudyResults, looks: Mapping[str, Look]) -> list[QueriesView]:
    """Return the settings of which anything is known."""
    return [
        _queries_view(entry, looks) for entry in results.queries if entry.classes or entry.overlap or entry.acquired
    ]


def _queries_view(entry: Queries, looks: Mapping[str, Look]) -> QueriesView:
    names = sorted({one.method for one in entry.overlap}, key=lambda name: looks[name].index)
    odd = [one for one in entry.acquired if one.outliers is not None or one.rejected is not None or one.kinds]
    choosing = sorted((one for one in entry.acquired if one.chosen_by), key=lambda one: looks[one.method].index)
    return QueriesView(
        name=entry.setting,
        classes=_classes(entry, looks) if entry.classes else None,
        overlap=_overlap(entry, names[:N_SHOWN], looks) if names else None,
        overlap_all=_overlap(entry, names, looks) if len(names) > N_SHOWN else None,
        by_chance="" if entry.jaccard_by_chance is None else number(entry.jaccard_by_chance, 3),
        has_pool=bool(entry.pool) or any(row.method == POOL for row in odd),
        acquired=_acquired(odd, looks) if odd else None,
        chosen_by=_chosen_by(choosing, looks) if choosing else None,
    )


def _classes(entry: Queries, looks: Mapping[str, Look]) -> TintedTable:
    more = ("distance to pool", "queried") if entry.pool else ("queried",)
    rows: list[tuple[str, Look | None, tuple[Tint, ...]]] = []
    if entry.pool:
        rows.append(
            (POOL, None, (*(Tint(words=percent(share)) for share in entry.pool), *[Tint(words="")] * len(more)))
        )
    for row in sorted(entry.classes, key=lambda one: looks[one.method].index):
        rows.append((row.method, looks[row.method], _class_cells(row, entry.pool)))
    return TintedTable(columns=(*entry.class_names, *more), rows=tuple(rows))


def _class_cells(row: ClassShares, pool: Sequence[float]) -> tuple[Tint, ...]:
    shares = [_against(share, pool[at] if pool else None) for at, share in enumerate(row.shares)]
    distance = [Tint(words=number(row.distance))] if pool else []
    return (*shares, *distance, Tint(words=count(row.n_queried)))


def _against(share: float | None, expected: float | None) -> Tint:
    if share is None or expected is None:
        return Tint(words=percent(share))
    change = share - expected
    strength = round(min(abs(change) / _STRONG, 1.0) * 100)
    return Tint(words=percent(share), css="up" if change > 0 else "down", strength=strength)


def _overlap(entry: Queries, names: Sequence[str], looks: Mapping[str, Look]) -> TintedTable:
    jaccard = {(one.method, one.other): one.jaccard for one in entry.overlap}
    rows = [
        (f"{place}. {name}", looks[name], tuple(_shared(name, other, jaccard) for other in names))
        for place, name in enumerate(names, start=1)
    ]
    return TintedTable(columns=tuple(str(place) for place in range(1, len(names) + 1)), rows=tuple(rows))


def _shared(name: str, other: str, jaccard: Mapping[tuple[str, str], float]) -> Tint:
    value = jaccard.get((name, other))
    if name == other:
        return Tint(words="", css="self")
    if value is None:
        return Tint(words=DASH)
    return Tint(words=number(value), css="heat", strength=round(value * 100))


_ODD = {"outliers": "outliers", "rejected": "of no class"}


def _acquired(rows: Sequence[Acquired], looks: Mapping[str, Look]) -> TintedTable:
    regions = tuple(dict.fromkeys(region for row in rows for region in row.regions))
    kinds = tuple(dict.fromkeys(kind for row in rows for kind in row.kinds))
    odd = [name for name in _ODD if any(getattr(row, name) is not None for row in rows)]
    pool = next((row for row in rows if row.method == POOL), None)
    ordered = sorted(rows, key=lambda row: -1 if row is pool else looks[row.method].index)
    return TintedTable(
        columns=(*(_ODD[name] for name in odd), *(f"map: {region}" for region in regions), *kinds),
        rows=tuple((row.method, looks.get(row.method), _odd_cells(row, pool, odd, regions, kinds)) for row in ordered),
    )


def _odd_cells(
    row: Acquired, pool: Acquired | None, odd: Sequence[str], regions: Sequence[str], kinds: Sequence[str]
) -> tuple[Tint, ...]:
    usual = None if row is pool else pool
    shares = [(getattr(row, name), getattr(usual, name) if usual else None) for name in odd]
    shares += [(row.regions.get(name), usual.regions.get(name) if usual else None) for name in regions]
    shares += [(row.kinds.get(name), usual.kinds.get(name) if usual else None) for name in kinds]
    return tuple(_against(share, of_pool) for share, of_pool in shares)


def _chosen_by(rows: Sequence[Acquired], looks: Mapping[str, Look]) -> TintedTable:
    names = tuple(dict.fromkeys(name for row in rows for name in row.chosen_by))
    return TintedTable(
        columns=names,
        rows=tuple(
            (row.method, looks[row.method], tuple(_against(row.chosen_by.get(name), None) for name in names))
            for row in rows
        ),
    )


def recorded_phases(results: StudyResults) -> list[str]:
    """Return the phases that took any time, in the order of the bars of costs."""
    seconds = [cost.seconds for cost in results.method_costs]
    return list(dict.fromkeys(phase for of_phase in seconds for phase, took in of_phase.items() if took > 0))


def cost_views(results: StudyResults) -> dict[str, list[tuple[Cost, Markup]]]:
    """Return, for every setting that has recorded seconds, the costs with their bars, cheapest first."""
    phases = recorded_phases(results)
    by_setting: dict[str, list[Cost]] = {}
    for cost in sorted(results.method_costs, key=lambda cost: cost.total_s):
        by_setting.setdefault(cost.setting, []).append(cost)
    names = dict.fromkeys(cost.setting for cost in results.method_costs)
    return {
        name: [(cost, _bar(cost, phases, by_setting[name][-1].total_s)) for cost in by_setting[name]] for name in names
    }


def _bar(cost: Cost, phases: Sequence[str], whole: float) -> Markup:
    parts = {
        f"{phase}: {seconds_in_words(cost.seconds.get(phase, 0.0))}": cost.seconds.get(phase, 0.0) for phase in phases
    }
    return bar_strip(parts, whole, f"{cost.method}: {seconds_in_words(cost.total_s)} a cell")


MOST_ROWS = 60


@dataclass(frozen=True, kw_only=True)
class PairOfValues:
    """Leaderboards under two values of one axis: ``tau`` by metric, mean over what is held; ``p`` the greatest."""

    axis: str
    value: str
    other: str
    n_held: int
    n_methods: str
    taus: tuple[float | None, ...]
    p_value: float | None


@dataclass(frozen=True, kw_only=True)
class SurveyView:
    """What changes of the axes of a study do to its ranking.

    Attributes:
        answer: one sentence, may be empty.
        has_changes: whether anything but seeds was compared.
        has_halves: whether there were seeds enough to tell what other seeds alone do.
        ruler: axis of the drawings.
        metrics: what methods are ordered by, in words.
        axes: summary, tau by metric, and drawing, one row an axis.
        pairs: one row a pair of values.
        crossings: what can be said of pairs of methods.
        remarks: what was left out, one sentence each.
    """

    answer: str
    has_changes: bool
    has_halves: bool
    ruler: Markup
    metrics: tuple[str, ...]
    axes: tuple[tuple[AxisSummary, tuple[float | None, ...], Markup], ...]
    pairs: tuple[PairOfValues, ...]
    crossings: tuple[Crossing, ...]
    remarks: tuple[str, ...]


_METRIC_WORDS = {
    "aulc": "curve, all points",
    "final_accuracy": "final accuracy",
    "ramp_up_aulc": "ramp-up",
    "plateau_aulc": "plateau",
}


def survey_view(results: StudyResults) -> SurveyView | None:
    """Return the section, None where nothing was compared."""
    found, crossings = results.agreements, results.crossing_points
    if not found and not crossings:
        return None
    metrics = [metric for metric in _METRIC_WORDS if any(one.metric == metric for one in found)]
    axes = summarise(found)
    pairs = _pairs_of_values(found, metrics)
    # Along learning curves every pair of methods is looked at on every setting: what does not cross stays in the table.
    told = [one for one in crossings if one.over == "initial_size" or (one.is_shown and one.n_labels is not None)]
    told.sort(key=lambda one: not (one.is_shown and one.n_labels is not None))
    return SurveyView(
        answer=what_survives(results),
        has_changes=any(one.axis != SEED for one in axes),
        has_halves=any(one.tau_same is not None for one in axes),
        ruler=agreement_ruler(),
        metrics=tuple(_METRIC_WORDS[metric] for metric in metrics),
        axes=tuple(
            (one, tuple(one.mean(metric) for metric in metrics), agreement_strip(one.taus[METRIC], one.tau_same))
            for one in axes
        ),
        pairs=tuple(pairs[:MOST_ROWS]),
        crossings=tuple(told[:MOST_ROWS]),
        remarks=tuple(_survey_remarks(found, crossings, told, len(pairs))),
    )


def _pairs_of_values(found: Sequence[Agreement], metrics: Sequence[str]) -> list[PairOfValues]:
    by_pair: dict[tuple[str, str, str], list[Agreement]] = {}
    for one in found:
        if one.axis != SEED:
            by_pair.setdefault((one.axis, one.value, one.other), []).append(one)
    rows = []
    for (axis, value, other), members in by_pair.items():
        taus = [[one.tau for one in members if one.metric == metric] for metric in metrics]
        p_values = [one.p_value for one in members if one.metric == METRIC and one.p_value is not None]
        sizes = sorted({one.n_methods for one in members})
        rows.append(
            PairOfValues(
                axis=axis,
                value=value,
                other=other,
                n_held=len({one.held for one in members}),
                n_methods=str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
                taus=tuple(sum(of) / len(of) if of else None for of in taus),
                p_value=max(p_values, default=None),
            )
        )
    return rows


def _survey_remarks(
    found: Sequence[Agreement], crossings: Sequence[Crossing], told: Sequence[Crossing], n_pairs: int
) -> list[str]:
    said = []
    if not found:
        said.append(
            f"No two rankings can be compared: that takes {MIN_METHODS} methods with finished cells on two seeds, or "
            "on settings that differ in one axis."
        )
    elif all(one.axis == SEED for one in found):
        said.append(
            f"No two settings differ in one axis alone and share {MIN_METHODS} methods on a finished seed, so seeds "
            "are all that can be compared."
        )
    if n_pairs > MOST_ROWS:
        said.append(f"{n_pairs - MOST_ROWS} more pairs of values stand in the table agreement.")
    along = [one for one in crossings if one.over == "n_labeled"]
    if along:
        n_shown = sum(one.is_shown and one.n_labels is not None for one in along)
        pairs = plural(len(along), "pair")
        said.append(
            f"Along learning curves {count(n_shown)} of {pairs} of methods and settings are shown to cross. Chance "
            "makes about one in twenty seem to, and nothing is corrected for that."
        )
    if len(told) > MOST_ROWS:
        said.append(f"{len(told) - MOST_ROWS} more crossings stand in the table crossings.")
    if not crossings:
        said.append(f"No pair of methods has {MIN_SEEDS} seeds in common, so nothing is said of crossings.")
    return said


def over_words(one: Crossing) -> str:
    """Say over what labels are counted."""
    return "the learning curve" if one.over == "n_labeled" else "initial sizes"


def crossing_words(one: Crossing) -> str:
    """Say where one method overtakes the other, or that it does not."""
    if one.n_labels is None and one.is_shown:
        return "none: the first is ahead"
    if one.n_labels is None:
        return "none, and neither is shown to be ahead"
    if not one.is_shown:
        return "none is shown"
    return f"the other from {plural(one.n_labels, 'label')} on"
