"""Run a planned study: cells to the lanes, events to the listener and to MLflow, failures to the records."""

import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import metadata
from typing import Any

from al_ray import __version__
from al_ray.errors import ConfigError, StorageError
from al_ray.model.tokens import tokenize_table
from al_ray.records.cell import SPEC
from al_ray.records.lease import Lease
from al_ray.records.round import now
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.driver import run_grid, run_local
from al_ray.runtime.pool import PoolSource
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, CellTask, RoundEnded
from al_ray.storage.folder import Folder
from al_ray.study.cell import encodings_read, run_cell, texts_read, warm_up
from al_ray.study.encodings import EncodingPlan, plan_encodings, stored_places
from al_ray.study.file import Execution, Study, tracks_cells
from al_ray.study.forecast import Forecast, cell_cost, forecast, measured_seconds
from al_ray.study.plan import Plan, PlannedCell, by_pool, dataset_key, plan_record, plan_study, require_complete
from al_ray.study.spec import CellSpec, once_a_kind
from al_ray.tracking.mlflow_address import tracking_address
from al_ray.tracking.tracker import Methods, Tracker

_HERE = frozenset({"auto", "local", "localhost", "127.0.0.1", "[::1]"})
Listener = Callable[[CellEvent], None]
_log = logging.getLogger(__name__)
RECORDED_VERSIONS = ("ray", "torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy", "mlflow")


@dataclass(frozen=True, kw_only=True)
class ReadyStudy:
    """A study that is checked, planned and priced.

    Attributes:
        plan: its cells and what they need.
        execution: where and how it runs.
        is_local: whether it runs in this process, without Ray.
        lanes: cells that will run side by side; None where only the cluster knows.
        cost: what is left of it will take.
        encodings: of its pools that it reads, and where they will lie.
    """

    plan: Plan
    execution: Execution
    is_local: bool
    lanes: int | None
    cost: Forecast
    encodings: EncodingPlan

    def run(self, listener: Listener, methods: Methods | None = None) -> None:
        """Run what is not finished.

        Args:
            listener: told of every event of a cell, in this process.
            methods: what MLflow is to show of the study's methods; None: their runs stay as they are.
        """
        if self.plan.waiting():
            for sentence in self.encodings.sentences():
                _log.info("%s", sentence)
            run_study(
                self.plan,
                self.execution,
                local=self.is_local,
                listener=listener,
                methods=methods,
                encodings=self.encodings,
            )


def prepare(
    study: Study, execution: Execution, *, local: bool = False, cell: str | None = None, measure: bool = False
) -> ReadyStudy:
    """Plan a study and forecast its cost; nothing is started, and what this machine lacks is only noted in the plan.

    Args:
        study: what to run.
        execution: where and how.
        local: in this process, without Ray.
        cell: this one cell alone, by its name in the plan.
        measure: also measure for some seconds how long it will take, see :mod:`al_ray.study.measure`.

    Raises:
        AlRayError: bad input.
    """
    tracking_address(execution.tracking, execution.storage)
    if not local:
        check_shared(execution)
    plan = plan_study(study.laid_out_for(execution), execution.storage, only=cell)
    lanes = 1 if local else _lanes(execution, plan)
    cost = forecast(plan, tracks_cells=_tracks_cells(plan, execution))
    encodings = plan_encodings(plan, execution, is_local=local)
    if measure:
        seconds = measured_seconds(plan, execution, lanes or 1, is_local=local, unencoded=encodings.missing_share)
        cost = replace(cost, seconds=seconds)
    return ReadyStudy(plan=plan, execution=execution, is_local=local, lanes=lanes, cost=cost, encodings=encodings)


def require_ready(ready: ReadyStudy, *, trusts_address: bool) -> None:
    """Refuse a study that cannot start here.

    Args:
        ready: what is to start.
        trusts_address: a person named the Ray to join, so that the study file's word is not all there is for it.

    Raises:
        AlRayError: data or models are missing, disk or memory are too small, or the study file alone names another
            Ray.
    """
    require_complete(ready.plan)
    if not ready.is_local and not trusts_address:
        check_cluster(ready.execution)
    check_space(ready.plan, ready.cost, ready.execution)
    ready.encodings.check(disk_bytes(ready.cost, ready.execution))


def check_cluster(execution: Execution) -> None:
    """Refuse a Ray on other machines that the study file alone names.

    Whoever runs a cluster runs code in every program that joins it, and a study file must not run code. So the person
    at the terminal names it, with ``--set address=`` or with ``RAY_ADDRESS``.

    Raises:
        ConfigError: the address is another machine's.
    """
    address = execution.address
    host = (address or "auto").rpartition("://")[2].rsplit(":", 1)[0]
    if host in _HERE or address == os.environ.get("RAY_ADDRESS"):
        return
    raise ConfigError(
        f"the study file names a Ray cluster on another machine, {address!r}, and joining it lets that cluster run "
        f"code here. If it is yours, name it yourself: --set address={address}, or RAY_ADDRESS={address}."
    )


def _lanes(execution: Execution, plan: Plan) -> int | None:
    """Return how many cells will run side by side; None where only the cluster knows."""
    if execution.lanes is not None:
        return execution.lanes
    if (execution.address or os.environ.get("RAY_ADDRESS", "local")) != "local":
        return None
    workers = max((cell.spec.workers for cell in plan.cells), default=1)
    return max((os.cpu_count() or 1) // (execution.cpus_per_worker * workers), 1)


def run_study(
    plan: Plan,
    execution: Execution,
    *,
    local: bool,
    listener: Listener,
    methods: Methods | None = None,
    encodings: EncodingPlan | None = None,
) -> None:
    """Run every cell of the plan that is not finished; records are written by the cells themselves.

    Args:
        plan: the checked study.
        execution: where and how.
        local: run here without Ray.
        listener: told of every start, round, end and failure, in this process.
        methods: what MLflow is to show of the study's methods.
        encodings: which of them are kept in the storage; None: all, unless ``execution.cache`` is off.

    Raises:
        AlRayError: before anything starts, or when the lanes themselves cannot be had.
    """
    require_complete(plan)
    if not local:
        check_shared(execution)
    plan.store.claim()
    plan = replace(plan, store=plan.store.claimed(execution.storage_patience_s))
    # The lease has no patience: it tells an outage at once, while all else waits.
    with Lease(plan.store.claimed().folder, plan.study.name, cell=plan.only).held() as lease:
        if plan.is_whole:
            plan.store.write_plan(plan_record(plan))
        _run(plan, execution, lease, encodings, local=local, listener=listener, methods=methods)


def _run(
    plan: Plan,
    execution: Execution,
    lease: Lease,
    encodings: EncodingPlan | None,
    *,
    local: bool,
    listener: Listener,
    methods: Methods | None,
) -> None:
    waiting = plan.waiting()
    first = ", ".join([*(cell.key for cell in waiting[:3]), *(["..."] if len(waiting) > 3 else [])])
    _log.info("study %s: %d of %d cells wait: %s", plan.study.name, len(waiting), len(plan.cells), first)
    address, tracks = tracking_address(execution.tracking, execution.storage), _tracks_cells(plan, execution)
    tracker = Tracker(plan.store, address, methods, tracks_cells=tracks)
    tracker.start()
    try:
        shared = once_a_kind(lambda spec: _shared(plan, spec, execution))
        cost = _costs(plan)
        tasks = [_task(plan, cell, execution, shared(cell.spec), cost(cell)) for cell in waiting]
        if not local:
            # The longest first, so that no lane is left alone with one at the end; those of equal cost stay together by
            # their pool. A pool comes back where costs differ within it, which costs a lane some milliseconds: its
            # arrays are views of the object store, where every pool of the study stays.
            order = sorted(range(len(tasks)), key=lambda at: -tasks[at].cost)
            tasks, waiting = [tasks[at] for at in order], [waiting[at] for at in order]
        events = _Events(plan, tasks, tracker, lease, listener)
        # One table a pool, however many cells share it.
        pools = _pools(plan, waiting, execution, encodings)
        if local:
            run_local(
                cells=tasks,
                pools=pools,
                run_cell=run_cell,
                threads=execution.cpus_per_worker,
                use_gpu=execution.gpus_per_worker > 0,
                on_event=events,
            )
        else:
            run_grid(
                cells=tasks,
                pools=pools,
                run_cell=run_cell,
                resources=_resources(execution),
                on_event=events,
                warm_up=warm_up(cell.spec for cell in waiting),
            )
    finally:
        tracker.close()


def _tracks_cells(plan: Plan, execution: Execution) -> bool:
    return tracks_cells(execution.tracked_cells, len(plan.study.cells))


def check_space(plan: Plan, cost: Forecast, execution: Execution) -> None:
    """Refuse a study whose records, and MLflow's file beside them, will not fit.

    Raises:
        StorageError: the storage has less room than the forecast.
    """
    free = plan.store.folder.free_bytes()
    needed = disk_bytes(cost, execution)
    if free is not None and free < needed:
        raise StorageError(
            f"the records of this study take about {needed / 2**20:.0f} MiB, and {plan.store.root} has "
            f"{free / 2**20:.0f} MiB free. Free some, or choose another folder with --storage."
        )


def disk_bytes(cost: Forecast, execution: Execution) -> int:
    """Return what a study will take in its storage folder, with MLflow where that is a file in it."""
    address = tracking_address(execution.tracking, execution.storage)
    return cost.disk_bytes + (cost.tracking_bytes if address and address.startswith("sqlite") else 0)


def check_shared(execution: Execution) -> None:
    """Refuse a relative folder on a joined cluster: every machine would take it for another place.

    Raises:
        ConfigError: the storage is neither an absolute path nor a URI.
    """
    address = execution.address or os.environ.get("RAY_ADDRESS")
    if address and "://" not in execution.storage and not os.path.isabs(execution.storage):
        raise ConfigError(
            f"storage is {execution.storage!r}, a relative folder, and the study joins Ray at {address!r}: "
            "each machine and each job would write somewhere else. "
            "Give --storage a URI or an absolute path that all machines share."
        )


class _Events:
    """Hands each event of a cell to the listener, to the tracker, and, for a failure, to the records."""

    def __init__(
        self, plan: Plan, tasks: Iterable[CellTask], tracker: Tracker, lease: Lease, listener: Listener
    ) -> None:
        self._cells = {cell.key: cell for cell in plan.waiting()}
        self._tasks = {task.key: task for task in tasks}
        self._store = plan.store
        self._tracker = tracker
        self._lease = lease
        self._starts: dict[str, list[dict[str, Any]]] = {}
        self._listener = listener

    def __call__(self, event: CellEvent) -> None:
        self._lease.check()
        cell = self._cells[event.key]
        match event:
            case CellStarted():
                start = {"time": now().isoformat(timespec="seconds")}
                # Without Ray there is one attempt, and it is here.
                where = {"attempt": event.attempt, **event.where} if event.where else {}
                self._starts.setdefault(event.key, []).append({**start, **where})
                self._tracker.cell_started(event.key, cell.spec.to_json())
            case RoundEnded():
                self._tracker.round_recorded(event.key)
            case CellFailed():
                self._record_failure(event)
                self._tracker.cell_finished(event.key, "failed")
            case CellFinished():
                self._starts.pop(event.key, None)
                self._tracker.cell_finished(event.key, "done")
        self._listener(event)

    def _record_failure(self, event: CellFailed) -> None:
        """Give a cell a failure, and a spec where it has none: cells of a part that was not written have no folder."""
        task = self._tasks[event.key]
        records = self._store.cell_folder(task.slug, task.fingerprint)
        with contextlib.suppress(StorageError):  # it is the failure itself, or follows from it
            if not records.folder.exists(SPEC):
                records.begin(task.spec, task.provenance)
        records.fail({**event.reason(), "starts": self._starts.pop(event.key, [])})


def _resources(execution: Execution) -> LaneResources:
    return LaneResources(
        lanes=execution.lanes,
        cpus_per_worker=execution.cpus_per_worker,
        gpus_per_worker=execution.gpus_per_worker,
        address=execution.address,
        retries=execution.retries,
        wait_for_nodes=execution.wait_for_nodes,
        accelerator_type=execution.accelerator_type,
        scoring=execution.scoring,
    )


def _shared(plan: Plan, spec: CellSpec, execution: Execution) -> dict[str, Any]:
    """Return what the tasks of cells have in common that differ in the seed alone."""
    return {
        "spec": spec.to_json(),
        "n_classes": plan.datasets[dataset_key(spec.dataset)].n_classes,
        "provenance": _provenance(plan, spec, execution),
        "workers": spec.workers,
        "is_quick": spec.finetune.is_frozen,
    }


def _costs(plan: Plan) -> Callable[[PlannedCell], float]:
    """Return what gives the cost of a cell, counted once for all that differ in the seed alone and are as far."""
    known: dict[tuple[Any, ...], float] = {}

    def of(cell: PlannedCell) -> float:
        alike = cell.spec.kind, cell.n_recorded
        if alike not in known:
            model = plan.models[cell.spec.model.name, cell.spec.model.revision]
            known[alike] = cell_cost(cell, plan.datasets[dataset_key(cell.spec.dataset)], plan.facts[model])
        return known[alike]

    return of


def _task(plan: Plan, cell: PlannedCell, execution: Execution, shared: dict[str, Any], cost: float) -> CellTask:
    assert cell.fingerprint is not None
    return CellTask(
        key=cell.key,
        study=plan.study.name,
        storage=plan.store.storage,
        storage_patience_s=execution.storage_patience_s,
        slug=cell.slug,
        fingerprint=cell.fingerprint,
        pool_key=cell.pool_key,
        is_new=cell.status == "waiting",
        cost=cost,
        **{**shared, "spec": {**shared["spec"], "seed": cell.spec.seed}},
    )


def _provenance(plan: Plan, spec: CellSpec, execution: Execution) -> dict[str, Any]:
    dataset, model = plan.datasets[dataset_key(spec.dataset)], spec.model
    return {
        "python": platform.python_version(),
        **installed_versions(),
        "cpus_per_worker": execution.cpus_per_worker,
        "gpus_per_worker": execution.gpus_per_worker,
        "data": dataset.source,
        "model": plan.models[model.name, model.revision].path,
        "class_names": list(dataset.class_names),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@cache
def installed_versions() -> dict[str, str]:
    """Return the versions installed here; each takes half a millisecond to find, so once is enough."""
    return {"al_ray": __version__, **{name: metadata.version(name) for name in RECORDED_VERSIONS}}


def _pools(
    plan: Plan, cells: Iterable[PlannedCell], execution: Execution, kept: EncodingPlan | None
) -> dict[str, PoolSource]:
    """Return the pools that cells read, in the order of their use, with all that any of the cells reads of each."""
    storage = Folder.at(plan.store.storage, patience_s=execution.storage_patience_s) if execution.cache else None
    return {key: _pool_source(plan, of_pool, storage, kept) for key, of_pool in by_pool(cells).items()}


def _pool_source(
    plan: Plan, cells: Sequence[PlannedCell], storage: Folder | None, kept: EncodingPlan | None
) -> PoolSource:
    spec = cells[0].spec
    dataset, model = plan.datasets[dataset_key(spec.dataset)], plan.models[spec.model.name, spec.model.revision]
    encodings = encodings_read(cell.spec for cell in cells)
    tables = texts_read(dataset, (cell.spec for cell in cells))
    stored = {} if storage is None else stored_places(plan, cells, storage, tables)
    if kept is not None:
        stored = {key: places for key, places in stored.items() if kept.keeps(cells[0].pool_key, key)}
    return PoolSource(
        tables=tables,
        tokenize=partial(tokenize_table, model=model, max_tokens=spec.max_tokens),
        encoders={key: encoding.encoder for key, encoding in encodings.items()},
        stored=stored,
        reads_tokens=not all(cell.spec.finetune.is_frozen for cell in cells),
    )
