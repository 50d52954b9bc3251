"""How far a study is: its planned cells as their records show them, from any terminal or machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from al_ray.errors import StorageError
from al_ray.records.cell import CellStatus, CellStore, cell_key, failure_words
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
        ended_at: when it was done, of a cell that is.
        took_s: seconds from when it was first begun to its end, of a cell that has one; None otherwise.
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
    ended_at: datetime | None = None
    took_s: float | None = None
    reason: str | None = None


@dataclass
class Watcher:
    """Looks at a study again and again; cells that are done are not read a second time.

    Of a cell that is done only its final figures are read, of one that runs its last round: what a part, or such a
    file, holds is proven by its checksum, but not that the rounds follow from each other, as a report proves.

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
        self.store.packed.look().whole()
        recorded = frozenset(self.store.recorded_keys())
        planned = {cell_key(cell["slug"], cell["fingerprint"]): cell for cell in plan["cells"]}
        fresh = [key for key in planned if key in recorded and key not in self._done]
        fresh = self.store.part_by_part(fresh)
        found = self.store.folder.each(lambda key: self._view(planned[key]), fresh)
        views = dict(zip(fresh, found, strict=True))
        self._done |= {key: view for key, view in views.items() if view.status == "done"}
        views |= self._done
        return [views.get(key) or CellView(**_place(cell), status="waiting") for key, cell in planned.items()]

    def _view(self, planned: Mapping[str, Any]) -> CellView:
        cell = self.store.cell(planned["slug"], planned["fingerprint"])
        status, n_rounds = self.store.progress(cell)
        figures = {} if status == "waiting" else self._figures(cell, status, n_rounds)
        return CellView(**_place(planned), status=status, n_rounds=n_rounds, **figures)

    def _figures(self, cell: CellStore, status: CellStatus, n_rounds: int) -> dict[str, Any]:
        if status == "done" and (done := cell.done()) is not None:
            figures = {"n_labeled": done[1].get("n_labeled", 0), "accuracy": done[1].get("final", {}).get("accuracy")}
            return {**figures, "ended_at": done[0], "took_s": _took_s(cell, done[0])}
        found: dict[str, Any] = {"reason": failure_words(cell.failure() or {})} if status == "failed" else {}
        last = cell.recorded_round(n_rounds - 1) if n_rounds else None
        if last is None:
            return found
        if last.record.metrics:
            found |= {"n_labeled": last.record.n_labeled, "accuracy": last.record.metrics.get("accuracy")}
        if status == "running":
            found["idle_s"] = (self.clock() - last.recorded_at).total_seconds()
        elif (failed_at := cell.ended_at()) is not None:
            found["took_s"] = _took_s(cell, failed_at)
        return found


def _took_s(cell: CellStore, ended_at: datetime) -> float | None:
    began_at = cell.begun_at()
    return None if began_at is None else (ended_at - began_at).total_seconds()


def _place(planned: Mapping[str, Any]) -> dict[str, Any]:
    return {name: planned[name] for name in ("slug", "dataset", "model", "method")}


def seconds_left(cells: list[CellView], driven_since: datetime | None = None) -> float | None:
    """Estimate how long the study still takes, from how long finished cells took and how many run side by side.

    Of quick cells none is seen to run: where there is a driver and no cell that runs, it is told from how many have
    ended since the driver began.

    Args:
        cells: all of them.
        driven_since: since when somebody has been running the study; None: nobody is.

    Returns:
        seconds, or None while too few cells have finished, or nobody runs any.
    """
    if driven_since is not None and not any(cell.status == "running" for cell in cells):
        ends = [cell.ended_at for cell in cells if cell.ended_at is not None and cell.ended_at >= driven_since]
        n_waiting = sum(cell.status == "waiting" for cell in cells)
        between = (max(ends) - min(ends)) / (len(ends) - 1) if len(ends) > 1 else timedelta()
        return n_waiting * between.total_seconds() or None
    took = [cell.took_s for cell in cells if cell.status == "done" and cell.took_s is not None]
    n_running = sum(cell.status == "running" for cell in cells)
    if not took or not n_running:
        return None
    n_left = sum(cell.status == "waiting" for cell in cells) + n_running / 2
    return n_left * sum(took) / len(took) / n_running
