"""Run a planned study: cells to the lanes, rounds to the listener and to MLflow, failures to the records."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib import metadata
from typing import Any

import pyarrow as pa

from al_ray import __version__
from al_ray.core.types import TextSplit
from al_ray.errors import ConfigError, StorageError
from al_ray.model import import_model_code
from al_ray.model.tokens import tokenize_table
from al_ray.records.lease import Lease
from al_ray.records.round import now
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.pool import PoolSource
from al_ray.runtime.tasks import CellEvent, CellTask
from al_ray.storage.folder import free_space
from al_ray.study.cell import run_cell
from al_ray.study.file import Execution
from al_ray.study.forecast import Forecast
from al_ray.study.plan import Plan, PlannedCell, dataset_key, plan_record, require_complete
from al_ray.tracking.address import tracking_address
from al_ray.tracking.tracker import Tracker

Listener = Callable[[CellEvent], None]
VERSIONS_OF = ("ray", "torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy", "mlflow")


def run_study(plan: Plan, execution: Execution, *, local: bool, listener: Listener, say: Callable[[str], None]) -> None:
    """Run every cell of the plan that is not finished; records are written by the cells themselves.

    Args:
        plan: the checked study.
        execution: where and how.
        local: run here without Ray.
        listener: told of every start, round, end and failure, in this process.
        say: takes sentences for the person who watches.

    Raises:
        AlRayError: before anything starts, or when the lanes themselves cannot be had.
    """
    require_complete(plan)
    if not local:
        check_shared(execution)
    plan.store.claim()
    plan = replace(plan, store=plan.store.claimed(execution.storage_patience_s))
    # The lease has no patience: it tells an outage at once, while all else waits.
    with Lease(plan.store.claimed().folder, plan.study.name, say, cell=plan.only).held() as lease:
        if plan.is_whole:
            plan.store.write_plan(plan_record(plan))
        _run(plan, execution, lease, local=local, listener=listener, say=say)


def _run(
    plan: Plan, execution: Execution, lease: Lease, *, local: bool, listener: Listener, say: Callable[[str], None]
) -> None:
    waiting = plan.waiting()
    tracker = Tracker(plan.store, tracking_address(execution.tracking, execution.storage))
    tracker.start()
    try:
        events = _Events(plan, tracker, lease, listener)
        keys = [_pool_key(cell) for cell in waiting]
        tasks = [_task(plan, cell, execution, key) for cell, key in zip(waiting, keys, strict=True)]
        # One table a pool, however many cells share it.
        pools = {key: _pool_source(plan, cell) for key, cell in dict(zip(keys, waiting, strict=True)).items()}
        if local:
            _run_here(tasks, pools, execution, events)
        else:
            _run_on_ray(tasks, pools, execution, events, say)
    finally:
        tracker.close()


def check_space(plan: Plan, cost: Forecast, execution: Execution) -> None:
    """Refuse a study whose records, and MLflow's file beside them, will not fit.

    Raises:
        StorageError: the storage has less room than the forecast.
    """
    free = free_space(plan.store.storage)
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

    def __init__(self, plan: Plan, tracker: Tracker, lease: Lease, listener: Listener) -> None:
        self._cells = {cell.key: cell for cell in plan.waiting()}
        self._store = plan.store
        self._tracker = tracker
        self._lease = lease
        self._starts: dict[str, list[dict[str, Any]]] = {}
        self._listener = listener

    def __call__(self, event: CellEvent) -> None:
        self._lease.check()
        cell = self._cells[event.key]
        if event.kind == "started":
            self._starts.setdefault(event.key, []).append({"time": now().isoformat(timespec="seconds"), **event.data})
            self._tracker.cell_started(event.key, cell.spec.to_json())
        elif event.kind == "round":
            self._tracker.round_recorded(event.key)
        else:
            self._ended(cell, event)
        self._listener(event)

    def _ended(self, cell: PlannedCell, event: CellEvent) -> None:
        assert cell.fingerprint is not None
        records = self._store.cell(cell.slug, cell.fingerprint)
        starts = self._starts.pop(event.key, [])
        if event.kind == "failed":
            records.fail({**event.data, "starts": starts})
            self._tracker.cell_finished(event.key, "failed")
        else:
            self._tracker.cell_finished(event.key, "done")


def _run_here(tasks: list[CellTask], pools: dict[str, PoolSource], execution: Execution, on_event: Listener) -> None:
    from al_ray.runtime.local import run_local

    run_local(
        cells=tasks,
        pools=pools,
        run_cell=run_cell,
        threads=execution.cpus_per_worker,
        use_gpu=execution.gpus_per_worker > 0,
        on_event=on_event,
    )


def _run_on_ray(
    tasks: list[CellTask],
    pools: dict[str, PoolSource],
    execution: Execution,
    on_event: Listener,
    say: Callable[[str], None],
) -> None:
    from al_ray.runtime.grid import run_grid

    resources = LaneResources(
        lanes=execution.lanes,
        cpus_per_worker=execution.cpus_per_worker,
        gpus_per_worker=execution.gpus_per_worker,
        address=execution.address or os.environ.get("RAY_ADDRESS"),
        retries=execution.retries,
        wait_for_nodes=execution.wait_for_nodes,
        accelerator_type=execution.accelerator_type,
    )
    run_grid(
        cells=tasks,
        pools=pools,
        run_cell=run_cell,
        resources=resources,
        on_event=on_event,
        warm_up=import_model_code,
        say=say,
    )


def _task(plan: Plan, cell: PlannedCell, execution: Execution, pool_key: str) -> CellTask:
    dataset = plan.datasets[dataset_key(cell.spec.dataset)]
    payload = {
        "study": plan.study.name,
        "storage": plan.store.storage,
        "storage_patience_s": execution.storage_patience_s,
        "slug": cell.slug,
        "fingerprint": cell.fingerprint,
        "spec": cell.spec.to_json(),
        "n_classes": dataset.n_classes,
        "provenance": _provenance(plan, cell, execution),
    }
    return CellTask(key=cell.key, payload=payload, pool_key=pool_key, workers=cell.spec.workers)


def _provenance(plan: Plan, cell: PlannedCell, execution: Execution) -> dict[str, Any]:
    dataset, model = plan.datasets[dataset_key(cell.spec.dataset)], cell.spec.model
    return {
        "al_ray": __version__,
        "python": platform.python_version(),
        **_versions(),
        "cpus_per_worker": execution.cpus_per_worker,
        "gpus_per_worker": execution.gpus_per_worker,
        "data": dataset.source,
        "model": plan.models[model.name, model.revision].path,
        "class_names": list(dataset.class_names),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@cache
def _versions() -> dict[str, str]:
    """Return the versions installed here; each takes half a millisecond to find, so once is enough."""
    return {name: metadata.version(name) for name in VERSIONS_OF}


def _pool_key(cell: PlannedCell) -> str:
    """Name what two cells share when they read the same tokens."""
    spec = cell.spec
    return f"{str(spec.dataset_sha256)[:16]}-{str(spec.model.settings_sha256)[:16]}-{spec.max_tokens}"


def _pool_source(plan: Plan, cell: PlannedCell) -> PoolSource:
    dataset = plan.datasets[dataset_key(cell.spec.dataset)]
    model = plan.models[cell.spec.model.name, cell.spec.model.revision]
    return PoolSource(
        tables={"pool": _text_table(dataset.train), "test": _text_table(dataset.test)},
        tokenize=partial(tokenize_table, model=model, max_tokens=cell.spec.max_tokens),
    )


def _text_table(split: TextSplit) -> pa.Table:
    table = pa.table({"id": split.ids, "label": split.labels, "text": pa.array(split.texts, pa.string())})
    if split.groups is not None:
        table = table.append_column("group", pa.array(split.groups, pa.string()))
    return table.sort_by("id")
