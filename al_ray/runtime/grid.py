"""The grid: Ray Tune hands cells to as many lanes as fit, and their events come back to the driver in order."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_ray.errors import ExecutionError
from al_ray.runtime.cells import CellEvent, CellTask, ExchangeLostError, RunCell, by_workers, check_cells
from al_ray.runtime.exchange import Exchange
from al_ray.runtime.plan import LaneResources, lanes_that_fit
from al_ray.runtime.pool import PoolRefs, PoolSource, prepare_pool
from al_ray.runtime.session import RaySession, ray_session
from al_ray.runtime.sweeping import sweeping

if TYPE_CHECKING:
    from al_ray.runtime.trial import LanePlan

HEAD_SHARE = 0.001
LEAVING_TIMEOUT_S = 10.0

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
    Where the exchange dies, the grid is started again for the cells that have not ended.

    Args:
        cells: what to run, in the order to start.
        pools: pool key -> texts and tokenizer; tokenised once each, while the lanes start.
        run_cell: runs one cell on every rank; a module-level function.
        resources: lanes, CPUs, GPUs, retries, and which Ray.
        on_event: called in this process, in each cell's order.
        warm_up: called in every worker at its start, to import and load what cells need.
        say: takes sentences for the person who watches, in another thread.

    Raises:
        ConfigError: a key twice, an unknown pool, a group of no workers.
        ExecutionError: no cluster, lanes that do not fit, or lanes that cannot start.
    """
    check_cells(list(cells), pools)
    if not cells:
        return
    with ray_session(resources) as session:
        functions, watch = _pickled(run_cell, warm_up), GridWatch(on_event)
        left, in_vain = list(cells), 0
        for number in itertools.count():
            n_rounds = watch.n_rounds
            grid = Grid(session, resources, functions, watch, session.scratch / f"grid_{number}", say)
            try:
                grid.run(left, pools)
                return
            except ExchangeLostError:
                # As for a cell: what gets on may lose it many times, what does not is given up.
                in_vain = 1 if watch.n_rounds > n_rounds else in_vain + 1
                if in_vain > resources.retries:
                    raise
                left = watch.go_on(left)


@dataclass(frozen=True)
class Grid:
    """One start of the grid: an exchange, its pools, its lanes."""

    session: RaySession
    resources: LaneResources
    functions: bytes
    watch: "GridWatch"
    folder: Path
    say: Callable[[str], None]

    def run(self, cells: Sequence[CellTask], pools: Mapping[str, PoolSource]) -> None:
        """Run cells until all have ended.

        Raises:
            ExchangeLostError: the exchange died.
            ExecutionError: lanes that do not fit, or cannot start.
        """
        from al_ray.runtime.trial import LanePlan

        classes = by_workers(list(cells))
        lanes = {
            workers: _lanes(self.session, workers, len(tasks), self.resources) for workers, tasks in classes.items()
        }
        with (
            sweeping(self.say),
            contextlib.closing(Exchange.open()) as exchange,
            PoolFilling(exchange, _in_order_of_use(cells, pools), self.watch) as filling,
        ):
            if not self.session.private:
                filling.wait()
            for workers, tasks in classes.items():
                plan = LanePlan(tuple(tasks), workers, self.resources, self.functions, exchange)
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

    from al_ray.runtime.trial import LaneTrial
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


def _no_lane_starts(event: CellEvent) -> ExecutionError:
    return ExecutionError(
        f"no lane could start: {event.data['error']}: {event.data['message']}. Nothing has run; "
        "mend this and start again."
    )
