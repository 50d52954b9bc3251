"""The grid: Ray Tune hands cells to as many lanes as fit, and their events come back to the driver in order."""

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_ray.errors import ExecutionError
from al_ray.runtime.cluster.apart import ENDED, Apart, Line
from al_ray.runtime.cluster.resources import LaneResources, lanes_that_fit
from al_ray.runtime.cluster.scratch import keep_logs, scratch_folder
from al_ray.runtime.cluster.session import RaySession, address_of, dead_daemon, is_here, ray_session, what_died
from al_ray.runtime.cluster.sweeping import sweeping
from al_ray.runtime.lane.exchange import Exchange
from al_ray.runtime.pool import PoolRefs, PoolSource, prepare_pool
from al_ray.runtime.tasks import (
    CellEvent,
    CellTask,
    ExchangeLostError,
    RayLostError,
    RayStartError,
    RunCell,
    by_workers,
    check_cells,
)

if TYPE_CHECKING:
    from al_ray.runtime.lane.trial import LanePlan

HEAD_SHARE = 0.001
LEAVING_TIMEOUT_S = 10.0
READY, EVENT, SAID = "ready", "event", "said"
# Much longer than both take on a slow machine: what is not there is told within seconds by other means.
STARTING_TIMEOUT_S, JOINING_TIMEOUT_S = 900.0, 120.0
WATCH_EVERY_S = 0.2

__all__ = ["CellEvent", "CellTask", "LaneResources", "PoolSource", "run_grid"]


def _ignore(told: object) -> None:
    """Take the place of a listener."""


def run_grid(
    *,
    cells: Sequence[CellTask],
    pools: Mapping[str, PoolSource],
    run_cell: RunCell,
    resources: LaneResources,
    on_event: Callable[[CellEvent], None],
    warm_up: Callable[[], None] | None = None,
    say: Callable[[str], None] = _ignore,
) -> None:
    """Run every cell once, on warm lanes, and report what happens.

    A cell that fails is reported and frees its lane; the others go on. Cells with different ``workers`` run one class
    after the other, small groups first. An exception of ``on_event`` stops the grid and is raised here; so does Ctrl-C.
    Where the exchange dies, or a private Ray, it is started again for the cells that have not ended.

    Ray is driven in a process apart (:mod:`~al_ray.runtime.cluster.apart`), but where this one has a Ray already.

    Args:
        cells: what to run, in the order to start.
        pools: pool key -> texts and tokenizer; tokenised once each, while the lanes start.
        run_cell: runs one cell on every rank; a module-level function.
        resources: lanes, CPUs, GPUs, retries, and which Ray.
        on_event: called in this process, in each cell's order.
        warm_up: called in every worker at its start, to import and load what cells need.
        say: takes sentences for the person who watches, perhaps in another thread.

    Raises:
        ConfigError: a key twice, an unknown pool, a group of no workers.
        ExecutionError: no cluster, lanes that do not fit, lanes that cannot start, or a Ray that is lost.
    """
    check_cells(list(cells), pools)
    if not cells:
        return
    start = GridStart(pools, _pickled(run_cell, warm_up), resources)
    watch = GridWatch(on_event)
    if is_here():
        with scratch_folder() as scratch:
            run_here(start, cells, watch, say, scratch)
    elif address_of(resources) is not None:
        run_apart(start, cells, watch, say)
    else:
        run_until_ended(
            lambda left: run_apart(start, left, watch, say), cells, watch, resources.retries, RayLostError, say
        )


@dataclass(frozen=True)
class GridStart:
    """What every start of a grid is given, beside the cells that are left.

    Attributes:
        pools: pool key -> texts and tokenizer.
        functions: pickled ``(run_cell, warm_up)``.
        resources: lanes, CPUs, GPUs, retries, and which Ray.
    """

    pools: Mapping[str, PoolSource]
    functions: bytes
    resources: LaneResources


def run_until_ended(
    run: Callable[[Sequence[CellTask]], None],
    cells: Sequence[CellTask],
    watch: "GridWatch",
    retries: int,
    loss: type[ExecutionError],
    say: Callable[[str], None],
) -> None:
    """Run cells, and after each loss those that have not ended, until none is left.

    As for a cell: what gets on may be lost many times, what does not is given up after its retries.

    Args:
        run: runs cells, once.
        cells: what to run.
        watch: knows which cells have ended.
        retries: losses in a row without a recorded round between, after which it is given up.
        loss: what is raised where trying again helps.
        say: takes a sentence about each loss.

    Raises:
        ExecutionError: the loss, where it is given up.
    """
    left, in_vain = list(cells), 0
    while True:
        n_rounds = watch.n_rounds
        try:
            run(left)
            return
        except loss as error:
            left = watch.go_on(left)
            if not left:
                return
            in_vain = 1 if watch.n_rounds > n_rounds else in_vain + 1
            if in_vain > retries:
                raise loss(f"{error} It is given up: retries is {retries}. The same command goes on.") from error
            say(f"{error} Another one is started now, for {len(left)} cell{'' if len(left) == 1 else 's'}.")


def run_here(
    start: GridStart,
    cells: Sequence[CellTask],
    watch: "GridWatch",
    say: Callable[[str], None],
    scratch: Path,
    around: Callable[[RaySession], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> None:
    """Run a grid from this process.

    Args:
        start: pools, functions, resources.
        cells: what to run.
        watch: is told all events.
        say: takes sentences.
        scratch: an empty folder on this machine.
        around: opened once there is a Ray, and closed before it ends.
    """
    numbers = itertools.count()
    with ray_session(start.resources, scratch) as session, around(session):

        def run(left: Sequence[CellTask]) -> None:
            Grid(session, start, watch, scratch / f"grid_{next(numbers)}", say).run(left)

        run_until_ended(run, cells, watch, start.resources.retries, ExchangeLostError, _ignore)


def run_apart(start: GridStart, cells: Sequence[CellTask], watch: "GridWatch", say: Callable[[str], None]) -> None:
    """Run a grid from a process apart; a private Ray that does not start is tried once more.

    Raises:
        RayLostError: Ray died, or the process that drives it.
        ExecutionError: Ray does not start, or cannot be joined; or what stopped the grid.
    """
    is_private = address_of(start.resources) is None
    for is_last in (False, True):
        with scratch_folder() as scratch:
            try:
                GridApart(start, watch, say, scratch).run(cells)
                return
            except RayStartError as error:
                if is_last:
                    raise ExecutionError(_no_start(error, keep_logs(scratch))) from error
                say(f"a private Ray did not start: {error}. It is tried once more.")
            except RayLostError as error:
                logs = f" Its logs are kept in {keep_logs(scratch)}." if is_private else ""
                raise RayLostError(f"{error}{logs}") from error


@dataclass
class GridApart:
    """One start of a grid in a process apart, seen from the process of the person."""

    start: GridStart
    watch: "GridWatch"
    say: Callable[[str], None]
    scratch: Path
    _is_ready: bool = False

    def run(self, cells: Sequence[CellTask]) -> None:
        """Run cells until all have ended.

        Raises:
            RayStartError: a private Ray did not start.
            RayLostError: Ray died, or the process that drives it.
            ExecutionError: a cluster cannot be joined, or what stopped the grid.
        """
        is_private = address_of(self.start.resources) is None
        with Apart(functools.partial(drive, self.start, list(cells), self.scratch), self.scratch) as process:
            process.expect_within(STARTING_TIMEOUT_S if is_private else JOINING_TIMEOUT_S)
            try:
                last_words = self._listen(process)
            except KeyboardInterrupt:
                if self._is_ready:
                    process.leave_unheard()
                raise
        self.watch.check()
        if last_words is None:
            raise self._lost(process.how_it_ended())
        if isinstance(last_words, RayLostError):
            raise self._lost(str(last_words))
        if isinstance(last_words, BaseException):
            raise last_words

    def _listen(self, process: Apart) -> object:
        """Hand on all news; return the last words of the process, None where it left without some."""
        for kind, what in process.news():
            if kind == ENDED:
                return what
            if kind == READY:
                self._is_ready = True
                process.expect_within(None)
            elif kind == SAID:
                self.say(what)
            else:
                self.watch.tell(CellEvent(*what))
                if self.watch.error is not None:
                    process.leave()
        return None

    def _lost(self, why: str) -> ExecutionError:
        """Word what it means that Ray, or the process that drives it, is gone."""
        address = address_of(self.start.resources)
        if address is None:
            return RayLostError(f"the private Ray died: {why}.") if self._is_ready else RayStartError(why)
        if not self._is_ready:
            return ExecutionError(f"the Ray cluster at {address!r} could not be joined: {why}.")
        return RayLostError(
            f"the Ray cluster at {address!r} is lost: {why}. Every recorded round is kept; once its head is there "
            "again, the same command goes on from there."
        )


def drive(start: GridStart, cells: Sequence[CellTask], scratch: Path, line: Line) -> str:
    """Run a grid from this process, which was started for it, and tell all news; return the last words."""

    def tell(event: CellEvent) -> None:
        if event.kind == "failed" and (name := dead_daemon()) is not None:
            raise RayLostError(f"its {name} ended")  # of which the cell's failure came
        line.tell(EVENT, (event.kind, event.key, event.data))

    watch = GridWatch(tell)
    line.on_leave = lambda: watch.stop(KeyboardInterrupt())
    around = functools.partial(_watched, line=line)
    run_here(start, cells, watch, functools.partial(line.tell, SAID), scratch, around)
    return "all cells have ended"


@contextlib.contextmanager
def _watched(session: RaySession, line: Line) -> Iterator[None]:
    """Tell that there is a Ray, and leave at once when it is gone: calls of Ray would wait for a minute and more."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(WATCH_EVERY_S):
            if (name := dead_daemon()) is not None:
                line.tell(ENDED, RayLostError(f"its {name} ended"))
                os._exit(1)

    thread = threading.Thread(target=watch, name="daemons", daemon=True)
    line.tell(READY)
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


@dataclass(frozen=True)
class Grid:
    """One start of the grid: an exchange, its pools, its lanes."""

    session: RaySession
    start: GridStart
    watch: "GridWatch"
    folder: Path
    say: Callable[[str], None]

    def run(self, cells: Sequence[CellTask]) -> None:
        """Run cells until all have ended.

        Raises:
            ExchangeLostError: the exchange died.
            ExecutionError: lanes that do not fit, or cannot start.
        """
        from al_ray.runtime.lane.trial import LanePlan

        classes, resources = by_workers(list(cells)), self.start.resources
        lanes = {workers: _lanes(self.session, workers, len(tasks), resources) for workers, tasks in classes.items()}
        with (
            sweeping(self.say),
            contextlib.closing(Exchange.open()) as exchange,
            PoolFilling(exchange, _in_order_of_use(cells, self.start.pools), self.watch) as filling,
        ):
            if not self.session.private:
                filling.wait()
            for workers, tasks in classes.items():
                plan = LanePlan(tuple(tasks), workers, resources, self.start.functions, exchange)
                _run_class(plan, lanes[workers], self.watch, self.folder / f"workers_{workers}")


class GridWatch:
    """Forwards events to the driver, and stops the grid when going on makes no sense."""

    def __init__(self, on_event: Callable[[CellEvent], None]) -> None:
        self._on_event = on_event
        self._any_started = False
        self._ended: set[str] = set()
        self.n_rounds = 0
        self.error: BaseException | None = None

    def __reduce__(self) -> Any:
        # Tune pickles its callbacks into its snapshots; the driver's own listener has no business there.
        return GridWatch, (_ignore,)

    def tell(self, event: CellEvent) -> None:
        """Forward one event; the first exception, or lanes that cannot start, stop the grid."""
        if self.error is not None:
            return
        self._any_started |= event.kind == "started"
        self.n_rounds += event.kind == "round"
        if event.is_last:
            self._ended.add(event.key)
        if event.kind == "failed" and not self._any_started:
            self.stop(_no_lane_starts(event))
            return
        try:
            self._on_event(event)
        except BaseException as error:
            self.stop(error)

    def stop(self, error: BaseException) -> None:
        """Stop the grid with an error, unless it has one."""
        self.error = self.error or error

    def check(self) -> None:
        """Raise the error that stopped the grid, if any."""
        if self.error is not None:
            raise self.error

    def go_on(self, cells: Sequence[CellTask]) -> list[CellTask]:
        """Forget the error, and return the cells that have not ended."""
        self.error = None
        return [cell for cell in cells if cell.key not in self._ended]

    def missing(self, cells: Sequence[CellTask]) -> list[str]:
        """Return the keys that have not ended."""
        return [cell.key for cell in cells if cell.key not in self._ended]


class PoolFilling:
    """Prepares the pools beside the start of the lanes, and keeps them in the object store by holding on to them."""

    def __init__(self, exchange: Exchange, pools: Mapping[str, PoolSource], watch: GridWatch) -> None:
        self._exchange, self._pools, self._watch = exchange, pools, watch
        self._kept: list[PoolRefs] = []
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="pools", daemon=True)

    def __enter__(self) -> "PoolFilling":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._thread.join(LEAVING_TIMEOUT_S)

    def wait(self) -> None:
        """Wait for all pools, where lanes could take the CPUs that tokenising needs."""
        self._thread.join()
        self._watch.check()

    def _fill(self) -> None:
        try:
            for key, source in self._pools.items():
                if self._left.is_set():
                    return
                refs = prepare_pool(source)
                if self._left.is_set():
                    return
                self._kept.append(refs)
                self._exchange.ask("put_pool", key, refs)
        except BaseException as error:
            if not self._left.is_set():  # the watch may serve another start of the grid by now
                self._watch.stop(error)


def _run_class(plan: "LanePlan", lanes: int, watch: GridWatch, folder: Path) -> None:
    from ray import tune

    from al_ray.runtime.lane.trial import LaneTrial
    from al_ray.runtime.tuning import EventForwarder, GridStopper

    trainable = tune.with_resources(tune.with_parameters(LaneTrial, plan=plan), {"node:__internal_head__": HEAD_SHARE})
    tuner = tune.Tuner(
        trainable,
        param_space={"cell": tune.grid_search(list(range(len(plan.cells))))},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=lanes,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="grid",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=plan.resources.retries),
            callbacks=[EventForwarder(plan.cells, watch, plan.exchange)],
            stop=GridStopper(watch),
        ),
    )
    tuner.fit()
    watch.check()
    if watch.missing(plan.cells):
        raise KeyboardInterrupt


def _pickled(run_cell: RunCell, warm_up: Callable[[], None] | None) -> bytes:
    """Pickle the cell's functions, so that only workers import what they stand on."""
    import ray.cloudpickle

    pickled: bytes = ray.cloudpickle.dumps((run_cell, warm_up))
    return pickled


def _lanes(session: RaySession, workers: int, n_cells: int, resources: LaneResources) -> int:
    if session.private:
        resources = replace(resources, wait_for_nodes=False)
    fitting = lanes_that_fit(session.nodes, workers, resources)
    return min(fitting, n_cells)


def _in_order_of_use(cells: Sequence[CellTask], pools: Mapping[str, PoolSource]) -> dict[str, PoolSource]:
    return {cell.pool_key: pools[cell.pool_key] for cell in cells}


def _trial_name(trial: Any) -> str:
    return f"cell-{trial.config['cell']:06d}"


def _no_start(error: RayStartError, logs: Path) -> str:
    return (
        f"a private Ray cannot start, and was tried twice: {error}. Its logs are kept in {logs}. Where the machine was "
        "busy, try again; TMPDIR names another folder for it, which must be writable and have a short name; "
        "--set address= joins a Ray that runs already; --local needs none."
    )


def _no_lane_starts(event: CellEvent) -> ExecutionError:
    return ExecutionError(
        f"no lane could start: {event.data['error']}: {event.data['message']}. Mend this and "
        "start again; what is recorded is kept."
    )
