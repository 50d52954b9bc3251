"""Kills processes of a running study, for real."""

import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from al_ray.errors import ModelError
from al_ray.model.worker import Worker
from al_ray.runtime.lane import sharing
from al_ray.runtime.lane.dispenser import Dispenser, Share
from al_ray.runtime.pool import CellPool
from al_ray.runtime.tasks import CellEvent, CellStarted, CellTask, ReportRound, RoundEnded
from al_ray.study.cell import run_cell
from al_ray.study.file import load_study, set_options
from tests.processes import ray_processes
from tests.runtime.made import kind_of_event, sentences
from tests.waiting import wait_until


@dataclass
class Saboteur:
    """Listens to a study and kills one process after chosen events; remembers what it did.

    Attributes:
        strikes: what to kill, in order: a function from the event to pids, of which the first takes the blow. Each
            strikes once, after a recorded round, and after a cell was started again that felt the blow before.
    """

    strikes: list[Callable[[CellEvent], list[int]]]
    events: list[CellEvent] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    _pids: dict[str, int] = field(default_factory=dict)
    _is_recovering: bool = False

    def __call__(self, event: CellEvent) -> None:
        self.events.append(event)
        if isinstance(event, CellStarted):
            self._is_recovering &= event.key not in self._pids
            self._pids[event.key] = event.where["pid"]
        if isinstance(event, RoundEnded) and event.round_index and self.strikes and not self._is_recovering:
            victims = [pid for pid in self.strikes[0](event) if pid not in self.killed]
            if victims:
                self.strikes.pop(0)
                os.kill(victims[0], signal.SIGKILL)
                self.killed.append(victims[0])
                self._is_recovering = True

    def of(self, kind: str) -> list[CellEvent]:
        return [event for event in self.events if kind_of_event(event) == kind]

    def worker_of(self, event: CellEvent) -> list[int]:
        """The Train worker that told of this round."""
        return [self._pids[event.key]]


def trials(event: CellEvent) -> list[int]:
    """The Tune trial actors of lanes."""
    return ray_processes("ray::LaneTrial", "ray::ResourceTrainable")


def controllers(event: CellEvent) -> list[int]:
    """The actors that start and watch the workers of lanes."""
    return ray_processes("ray::TrainController")


def exchanges(event: CellEvent) -> list[int]:
    """The actor between trials and workers."""
    return ray_processes("ray::ExchangeState")


def dies_once(table: pa.Table, tokenize: Callable[[pa.Table], pa.Table], been_here: Path) -> pa.Table:
    """Tokenise, but kill this process the first time."""
    if not been_here.exists():
        been_here.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return tokenize(table)


def stop_at_gates(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Run a cell that stands still after each of its rounds until a file lets it go on."""
    gates = Path(task.storage).parent / "gates"

    def report_and_wait(event: RoundEnded) -> None:
        report(event)
        wait_until((gates / str(event.round_index)).exists, "the gate opens")

    run_cell(task, pool, worker, report_and_wait)


def score_with_help(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Run a cell whose lane computes nothing of a shared scoring before something of it came from beside the lane."""
    shared: Any = worker.helpers
    worker.helpers = _Helped(shared)
    try:
        run_cell(task, pool, worker, report)
    finally:
        worker.helpers = shared


class _Helped:
    """Sharing that makes every worker of a lane wait for help.

    Args:
        shared: what helps.
        alone: a file that says that there will be no help.
        n_before: shares of each scoring that are computed without waiting.
    """

    def __init__(self, shared: Any, alone: Path | None = None, n_before: int = 0) -> None:
        self._shared, self._alone, self._n_before = shared, alone, n_before
        wait_until(lambda: not shared._room().is_preparing, "all pools are prepared")

    def prepare(self) -> None:
        self._shared.prepare()

    def score(self, batches: Any, make_job: Any) -> Any:
        compute, n_computed = batches.compute, itertools.count()

        def compute_once_helped(numbers: Any) -> Any:
            if next(n_computed) >= self._n_before:
                wait_until(self._is_helped, "help with a scoring")
            return compute(numbers)

        batches.compute = compute_once_helped
        try:
            return self._shared.score(batches, make_job)
        finally:
            batches.compute = compute

    def _is_helped(self) -> bool:
        if self._alone is not None and self._alone.exists():
            return True
        pipeline, scoring = self._shared._pipeline, self._shared._scoring
        if pipeline is None:  # that is on rank 0, which waits until the first share is back
            return bool(self._shared._dispenser(Dispenser.given_beside, scoring))
        assert pipeline.failure is None, pipeline.failure
        return bool(pipeline.n_nodes(scoring))


def score_with_help_that_pays(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Run a cell as :func:`score_with_help`, where help pays as soon as it is known how long a batch takes."""
    sharing.START_PAYS_S = sharing.SHARING_PAYS_S = 0.0
    shared: Any = worker.helpers
    worker.helpers = _Helped(shared, n_before=1)
    try:
        run_cell(task, pool, worker, report)
    finally:
        worker.helpers = shared


def lose_a_scoring_process(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Run a cell as :func:`score_with_help`, and let a process beside the lane die once, with a share in its hands.

    It leaves the file ``died`` beside the storage.
    """
    been_here = Path(task.storage).parent / "died"

    class Dying(sharing.ScoringActor):
        def _batches(self, share: Share) -> Any:
            if not been_here.exists():
                been_here.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._batches(share)

    sharing.ScoringActor = Dying  # type: ignore[misc]
    score_with_help(task, pool, worker, report)


def score_without_the_model(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Run a cell beside whose lane nothing can be computed; the first scoring waits until that is known."""

    class Lacking(sharing.ScoringActor):
        def _batches(self, share: Share) -> Any:
            raise ModelError("model 'x' is not on this machine")

    class UntilFailure(_Helped):
        def _is_helped(self) -> bool:
            pipeline = self._shared._pipeline
            return pipeline is None or pipeline.failure is not None

    sharing.ScoringActor = Lacking  # type: ignore[misc]
    shared: Any = worker.helpers
    worker.helpers = UntilFailure(shared)
    try:
        run_cell(task, pool, worker, report)
    finally:
        worker.helpers = shared


def share_at_gates(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Run a cell as :func:`stop_at_gates`, and its scorings as :func:`score_with_help`, by files of the same folder.

    Where there is ``hold``, a process beside the lane keeps its share for ever, and says so with ``holds`` and the name
    of its node in it; where there is ``alone``, the lane does not wait for help.
    """
    gates = Path(task.storage).parent / "gates"

    class Holding(sharing.ScoringActor):
        def _batches(self, share: Share) -> Any:
            if (gates / "hold").exists():
                (gates / "holds").write_text(self._node)
                threading.Event().wait()
            return super()._batches(share)

    sharing.ScoringActor = Holding  # type: ignore[misc]
    shared: Any = worker.helpers
    worker.helpers = _Helped(shared, gates / "alone")
    try:
        stop_at_gates(task, pool, worker, report)
    finally:
        worker.helpers = shared


def kill_the_raylet(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Kill the raylet before the cell's first round, and wait for what comes of it."""
    [raylet] = [parent for parent in psutil.Process().parents() if parent.name() == "raylet"]
    raylet.kill()
    signal.pause()


def run_with(
    path: Path, storage: Path, listener: Callable[[CellEvent], None], *options: str, level: int = logging.WARNING
) -> list[str]:
    """Run a study on Ray in this process and return what it said, from a level of importance on."""
    from al_ray.study.plan import plan_study
    from al_ray.study.run import run_study

    study = load_study(path)
    execution = set_options(study.execution, ["tracking=off", f"storage={storage}", *options])
    with sentences(level=level) as said:
        run_study(plan_study(study, str(storage)), execution, local=False, listener=listener)
    return said
