"""What has been done of a study: counts, a grid of methods and settings, and every failure with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from al_ray.report.content import CellState, ReportContent, Status

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
        total: cells.
        counts: cells by status, those without a cell too.
        columns: settings.
        rows: method -> one grid cell a column.
        failures: the commonest reason first.
        running: cells that are under way.
    """

    total: int
    counts: dict[str, int]
    columns: tuple[str, ...]
    rows: dict[str, tuple[GridCell, ...]]
    failures: tuple[Failure, ...]
    running: tuple[CellState, ...]


def state_view(content: ReportContent) -> StateView:
    """Sort the cells of a study."""
    named = [setting.name for setting in content.settings]
    columns = tuple(dict.fromkeys([*named, *(cell.setting for cell in content.cells)]))
    methods = dict.fromkeys([*(method.name for method in content.methods), *(cell.method for cell in content.cells)])
    by_place: dict[tuple[str, str], list[CellState]] = {}
    for cell in content.cells:
        by_place.setdefault((cell.method, cell.setting), []).append(cell)
    return StateView(
        total=len(content.cells),
        counts={status: content.n(status) for status in _STATUSES},
        columns=columns,
        rows={name: tuple(_grid_cell(by_place.get((name, column), [])) for column in columns) for name in methods},
        failures=_failures(content.cells),
        running=tuple(cell for cell in content.cells if cell.status == "running"),
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
