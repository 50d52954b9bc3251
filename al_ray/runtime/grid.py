"""Grid: Ray Tune keeps as many lanes alive as fit, which share the cells; their events come to the driver in order."""

import contextlib
import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from al_ray.errors import ExecutionError, one_line
from al_ray.runtime.cluster.ray_internals import HEAD_RESOURCE, TUNE_CLOCKS
from al_ray.runtime.cluster.resources import lanes_that_fit
from al_ray.runtime.cluster.session import DATA_PLANE_CPUS, STORE_SHARE, RaySession, object_store_bytes_here
from al_ray.runtime.cluster.sweeping import sweeping
from al_ray.runtime.failures import ExchangeLostError, Failure
from al_ray.runtime.lane.exchange import Exchange, ExchangeState
from al_ray.runtime.lane.sharing import SharingPlan
from al_ray.runtime.lane.trial import LanePlan, LaneTrial
from al_ray.runtime.monitor import GridMonitor, GridPlan
from al_ray.runtime.pool import (
    EncodedRefs,
    EncodingActors,
    PoolRefs,
    PoolSource,
    prepare_encoding,
    prepare_pool,
    put_untokenised,
)
from al_ray.runtime.tasks import (
    LAST_EVENTS,
    CellEvent,
    CellFailed,
    CellSaid,
    CellStarted,
    CellTask,
    RoundEnded,
    by_workers,
)

if TYPE_CHECKING:
    import pyarrow as pa

HEAD_SHARE = 0.001
LEAVING_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grid:
    """One start of a grid on a Ray: an exchange, its pools, its lanes."""

    session: RaySession
    plan: GridPlan
    monitor: GridMonitor
    folder: Path

    def run(self, cells: Sequence[CellTask]) -> None:
        """Run cells until all have ended.

        Raises:
            ExchangeLostError: the exchange died.
            ExecutionError: lanes that do not fit, or cannot start.
        """
        classes, plan = by_workers(cells), self.plan
        n_lanes = {workers: self._n_lanes(workers, len(tasks)) for workers, tasks in classes.items()}
        pools = {cell.pool_key: plan.pools[cell.pool_key] for cell in cells}  # in the order of their use
        with (
            sweeping(),
            contextlib.closing(Exchange.open()) as exchange,
            preparing(exchange, pools, self._actors(), self.monitor) as all_pools,
        ):
            # Lanes could take the CPUs that tokenising needs, and the GPUs that encoding does.
            if not self.session.private or plan.resources.gpus_per_worker > 0:
                all_pools.join()
                self.monitor.check()
            for workers, tasks in classes.items():
                self._run_class(exchange, workers, tasks, n_lanes[workers])

    def _actors(self) -> EncodingActors:
        """Return the processes that encode pools: on a private Ray beside the lanes that start, so of few CPUs."""
        resources = self.plan.resources
        n = max(sum(node.slots(resources) for node in self.session.nodes), 1)
        cpus = DATA_PLANE_CPUS / (n + 1) if self.session.private else resources.cpus_per_worker
        return EncodingActors(n=n, cpus=cpus, gpus=resources.gpus_per_worker, threads=resources.cpus_per_worker)

    def _n_lanes(self, workers: int, n_cells: int) -> int:
        resources = self.plan.resources
        if self.session.private:
            resources = replace(resources, wait_for_nodes=False)
        n_lanes = min(lanes_that_fit(self.session.nodes, workers, resources), n_cells)
        _log.info(
            "%d cells wait for %d lanes of %d workers, each with %d CPUs and %g GPUs, on %d nodes",
            *(n_cells, n_lanes, workers, resources.cpus_per_worker, resources.gpus_per_worker),
            len(self.session.nodes),
        )
        return n_lanes

    def _run_class(self, exchange: Exchange, workers: int, cells: Sequence[CellTask], n_lanes: int) -> None:
        """Run the cells of one size of worker group; those that lanes gave back once more, when all others are done.

        Raises:
            KeyboardInterrupt: Tune ended before its time.
        """
        grid, left = self.plan, list(cells)
        sharing = SharingPlan(resources=grid.resources, kept_cpus=DATA_PLANE_CPUS if self.session.private else 0)
        plan = LanePlan(workers, sharing, grid.policy, grid.functions, exchange)
        for number in itertools.count():
            n_lanes = min(n_lanes, len(left))
            exchange.lay_out(left, n_lanes)
            exchange.call(ExchangeState.reserve, n_lanes * workers)
            n_ended = self._run_lanes(plan, left, n_lanes, self.folder / f"workers_{workers}_{number}")
            self.monitor.check()
            left = self.monitor.left_of(left)
            if not left:
                return
            if n_ended < n_lanes:
                raise KeyboardInterrupt
            _log.info("%d cells that lanes gave back are run again", len(left))

    def _run_lanes(self, plan: LanePlan, cells: Sequence[CellTask], n_lanes: int, folder: Path) -> int:
        """Run lanes, a trial each, until no cell is left for them; return how many of them came to their end."""
        hooks = TuneHooks(plan, cells, n_lanes, self.monitor)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(LaneTrial, plan=plan), {HEAD_RESOURCE: HEAD_SHARE}),
            param_space={"lane": tune.grid_search(list(range(n_lanes)))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=n_lanes, trial_name_creator=_trial_name, trial_dirname_creator=_trial_name
            ),
            run_config=tune.RunConfig(
                name="grid",
                storage_path=str(folder),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=-1),  # the hooks decide
                callbacks=[hooks],
                stop=hooks,
            ),
        )
        tuner.fit()
        return hooks.n_ended


class TuneHooks(tune.Callback, tune.Stopper):  # type: ignore[misc]
    """Hands on the events in each trial's result, decides on lanes that died, and stops all where there is an error.

    Attributes:
        n_ended: lanes for which no cell was left.
    """

    def __init__(self, plan: LanePlan, cells: Sequence[CellTask], n_lanes: int, monitor: GridMonitor) -> None:
        self._plan, self._n_lanes, self._monitor = plan, n_lanes, monitor
        self._cells = {cell.key: cell for cell in cells}
        self._n_left = len(cells)
        self._deaths: dict[str, int] = {}
        self.n_ended = 0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial: a lane ends by itself."""
        return False

    def stop_all(self) -> bool:
        """Tell whether the grid has to end."""
        return self._monitor.error is not None

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Forward the events of one step; they leave the result, so that Tune's state stays small."""
        for name in TUNE_CLOCKS:
            result.pop(name, None)
        for event in result.pop("events", ()):
            self._tell(event)
        self.n_ended += bool(result.get("done"))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Decide whether the cell that a dead lane had in hand is tried again; the lane itself is started again.

        Deaths are counted since the cell's last recorded round. Where the exchange is dead no lane can live, and one
        that dies again and again before it has a cell would do so for ever: both end the grid.
        """
        number = trial.config["lane"]
        held = self._ask(ExchangeState.held, number) or []
        left = self._left_of(held)
        in_hand = self._ask(ExchangeState.in_hand, number)
        key = in_hand if in_hand in left else next(iter(left), "")
        self._deaths[key] = n_deaths = self._deaths.get(key, 0) + 1
        restarts = self._plan.policy.restarts("lane")
        why = one_line(_cause(trial))
        if self._plan.policy.tries_again("lane", n_deaths):
            _log.info(
                "the lane of cell %s died (%s) and is started again, for time %d of at most %d",
                *(key or "(none)", why, n_deaths, restarts),
            )
        elif left:
            failure = Failure("LaneDied", f"the lane died more often than it may: {_cause(trial)}", kind="lost")
            self._tell(CellFailed(key, failure, attempts=0))
        else:
            self._monitor.stop(ExecutionError(f"a lane died {n_deaths} times before it had a cell: {why}"))
        left = self._left_of(held)  # it may be one less now
        self._ask(ExchangeState.tell_ended, [key for key in held if key not in left])

    def _tell(self, event: CellEvent) -> None:
        if isinstance(event, CellStarted) and event.attempt > 1:
            _log.info(
                "cell %s is tried again: attempt %d, after %d of at most %d failures since its last recorded round; "
                "the last one: %s",
                *(event.key, event.attempt, event.failures_since_progress, self._plan.policy.restarts("workers")),
                event.lost or "its workers died without a word",
            )
        elif isinstance(event, CellFailed):
            _log.info(
                "cell %s is given up after %d attempts (%s): %s",
                *(event.key, event.attempts, event.failure.kind, event.failure),
            )
        elif isinstance(event, CellSaid):
            _log.info("cell %s: %s", event.key, event.words)
            return
        if isinstance(event, RoundEnded):
            self._deaths.pop(event.key, None)
        self._monitor.tell(event)
        if isinstance(event, LAST_EVENTS):
            self._n_left -= 1
            if self._n_left < self._n_lanes:  # the CPUs of lanes that have come to their end may score for the others
                self._ask(ExchangeState.reserve, self._n_left * self._plan.workers)

    def _left_of(self, keys: Sequence[str]) -> list[str]:
        """Return those cells that have not ended."""
        return [cell.key for cell in self._monitor.left_of([self._cells[key] for key in keys])]

    def _ask(self, method: Any, argument: Any) -> Any:
        """Call the exchange; where it is dead, stop the grid."""
        try:
            return self._plan.exchange.call(method, argument)
        except ExchangeLostError as error:
            self._monitor.stop(error)
            return None


@contextlib.contextmanager
def preparing(
    exchange: Exchange, pools: Mapping[str, PoolSource], actors: EncodingActors, monitor: GridMonitor
) -> Iterator[threading.Thread]:
    """Prepare pools in a thread, beside the start of the lanes, and keep them in the object store as long as inside."""
    kept, left = list[PoolRefs | EncodedRefs](), threading.Event()
    room_bytes = STORE_SHARE * object_store_bytes_here()

    def hand_on(key: str, refs: PoolRefs | EncodedRefs, n_texts: int, what: str, began: float) -> None:
        kept.append(refs)
        exchange.call(ExchangeState.put_pool, key, refs)
        _log.info("pool %s: %d texts %s in %.1f s", key, n_texts, what, time.monotonic() - began)

    def prepare() -> None:
        nonlocal room_bytes
        try:
            for key, source in pools.items():
                if left.is_set():
                    return
                n_texts = sum(table.num_rows for table in source.tables.values())
                began = time.monotonic()
                tokenised = functools.cache(functools.partial(prepare_pool, source))
                pool = tokenised() if source.reads_tokens else put_untokenised(source)
                if left.is_set():
                    return
                hand_on(key, pool, n_texts, "tokenised" if source.reads_tokens else "read", began)
                room_bytes -= sum(table.nbytes for table in pool.tables().values())
                for encoding, make_encoder in source.encoders.items():
                    began = time.monotonic()
                    stored, tokens = source.stored.get(encoding), _tables_of(tokenised)
                    encoded = prepare_encoding(tokens, make_encoder, actors, stored, room_bytes)
                    room_bytes -= encoded.store_bytes
                    if left.is_set():
                        return
                    hand_on(f"{key}/{encoding}", encoded, n_texts, encoded.how, began)
            exchange.call(ExchangeState.end_preparing)
        except BaseException as error:
            if not left.is_set():  # the monitor may serve another start of the grid by now
                monitor.stop(error)

    thread = threading.Thread(target=prepare, name="pools", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        left.set()
        thread.join(LEAVING_TIMEOUT_S)


def _tables_of(refs: Callable[[], PoolRefs]) -> "Callable[[], Mapping[str, pa.Table]]":
    return lambda: refs().tables()


def _trial_name(trial: Any) -> str:
    return f"lane-{trial.config['lane']:06d}"


def _cause(trial: Any) -> str:
    error = trial.get_error()
    return str(error).strip().splitlines()[-1] if error and str(error).strip() else "no reason given"
