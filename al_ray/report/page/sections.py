"""The sections of the page: what each one shows, in words, table rows and charts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from al_ray.report.analysis.results import (
    POOL,
    Acquired,
    Calibration,
    CellState,
    ClassShares,
    ClippingEffect,
    Cost,
    Curve,
    LabelsSaved,
    MethodScore,
    Queries,
    Ranking,
    Setting,
    Status,
    StudyResults,
)
from al_ray.report.page.charts import (
    N_STYLES,
    Look,
    bar_strip,
    curves_chart,
    difference_ruler,
    difference_scale,
    difference_strip,
    ranks_chart,
    reliability_chart,
)
from al_ray.report.stats.paired import Comparison
from al_ray.report.stats.ranks import CriticalDifference
from al_ray.report.wording import DASH, count, duration, number, p_words, percent, plural, some

_STATUSES: tuple[Status, ...] = ("done", "running", "failed", "waiting")


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """One method on one setting: ``4 of 5``, what else there is, and the class that colours it."""

    words: str
    more: str
    css: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One reason, and all cells that failed for it."""

    reason: str
    cells: tuple[CellState, ...]


@dataclass(frozen=True, kw_only=True)
class StateView:
    """The section on the state of the study.

    Attributes:
        counts: cells by status, those without a cell too.
        columns: settings.
        rows: method -> one grid cell a column.
        failures: the commonest reason first.
        running: cells that are under way.
    """

    counts: dict[str, int]
    columns: tuple[str, ...]
    rows: dict[str, tuple[GridCell, ...]]
    failures: tuple[Failure, ...]
    running: tuple[CellState, ...]


def state_view(results: StudyResults) -> StateView:
    """Sort the cells of a study."""
    columns = tuple(setting.name for setting in results.settings)
    by_place: dict[tuple[str, str], list[CellState]] = {}
    for cell in results.cell_states:
        by_place.setdefault((cell.method, cell.setting), []).append(cell)
    return StateView(
        counts={status: results.n(status) for status in _STATUSES},
        columns=columns,
        rows={
            name: tuple(_grid_cell(by_place.get((name, column), [])) for column in columns) for name in results.methods
        },
        failures=_failures(results.cell_states),
        running=tuple(cell for cell in results.cell_states if cell.status == "running"),
    )


def _grid_cell(cells: Sequence[CellState]) -> GridCell:
    if not cells:
        return GridCell(words="–", more="", css="none")
    counts = {status: sum(cell.status == status for cell in cells) for status in _STATUSES}
    more = ", ".join(f"{counts[status]} {status}" for status in ("failed", "running", "waiting") if counts[status])
    worst = next((status for status in ("failed", "running", "waiting") if counts[status]), "done")
    return GridCell(words=f"{counts['done']} of {len(cells)}", more=more, css=worst)


def _failures(cells: Sequence[CellState]) -> tuple[Failure, ...]:
    by_reason: dict[str, list[CellState]] = {}
    for cell in cells:
        if cell.status == "failed":
            by_reason.setdefault(cell.reason or "no reason was recorded", []).append(cell)
    found = [Failure(reason=reason, cells=tuple(group)) for reason, group in by_reason.items()]
    return tuple(sorted(found, key=lambda failure: -len(failure.cells)))


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
class RankingRow:
    """One method, its levels that have a column, and whether it differs from random queries by more than chance."""

    look: Look
    score: MethodScore
    levels: tuple[LabelsSaved, ...]
    is_significant: bool


@dataclass(frozen=True, kw_only=True)
class RankingView:
    """One ranking, as a table and a critical-difference diagram.

    Attributes:
        title: which settings.
        levels: names of the accuracy levels at which anything is known.
        rows: best first.
        has_random: whether there is anything to compare with random queries.
        has_last5, has_passive, has_ranks, has_spread: whether any row has that figure.
        interval_level: coverage of the intervals in it, None without any.
        has_effect: whether any row has an effect size.
        chart: critical-difference diagram, None where refused.
        remarks: what was refused or left out, one sentence each.
    """

    title: str
    levels: tuple[str, ...]
    rows: tuple[RankingRow, ...]
    has_random: bool
    has_last5: bool
    has_passive: bool
    has_ranks: bool
    has_spread: bool
    interval_level: float | None
    has_effect: bool
    chart: Markup | None
    remarks: tuple[str, ...]


def ranking_views(results: StudyResults, looks: Mapping[str, Look]) -> list[RankingView]:
    """Return the rankings that have a row; with one setting only, the one over all of them stands for it."""
    rankings = [ranking for ranking in results.rankings if ranking.rows]
    per_setting = [ranking for ranking in rankings if ranking.setting is not None]
    kept = rankings if len(per_setting) > 1 else rankings[:1]
    only = per_setting[0].setting if len(per_setting) == 1 else None
    return [_ranking_view(ranking, ranking.setting or only or "All settings", results.alpha, looks) for ranking in kept]


def _ranking_view(ranking: Ranking, title: str, alpha: float, looks: Mapping[str, Look]) -> RankingView:
    rows = ranking.rows
    versus = [row.versus_random for row in rows if row.versus_random]
    covered = [one.interval.level for one in versus if one.interval]
    kept = _known_levels(rows)
    return RankingView(
        title=title,
        levels=tuple(rows[0].levels[at].label for at in kept),
        rows=tuple(_row(row, kept, alpha, looks) for row in rows),
        has_random=bool(versus),
        has_last5=any(row.aulc_last5 is not None for row in rows),
        has_passive=any(row.passive_share is not None for row in rows),
        has_ranks=any(row.mean_rank is not None for row in rows),
        has_spread=any(row.final_accuracy.std is not None for row in rows),
        interval_level=covered[0] if covered else None,
        has_effect=any(one.effect_size is not None for one in versus),
        chart=ranks_chart(ranking.critical_difference, looks) if ranking.critical_difference else None,
        remarks=tuple(_ranking_remarks(ranking, versus)),
    )


def _row(row: MethodScore, kept: Sequence[int], alpha: float, looks: Mapping[str, Look]) -> RankingRow:
    return RankingRow(
        look=looks[row.method],
        score=row,
        levels=tuple(row.levels[at] for at in kept),
        is_significant=row.versus_random is not None and row.versus_random.is_significant(alpha),
    )


def _known_levels(rows: Sequence[MethodScore]) -> list[int]:
    places = range(len(rows[0].levels))
    return [at for at in places if any(row.levels[at].labels_saved is not None for row in rows)]


def _ranking_remarks(ranking: Ranking, versus: Sequence[Comparison]) -> list[str]:
    said = [ranking.note, f"No critical-difference diagram: {ranking.refusal}" if ranking.refusal else ""]
    said += [*_remarks_on_levels(ranking.rows), *_remarks_on_ranks(ranking.critical_difference)]
    return [text for text in (*said, *_refusals((one.method, one) for one in versus)) if text]


def _refusals(comparisons: Iterable[tuple[str, Comparison]]) -> list[str]:
    refused: dict[str, list[str]] = {}
    for method, comparison in comparisons:
        if comparison.refusal:
            refused.setdefault(comparison.refusal, []).append(method)
    return [f"No p-value for {some(methods, 'method')}: {reason}" for reason, methods in refused.items()]


def _remarks_on_levels(rows: Sequence[MethodScore]) -> list[str]:
    kept = _known_levels(rows)
    unknown = [level.label for at, level in enumerate(rows[0].levels) if at not in kept]
    return [f"No column for {some(unknown, 'level')}: no method has labels saved there."] if unknown else []


def _remarks_on_ranks(test: CriticalDifference | None) -> list[str]:
    if test is None:
        return []
    result = f"chi-square {test.statistic:.1f}, {p_words(test.p_value)}"
    found = f"Friedman's test over {plural(test.n_units, test.unit)}: {result}."
    dropped = plural(test.n_blocks_dropped, "block")
    left_out = f"{dropped} left out, because a method has no finished cell there." if test.n_blocks_dropped else ""
    return [found, test.unit_note, left_out]


@dataclass(frozen=True, kw_only=True)
class ClippingView:
    """Effects of clipping on one setting, or over all of them.

    Attributes:
        title: which.
        ruler: axis of the drawings.
        rows: effect, look of the unfiltered method and drawing, greatest gain first.
        remarks: what was refused, one sentence each.
    """

    title: str
    ruler: Markup
    rows: tuple[tuple[ClippingEffect, Look, Markup], ...]
    remarks: tuple[str, ...]


def clipping_views(results: StudyResults, looks: Mapping[str, Look]) -> list[ClippingView]:
    """Return the effects over all settings first."""
    settings = list(dict.fromkeys(effect.setting for effect in results.clipping))
    ordered = sorted(settings, key=lambda name: name is not None)
    shown = ordered[:1] if len(ordered) == 2 and ordered[0] is None else ordered
    return [_clipping_view(name, [e for e in results.clipping if e.setting == name], results, looks) for name in shown]


def _clipping_view(
    setting: str | None, effects: Sequence[ClippingEffect], results: StudyResults, looks: Mapping[str, Look]
) -> ClippingView:
    scale = difference_scale([effect.comparison for effect in effects])
    ordered = sorted(effects, key=lambda effect: -effect.comparison.difference)
    return ClippingView(
        title=setting or "All settings",
        ruler=difference_ruler(scale),
        rows=tuple(
            (effect, looks[effect.method], difference_strip(effect.comparison, scale, is_significant=significant))
            for effect in ordered
            for significant in [effect.comparison.is_significant(results.alpha)]
        ),
        remarks=tuple(_refusals((effect.method, effect.comparison) for effect in ordered)),
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """Calibration of one method; a split without a record is None."""

    look: Look
    test: Calibration | None
    queried: Calibration | None


@dataclass(frozen=True, kw_only=True)
class CalibrationView:
    """Calibration on one setting, as a table and reliability diagrams.

    Attributes:
        name: of the setting.
        rows: figures, in the order of the ranking.
        charts: row and its diagrams (test, queried) of the methods that stand out.
        n_without_chart: methods that have bins but no diagram here.
    """

    name: str
    rows: tuple[CalibrationRow, ...]
    charts: tuple[tuple[CalibrationRow, tuple[tuple[str, Markup], ...]], ...]
    n_without_chart: int


def calibration_views(results: StudyResults, looks: Mapping[str, Look]) -> list[CalibrationView]:
    """Return the settings that have a figure."""
    names = [setting.name for setting in results.settings]
    found = {name: [entry for entry in results.calibrations if entry.setting == name] for name in names}
    return [_calibration_view(name, entries, looks) for name, entries in found.items() if entries]


def _calibration_view(name: str, entries: Sequence[Calibration], looks: Mapping[str, Look]) -> CalibrationView:
    by_place = {(entry.method, entry.on): entry for entry in entries}
    methods = sorted({entry.method for entry in entries}, key=lambda method: looks[method].index)
    rows = [
        CalibrationRow(
            look=looks[method], test=by_place.get((method, "test")), queried=by_place.get((method, "queried"))
        )
        for method in methods
    ]
    drawable = [row for row in rows if any(entry and entry.bins for entry in (row.test, row.queried))]
    shown = [row for row in drawable if not row.look.is_plain] or drawable[:N_STYLES]
    return CalibrationView(
        name=name,
        rows=tuple(rows),
        charts=tuple((row, _charts(row)) for row in shown),
        n_without_chart=len(drawable) - len(shown),
    )


def _charts(row: CalibrationRow) -> tuple[tuple[str, Markup], ...]:
    both = (("test", row.test), ("queried", row.queried))
    return tuple((on, reliability_chart(entry, row.look)) for on, entry in both if entry and entry.bins)


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
        acquired: share of outliers and kinds.
    """

    name: str
    classes: TintedTable | None
    overlap: TintedTable | None
    overlap_all: TintedTable | None
    by_chance: str
    has_pool: bool
    acquired: TintedTable | None


def queries_views(results: StudyResults, looks: Mapping[str, Look]) -> list[QueriesView]:
    """Return the settings of which anything is known."""
    return [
        _queries_view(entry, looks) for entry in results.queries if entry.classes or entry.overlap or entry.acquired
    ]


def _queries_view(entry: Queries, looks: Mapping[str, Look]) -> QueriesView:
    names = sorted({one.method for one in entry.overlap}, key=lambda name: looks[name].index)
    return QueriesView(
        name=entry.setting,
        classes=_classes(entry, looks) if entry.classes else None,
        overlap=_overlap(entry, names[:N_SHOWN], looks) if names else None,
        overlap_all=_overlap(entry, names, looks) if len(names) > N_SHOWN else None,
        by_chance="" if entry.jaccard_by_chance is None else number(entry.jaccard_by_chance, 3),
        has_pool=bool(entry.pool) or any(row.method == POOL for row in entry.acquired),
        acquired=_acquired(entry.acquired, looks) if entry.acquired else None,
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


def _acquired(rows: Sequence[Acquired], looks: Mapping[str, Look]) -> TintedTable:
    kinds = tuple(dict.fromkeys(kind for row in rows for kind in row.kinds))
    has_outliers = any(row.outliers is not None for row in rows)
    pool = next((row for row in rows if row.method == POOL), None)
    ordered = sorted(rows, key=lambda row: -1 if row is pool else looks[row.method].index)
    return TintedTable(
        columns=(*(("outliers",) if has_outliers else ()), *kinds),
        rows=tuple((row.method, looks.get(row.method), _odd_cells(row, pool, kinds, has_outliers)) for row in ordered),
    )


def _odd_cells(row: Acquired, pool: Acquired | None, kinds: Sequence[str], has_outliers: bool) -> tuple[Tint, ...]:
    usual = {} if pool is None or row is pool else pool.kinds
    outliers = (_against(row.outliers, None if pool is None or row is pool else pool.outliers),) if has_outliers else ()
    return (*outliers, *(_against(row.kinds.get(kind), usual.get(kind)) for kind in kinds))


@dataclass(frozen=True, kw_only=True)
class CostView:
    """Costs on one setting, as a table with bars.

    Attributes:
        name: of the setting.
        phases: in the order of the bars.
        rows: cost, look, total seconds and bar, cheapest first.
    """

    name: str
    phases: tuple[str, ...]
    rows: tuple[tuple[Cost, Look, float, Markup], ...]


def cost_views(results: StudyResults, looks: Mapping[str, Look]) -> list[CostView]:
    """Return the settings that have recorded seconds."""
    names = list(dict.fromkeys(cost.setting for cost in results.method_costs))
    phases = tuple(
        dict.fromkeys(phase for cost in results.method_costs for phase, seconds in cost.seconds.items() if seconds > 0)
    )
    return [
        _cost_view(name, phases, [cost for cost in results.method_costs if cost.setting == name], looks)
        for name in names
    ]


def _cost_view(name: str, phases: tuple[str, ...], costs: Sequence[Cost], looks: Mapping[str, Look]) -> CostView:
    totals = {cost.method: sum(cost.seconds.values()) for cost in costs}
    whole = max(totals.values())
    ordered = sorted(costs, key=lambda cost: totals[cost.method])
    return CostView(
        name=name,
        phases=phases,
        rows=tuple(
            (cost, looks[cost.method], totals[cost.method], _bar(cost, phases, totals[cost.method], whole))
            for cost in ordered
        ),
    )


def _bar(cost: Cost, phases: Sequence[str], total: float, whole: float) -> Markup:
    parts = {f"{phase}: {duration(cost.seconds.get(phase, 0.0))}": cost.seconds.get(phase, 0.0) for phase in phases}
    return bar_strip(parts, whole, f"{cost.method}: {duration(total)} a cell")
