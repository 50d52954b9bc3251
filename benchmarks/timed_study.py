"""A small real study, run as ``al-ray run`` runs one, with the time of every event."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from al_ray.errors import AlRayError
from al_ray.records.cell import CellStore
from al_ray.records.round import RecordedRound
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted
from al_ray.study.file import load_study, set_options
from al_ray.study.plan import Plan, plan_study
from al_ray.study.run import run_study

COMPUTE_PHASES = ("finetune", "evaluate", "score")


@dataclass(frozen=True)
class TimedEvent:
    """An event as the driver saw it, in seconds since the epoch."""

    at: float
    event: CellEvent


@dataclass(frozen=True)
class CellTimes:
    """One cell: which lane ran it, what the driver saw, what it recorded."""

    key: str
    lane: tuple[str, int]
    started: float
    finished: float
    recorded: list[RecordedRound]
    done: float


@dataclass
class TimedStudy:
    """A study that ran."""

    plan: Plan
    events: list[TimedEvent] = field(default_factory=list)

    def first(self, kind: type[CellEvent]) -> dict[str, TimedEvent]:
        """Return the first event of a kind of every cell, by key."""
        found: dict[str, TimedEvent] = {}
        for timed in self.events:
            if isinstance(timed.event, kind):
                found.setdefault(timed.event.key, timed)
        return found

    def cells(self) -> list[CellTimes]:
        """Return every cell with its times and records."""
        self.plan.store.packed.look()  # quick cells have come there since it was planned
        started, finished = self.first(CellStarted), self.first(CellFinished)
        return [self._times(cell.key, started[cell.key], finished[cell.key]) for cell in self.plan.cells]

    def lanes(self) -> dict[tuple[str, int], list[CellTimes]]:
        """Return the cells of every lane in the order in which it ran them."""
        lanes: dict[tuple[str, int], list[CellTimes]] = {}
        for cell in sorted(self.cells(), key=lambda cell: cell.started):
            lanes.setdefault(cell.lane, []).append(cell)
        return lanes

    def all_lanes_began(self) -> float:
        """Return when the last lane began its first cell, as the driver saw it."""
        return max(cells[0].started for cells in self.lanes().values())

    def _times(self, key: str, started: TimedEvent, finished: TimedEvent) -> CellTimes:
        store = self._store(key)
        done = store.ended_at()
        assert done is not None
        return CellTimes(
            key=key,
            lane=lane_of(started.event),
            started=started.at,
            finished=finished.at,
            recorded=store.recorded_rounds(),
            done=done.timestamp(),
        )

    def _store(self, key: str) -> CellStore:
        found = self.plan.store.find(key)
        assert found is not None
        return found


@contextmanager
def timed_study(
    values: Mapping[str, Any], lanes: int | None, on_event: Callable[[TimedEvent], None] | None = None
) -> Iterator[TimedStudy]:
    """Run a study given as a mapping, on lanes or, with None, in this process, and keep its records inside the block.

    Raises:
        AlRayError: a cell failed, or the study cannot run.
    """
    storage = tempfile.mkdtemp(prefix="al_ray_benchmark_")
    try:
        study = load_study(values)
        timed = TimedStudy(plan_study(study, storage))
        execution = set_options(study.execution, [f"storage={storage}", f"lanes={lanes or 'null'}", "tracking=off"])

        def listen(event: CellEvent) -> None:
            timed.events.append(TimedEvent(time.time(), event))
            if isinstance(event, CellFailed):
                raise AlRayError(f"cell {event.key} failed: {event.failure.error}: {event.failure.message}")
            if on_event is not None:
                on_event(timed.events[-1])

        run_study(timed.plan, execution, local=lanes is None, listener=listen)
        yield timed
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def lane_of(event: CellEvent) -> tuple[str, int]:
    """Return host and pid of the worker that started a cell; without Ray this process."""
    assert isinstance(event, CellStarted)
    return event.where.get("host", ""), event.where.get("pid", os.getpid())


def compute_seconds(entry: RecordedRound) -> float:
    """Return what a round spent in fine-tuning, evaluation and scoring."""
    return sum(entry.record.seconds.get(phase, 0.0) for phase in COMPUTE_PHASES)
