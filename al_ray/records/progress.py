"""How far a study is: its planned cells as their records show them, from any terminal or machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from al_ray.errors import StorageError
from al_ray.records.cell import CellStatus, CellStore, failure_words
from al_ray.records.round import now
from al_ray.records.study import StudyStore


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell of the grid as its records show it.

    Attributes:
        slug: what people call it.
        dataset, model, method: where it stands in the grid.
        status: ``waiting`` = nothing recorded; ``running`` is also a cell whose run was killed.
        n_rounds: recorded so far.
        n_labeled: labels of the last fine-tuned round; 0 before it.
        accuracy: of that round, or None.
        idle_s: seconds since its last record, of a running cell; None otherwise.
        took_s: seconds from its first record to its end, of a cell that has one; None otherwise.
        reason: why it failed, or None.
    """

    slug: str
    dataset: str
    model: str
    method: str
    status: CellStatus
    n_rounds: int = 0
    n_labeled: int = 0
    accuracy: float | None = None
    idle_s: float | None = None
    took_s: float | None = None
    reason: str | None = None


@dataclass
class Watcher:
    """Looks at a study again and again; cells that are done are not read a second time.

    Args:
        store: the study's records.
        clock: tells the time.

    Raises:
        StorageError: no study is there, or it was never run with a plan.
    """

    store: StudyStore
    clock: Callable[[], datetime] = now
    _done: dict[str, CellView] = field(default_factory=dict)

    def look(self) -> list[CellView]:
        """Return every planned cell, in grid order.

        Raises:
            StorageError: no study, no plan, or a damaged record.
        """
        self.store.id()
        plan = self.store.plan()
        if plan is None:
            raise StorageError(
                f"{self.store.root} holds no plan.json, so nobody knows which cells there should be. "
                "'al-ray run' writes it when it starts the whole study, not for '--cell'."
            )
        return [self._view(cell) for cell in plan["cells"]]

    def _view(self, planned: Mapping[str, Any]) -> CellView:
        place = {name: planned[name] for name in ("slug", "dataset", "model", "method")}
        cell = self.store.cell(planned["slug"], planned["fingerprint"]) if planned["fingerprint"] else None
        if cell is not None and cell.key in self._done:
            return self._done[cell.key]
        if cell is None:
            return CellView(**place, status="waiting")
        status, n_rounds = cell.progress()
        if status == "waiting":
            return CellView(**place, status=status)
        view = CellView(**place, status=status, n_rounds=n_rounds, **self._figures(cell, status, n_rounds))
        if status == "done":  # a failed cell may be tried again, and fail again for another reason
            self._done[cell.key] = view
        return view

    def _figures(self, cell: CellStore, status: CellStatus, n_rounds: int) -> dict[str, Any]:
        first, last = (cell.recorded_round(at) for at in (0, n_rounds - 1)) if n_rounds else (None, None)
        found: dict[str, Any] = {"reason": failure_words(cell.failure() or {})} if status == "failed" else {}
        if last is not None and last.record.metrics:
            found |= {"n_labeled": last.record.n_labeled, "accuracy": last.record.metrics.get("accuracy")}
        if last is not None and status == "running":
            found["idle_s"] = (self.clock() - last.recorded_at).total_seconds()
        if first is not None and (ended_at := cell.ended_at()) is not None:
            found["took_s"] = (ended_at - first.recorded_at).total_seconds()
        return found


def seconds_left(cells: list[CellView]) -> float | None:
    """Estimate how long the study still takes, from how long finished cells took and how many run side by side.

    Returns:
        seconds, or None while no cell has finished or none is running.
    """
    took = [cell.took_s for cell in cells if cell.status == "done" and cell.took_s is not None]
    n_running = sum(cell.status == "running" for cell in cells)
    if not took or not n_running:
        return None
    n_left = sum(cell.status == "waiting" for cell in cells) + n_running / 2
    return n_left * sum(took) / len(took) / n_running
