"""Driving a grid: without Ray; or on lanes, from this process or one apart, and again where a Ray was lost."""

import contextlib
import functools
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from al_ray.errors import ExecutionError
from al_ray.model.worker import SingleProcess, set_threads
from al_ray.runtime.cluster.apart import DriverProcess, Ended, ParentLine
from al_ray.runtime.cluster.ray_internals import dead_daemon
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.cluster.scratch import keep_logs, scratch_folder
from al_ray.runtime.cluster.session import RaySession, address_of, is_here, ray_session, what_died
from al_ray.runtime.failures import ExchangeLostError, Failure, RayLostError, RayStartError, RetryPolicy
from al_ray.runtime.monitor import GridMonitor, GridPlan
from al_ray.runtime.pool import CellPool, PoolSource, local_pool
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, CellTask, HeldCells, RunCell

# Much longer than both take on a slow machine: what is not there is told within seconds by other means.
STARTING_TIMEOUT_S, JOINING_TIMEOUT_S = 900.0, 120.0
WATCH_EVERY_S = 0.2
_log = logging.getLogger(__name__)


def run_grid(
    *,
    cells: Sequence[CellTask],
    pools: Mapping[str, PoolSource],
    run_cell: RunCell,
    resources: LaneResources,
    on_event: Callable[[CellEvent], None],
    warm_up: Callable[[], None] | None = None,
) -> None:
    """Run every cell once, on warm lanes, and report what happens.

    A cell that fails is reported and frees its lane; the others go on. Cells with different ``workers`` run one class
    after the other, small groups first. An exception of ``on_event`` stops the grid and is raised here; so does Ctrl-C.
    Where the exchange dies, or a private Ray, it is started again for the cells that have not ended.

    Ray is driven in a process apart (:mod:`~al_ray.runtime.cluster.apart`), but where this one has a Ray already.

    Args:
        cells: what to run, in the order to start; each with its own key, a pool of ``pools`` and at least one worker.
        pools: pool key -> texts and tokenizer; tokenised once each, while the lanes start.
        run_cell: runs one cell on every rank; a module-level function.
        resources: lanes, CPUs, GPUs, retries, and which Ray.
        on_event: called in this process, in each cell's order.
        warm_up: called in every worker at its start, to import and load what cells need.

    Raises:
        ExecutionError: no cluster, lanes that do not fit, lanes that cannot start, or a Ray that is lost.
    """
    import ray.cloudpickle

    if not cells:
        return
    # Pickled, so that only workers import what these stand on.
    functions = ray.cloudpickle.dumps((run_cell, warm_up))
    plan, monitor = GridPlan(pools, functions, resources, RetryPolicy(resources.retries)), GridMonitor(on_event)
    if is_here():
        with scratch_folder() as scratch:
            run_here(plan, cells, monitor, scratch)
    elif address_of(resources) is not None:
        run_apart(plan, cells, monitor)
    else:
        run_until_ended(lambda left: run_apart(plan, left, monitor), cells, monitor, plan.policy, "Ray")


def run_local(
    *,
    cells: Sequence[CellTask],
    pools: Mapping[str, PoolSource],
    run_cell: RunCell,
    threads: int,
    use_gpu: bool,
    on_event: Callable[[CellEvent], None],
) -> None:
    """Run every cell in this process, one after the other, without Ray; one that fails does not stop the others.

    Args:
        cells: what to run, in this order.
        pools: the texts and how to tokenise them, by pool key.
        run_cell: the function that runs a cell.
        threads: torch threads; equal to a lane's ``cpus_per_worker`` for records equal to the last bit.
        use_gpu: whether the model goes to the GPU of this machine.
        on_event: told of every start, round, end and failure.
    """
    set_threads(threads)
    worker = SingleProcess(device="cuda" if use_gpu else "cpu")

    @functools.cache
    def pool_of(key: str) -> CellPool:
        return local_pool(pools[key], worker.device)

    held = HeldCells()

    def record() -> None:
        for event in held.record():
            on_event(event)

    try:
        for cell in cells:
            if not cell.is_quick:
                record()  # or it would wait for this one
            pool = pool_of(cell.pool_key)
            on_event(CellStarted(cell.key))
            try:
                computed = run_cell(cell, pool, worker, on_event)
            except Exception as error:
                on_event(CellFailed(cell.key, Failure.of(error), attempts=1))
            else:
                if computed is None:
                    on_event(CellFinished(cell.key))
                else:
                    held.add(cell.key, computed)
            if held.is_due:
                record()
    finally:
        record()


def run_until_ended(
    run: Callable[[Sequence[CellTask]], None],
    cells: Sequence[CellTask],
    monitor: GridMonitor,
    policy: RetryPolicy,
    what: Literal["exchange", "Ray"],
) -> None:
    """Run cells, and after each loss those that have not ended, until none is left.

    Args:
        run: runs cells, once.
        cells: what to run.
        monitor: knows which cells have ended.
        policy: decides whether it is tried again.
        what: may be lost.

    Raises:
        ExchangeLostError, RayLostError: the loss, where it is given up.
    """
    loss, level = (RayLostError, logging.WARNING) if what == "Ray" else (ExchangeLostError, logging.INFO)
    left, failures_since_progress = list(cells), 0
    while True:
        n_rounds = monitor.n_rounds
        try:
            run(left)
            return
        except loss as error:
            monitor.error = None
            left = monitor.left_of(left)
            if not left:
                return
            failures_since_progress = 1 if monitor.n_rounds > n_rounds else failures_since_progress + 1
            if not policy.tries_again(what, failures_since_progress):
                end = f"It is given up: retries is {policy.retries}. The same command goes on."
                raise loss(f"{error} {end}") from error
            cells_left = f"{len(left)} cell{'' if len(left) == 1 else 's'}"
            _log.log(level, "%s Another one is started now, for %s.", error, cells_left)
            _log.info(
                "this was failure %d of at most %d in a row without a recorded round between",
                *(failures_since_progress, policy.restarts(what)),
            )


def run_here(
    plan: GridPlan,
    cells: Sequence[CellTask],
    monitor: GridMonitor,
    scratch: Path,
    around: Callable[[RaySession], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> None:
    """Run a grid from this process.

    Args:
        plan: pools, functions, resources.
        cells: what to run.
        monitor: is told all events.
        scratch: an empty folder on this machine.
        around: opened once there is a Ray, and closed before it ends.
    """
    numbers = itertools.count()
    with ray_session(plan.resources, scratch) as session, around(session):
        from al_ray.runtime.grid import Grid  # Ray Tune is imported where Ray is quiet, and where it is used

        def run(left: Sequence[CellTask]) -> None:
            Grid(session, plan, monitor, scratch / f"grid_{next(numbers)}").run(left)

        run_until_ended(run, cells, monitor, plan.policy, "exchange")


def run_apart(plan: GridPlan, cells: Sequence[CellTask], monitor: GridMonitor) -> None:
    """Run a grid from a driver process; a private Ray that does not start is tried again as the policy says.

    Raises:
        RayLostError: Ray died, or the process that drives it.
        ExecutionError: Ray does not start, or cannot be joined; or what stopped the grid.
    """
    is_private = address_of(plan.resources) is None
    for n_failures in itertools.count(1):
        with scratch_folder() as scratch:
            try:
                _run_in_driver_process(plan, cells, monitor, scratch)
                return
            except RayStartError as error:
                if not plan.policy.tries_again("Ray start", n_failures):
                    raise ExecutionError(
                        f"a private Ray cannot start, and was tried twice: {error}. Its logs are kept in "
                        f"{keep_logs(scratch)}. Where the machine was busy, try again; TMPDIR names another folder for "
                        "it, which must be writable and have a short name; --set address= joins a Ray that runs "
                        "already; --local needs none."
                    ) from error
                _log.warning("a private Ray did not start: %s. It is tried once more.", error)
            except RayLostError as error:
                logs = f" Its logs are kept in {keep_logs(scratch)}." if is_private else ""
                raise RayLostError(f"{error}{logs}") from error


@dataclass(frozen=True)
class _Ready:
    """The message of a driver process that has a Ray."""


def _run_in_driver_process(plan: GridPlan, cells: Sequence[CellTask], monitor: GridMonitor, scratch: Path) -> None:
    """Run a grid once in a driver process, and hand on all events."""
    address, is_ready, outcome = address_of(plan.resources), False, None
    with DriverProcess(functools.partial(drive, plan, list(cells), scratch), scratch) as process:
        process.expect_within(STARTING_TIMEOUT_S if address is None else JOINING_TIMEOUT_S)
        try:
            for message in process.messages():
                if isinstance(message, Ended):
                    outcome = message.outcome
                    break
                if isinstance(message, _Ready):
                    is_ready = True
                    process.expect_within(None)
                elif isinstance(message, CellEvent):
                    monitor.tell(message)
                    if monitor.error is not None:
                        process.leave()
        except KeyboardInterrupt:
            if is_ready:
                process.leave_unheard()
            raise
    monitor.check()
    if outcome is None or isinstance(outcome, RayLostError):
        raise _loss(str(outcome or process.how_it_ended()), address, is_ready)
    if isinstance(outcome, BaseException):
        raise outcome


def _loss(why: str, address: str | None, is_ready: bool) -> ExecutionError:
    """Word what it means that Ray, or the process that drives it, is gone."""
    if address is None:
        return RayLostError(f"the private Ray died: {why}.") if is_ready else RayStartError(why)
    if not is_ready:
        return ExecutionError(f"the Ray cluster at {address!r} could not be joined: {why}.")
    return RayLostError(
        f"the Ray cluster at {address!r} is lost: {why}. Every recorded round is kept; once its head is there "
        "again, the same command goes on from there."
    )


def drive(plan: GridPlan, cells: Sequence[CellTask], scratch: Path, line: ParentLine) -> str:
    """Run a grid from this process, which was started for it, and tell all events."""

    def tell(event: CellEvent) -> None:
        if isinstance(event, CellFailed) and (name := dead_daemon()) is not None:
            raise RayLostError(f"its {name} ended")  # of which the cell's failure came
        line.tell(event)

    monitor = GridMonitor(tell)
    line.on_leave = lambda: monitor.stop(KeyboardInterrupt())
    run_here(plan, cells, monitor, scratch, functools.partial(_watched, line=line))
    return "all cells have ended"


@contextlib.contextmanager
def _watched(session: RaySession, line: ParentLine) -> Iterator[None]:
    """Tell that there is a Ray, and leave at once when it is gone: calls of Ray would wait for a minute and more."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(WATCH_EVERY_S):
            if (name := dead_daemon()) is not None:
                line.tell(Ended(RayLostError(f"its {name} ended")))
                os._exit(1)

    thread = threading.Thread(target=watch, name="daemons", daemon=True)
    line.tell(_Ready())
    thread.start()
    try:
        yield
    except Exception as error:
        # It may come from the loss, which the system tells a moment later.
        left.wait(WATCH_EVERY_S)
        if (why := what_died()) is not None:
            raise RayLostError(why) from error
        raise
    finally:
        left.set()
        thread.join()
