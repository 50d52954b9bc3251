"""What was queried: classes against the pool, overlap between methods, what is odd; all as tinted tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from al_ray.report.charts.styles import Look
from al_ray.report.content import Acquired, ClassShares, Queries, ReportContent
from al_ray.report.wording import DASH, count, number, percent

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
    """One setting; a table is None where nothing of it is known.

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


def queries_views(content: ReportContent, looks: Mapping[str, Look]) -> list[QueriesView]:
    """Return the settings of which anything is known."""
    return [
        _view(entry, looks) for entry in content.queries if entry.classes or entry.overlap_methods or entry.acquired
    ]


def _view(entry: Queries, looks: Mapping[str, Look]) -> QueriesView:
    names = entry.overlap_methods
    order = sorted(range(len(names)), key=lambda at: looks[names[at]].index)
    return QueriesView(
        name=entry.setting,
        classes=_classes(entry, looks) if entry.classes else None,
        overlap=_overlap(entry, order[:N_SHOWN], looks) if names else None,
        overlap_all=_overlap(entry, order, looks) if len(names) > N_SHOWN else None,
        by_chance="" if entry.jaccard_by_chance is None else number(entry.jaccard_by_chance, 3),
        has_pool=bool(entry.pool) or any(row.method == "pool" for row in entry.acquired),
        acquired=_acquired(entry.acquired, looks) if entry.acquired else None,
    )


def _classes(entry: Queries, looks: Mapping[str, Look]) -> TintedTable:
    more = ("distance to pool", "queried") if entry.pool else ("queried",)
    rows: list[tuple[str, Look | None, tuple[Tint, ...]]] = []
    if entry.pool:
        rows.append(
            ("pool", None, (*(Tint(words=percent(share)) for share in entry.pool), *[Tint(words="")] * len(more)))
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


def _overlap(entry: Queries, order: Sequence[int], looks: Mapping[str, Look]) -> TintedTable:
    names = entry.overlap_methods
    rows = [
        (f"{place}. {names[at]}", looks[names[at]], tuple(_shared(entry, at, other) for other in order))
        for place, at in enumerate(order, start=1)
    ]
    return TintedTable(columns=tuple(str(place) for place in range(1, len(order) + 1)), rows=tuple(rows))


def _shared(entry: Queries, at: int, other: int) -> Tint:
    value = entry.jaccard[at][other]
    if at == other:
        return Tint(words="", css="self")
    if value is None:
        return Tint(words=DASH)
    return Tint(words=number(value), css="heat", strength=round(value * 100))


def _acquired(rows: Sequence[Acquired], looks: Mapping[str, Look]) -> TintedTable:
    kinds = tuple(dict.fromkeys(kind for row in rows for kind in row.kinds))
    has_outliers = any(row.outliers is not None for row in rows)
    pool = next((row for row in rows if row.method == "pool"), None)
    ordered = sorted(rows, key=lambda row: -1 if row is pool else looks[row.method].index)
    return TintedTable(
        columns=(*(("outliers",) if has_outliers else ()), *kinds),
        rows=tuple((row.method, looks.get(row.method), _odd_cells(row, pool, kinds, has_outliers)) for row in ordered),
    )


def _odd_cells(row: Acquired, pool: Acquired | None, kinds: Sequence[str], has_outliers: bool) -> tuple[Tint, ...]:
    expected = Acquired(method="") if pool is None or row is pool else pool
    outliers = (_against(row.outliers, expected.outliers),) if has_outliers else ()
    return (*outliers, *(_against(row.kinds.get(kind), expected.kinds.get(kind)) for kind in kinds))
