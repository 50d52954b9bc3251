"""Whether confidences can be believed: figures for all methods, diagrams for those that stand out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from al_ray.report.charts.reliability import reliability_chart
from al_ray.report.charts.styles import N_STYLES, Look
from al_ray.report.content import Calibration, ReportContent


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """One method; a split without a record is None."""

    look: Look
    test: Calibration | None
    queried: Calibration | None


@dataclass(frozen=True, kw_only=True)
class CalibrationView:
    """One setting.

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


def calibration_views(content: ReportContent, looks: Mapping[str, Look]) -> list[CalibrationView]:
    """Return the settings that have a figure."""
    names = dict.fromkeys([*(setting.name for setting in content.settings), *(e.setting for e in content.calibration)])
    found = {name: [entry for entry in content.calibration if entry.setting == name] for name in names}
    return [_view(name, entries, looks) for name, entries in found.items() if entries]


def _view(name: str, entries: Sequence[Calibration], looks: Mapping[str, Look]) -> CalibrationView:
    by_place = {(entry.method, entry.on): entry for entry in entries}
    methods = sorted({entry.method for entry in entries}, key=lambda method: looks[method].index)
    rows = [
        CalibrationRow(
            look=looks[method], test=by_place.get((method, "test")), queried=by_place.get((method, "queried"))
        )
        for method in methods
    ]
    drawable = [row for row in rows if _has_bins(row)]
    shown = [row for row in drawable if not row.look.is_plain] or drawable[:N_STYLES]
    return CalibrationView(
        name=name,
        rows=tuple(rows),
        charts=tuple((row, _charts(row)) for row in shown),
        n_without_chart=len(drawable) - len(shown),
    )


def _has_bins(row: CalibrationRow) -> bool:
    return any(entry is not None and bool(entry.bins) for entry in (row.test, row.queried))


def _charts(row: CalibrationRow) -> tuple[tuple[str, Markup], ...]:
    both = (("test", row.test), ("queried", row.queried))
    return tuple((on, reliability_chart(entry, row.look)) for on, entry in both if entry and entry.bins)
