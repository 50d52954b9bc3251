"""What al_ray uses of Ray 2.60 that Ray does not promise: switches, tables, hooks, each with what it works round.

A new version of Ray is checked against this one module.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from al_ray.runtime.failures import RayStartError

# Keep Ray off the terminal. The history of calls, for its dashboard, would take 60 KB a cell in its head process
# (https://github.com/ray-project/ray/issues/42113); Tune's snapshots of a grid are not read here, records are.
QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
}
# How long the parts of a private Ray wait for each other: a machine ten times slower than a laptop starts it, too
# (https://github.com/ray-project/ray/issues/62883).
PATIENT_ENVIRONMENT = {
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_raylet_start_wait_time_s": "2",  # of one look; see patient_start
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
}
START_PATIENCE_S, LOOK_AGAIN_S = 300.0, 0.2
# A lane is four processes and more, most of them idle; at its default Ray warns of this on the terminal.
STARTUPS_AT_ONCE = "RAY_worker_maximum_startup_concurrency"
# A worker group is looked at once a second, which bounds how soon a lane learns of its workers' end.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Tune keeps statistics of every number of every trial, 2 KB each, which nobody reads here.
TUNE_CLOCKS = ("time_this_iter_s", "time_total_s", "time_since_restore", "iterations_since_restore")
# Of the actors that each group of Ray Train would wait for, two are never used. One cleans up after a killed
# controller, and may miss what it should clean (https://github.com/ray-project/ray/issues/62753); the sweeper does it
# for all lanes at once. The other hands out data sets (https://github.com/ray-project/ray/pull/63309).
UNUSED_CALLBACKS = ("PlacementGroupCleanerCallback", "DatasetsCallback")
# What a lane starts, by Ray's names, and the exchange. A program that runs a study in its own Ray job may have others.
LANE_ACTORS = ("ResourceTrainable", "TrainController", "RayTrainWorker", "SynchronizationActor", "ExchangeState")
# A resource that the head alone has, for trials, which hold no CPU.
HEAD_RESOURCE = "node:__internal_head__"
# Each node with GPUs has a resource of this name and theirs.
ACCELERATOR = "accelerator_type:"
DAEMONS = ("gcs_server", "raylet")


def without_unused_actors(trainer: type) -> type:
    """Return a trainer of Ray Train that starts none of the actors of :data:`UNUSED_CALLBACKS`."""

    class LaneTrainer(trainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ not in UNUSED_CALLBACKS]

    return LaneTrainer


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment inside, and put them back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def patient_start() -> Iterator[None]:
    """Wait for a private Ray's raylet as long as it lives, not for Ray's 30 s, which a busy machine may exceed.

    No setting reaches that number (``raylet_start_wait_time_s`` in ``ray/_private/node.py``; one that does not start:
    https://github.com/ray-project/ray/issues/62883). What Ray asks again and again there is asked here, and between two
    looks the raylet itself is looked at.
    """
    from ray._private import services

    get_node, start_raylet, raylets = services.get_node, services.start_raylet, list[Any]()
    deadline = time.monotonic() + START_PATIENCE_S

    def start_and_note(*arguments: Any, **options: Any) -> Any:
        raylets.append(start_raylet(*arguments, **options))
        return raylets[-1]

    def get_node_patiently(gcs_address: str, node_id: str) -> Any:
        while True:
            try:
                return get_node(gcs_address, node_id)
            except RuntimeError:
                for raylet in raylets:
                    if (code := raylet.process.poll()) is not None:
                        raise RayStartError(f"its raylet ended with code {code}") from None
                if time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_AGAIN_S)

    services.get_node, services.start_raylet = get_node_patiently, start_and_note
    try:
        yield
    finally:
        services.get_node, services.start_raylet = get_node, start_raylet


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that is started inside listen on 127.0.0.1 only; at its default all machines of the network reach it.

    This is how Ray starts itself on a Mac (https://github.com/ray-project/ray/pull/24945); an address that it is given
    it replaces by the machine's own (https://github.com/ray-project/ray/issues/26293). It reads the variable once, when
    it is imported, so the value that it made of it is set as well; both are put back, since a process may join a
    cluster later.
    """
    from ray._private import ray_constants

    is_reachable = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with environment({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = is_reachable


@contextlib.contextmanager
def without_log_monitor() -> Iterator[None]:
    """Start no process that reads all logs in order to send them to a driver that wants none (``log_to_driver``).

    No option of ``ray.init`` leaves it out. It took 9 ms of CPU a second beside two lanes.
    """
    from ray._private.node import Node

    start = Node.start_log_monitor
    Node.start_log_monitor = lambda self: None
    try:
        yield
    finally:
        Node.start_log_monitor = start


def dead_daemon() -> str | None:
    """Return the name of a process that a private Ray cannot live without and that is dead, if there is one.

    Ray notices a minute later (https://github.com/ray-project/ray/pull/20900).
    """
    from ray._private import worker

    node = worker._global_node
    dead = {} if node is None else dict(node.dead_processes())
    return next((name for name in DAEMONS if name in dead), None)


def head_at(address: str) -> str:
    """Return host and port of the head that an address such as ``auto`` means.

    Raises:
        ValueError: it means none.
        OSError: its name is not known.
    """
    from ray._private import services

    found: str = services.canonicalize_bootstrap_address(address)
    return found


def greet(head: str) -> None:
    """Ask a head for its name once: ``ray.init`` does so twenty times, and then does not tell what was wrong."""
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    # Without this, which ray.init does as well, Ray's C++ part ends the process where there is no token.
    ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    GcsClient(address=head)


def actors_of_this_job() -> list[Any]:
    """Return the actors of this job, with those that are dead; the public table has no process of a dead one."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return list(map(ActorTableData.FromString, state._connect_and_get_accessor().get_actor_table(job, None)))


def placement_groups() -> list[Any]:
    """Return the placement groups that still hold something; the public table does not tell who made one."""
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    found = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return [group for group in found if group.state != PlacementGroupTableData.REMOVED]


def remove_placement_group(group: Any) -> None:
    """Give back what a placement group of :func:`placement_groups` holds."""
    import ray
    from ray.util.placement_group import PlacementGroup
    from ray.util.placement_group import remove_placement_group as remove

    remove(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def cause_of_death(error: Exception) -> Exception:
    """Return what Ray knows of a worker's end, which Ray Train wraps in words about its own health check."""
    cause: Exception = getattr(error, "health_check_failure", error)
    return cause


def end_execution(dataset: Any) -> None:
    """End what a thread of this process iterates over, with its actors; nothing public reaches it from outside."""
    if dataset._current_executor is not None:
        dataset._current_executor.shutdown(force=True)


def log_files(scratch: Path) -> Sequence[Path]:
    """Return the logs of a private Ray that ran in a folder, in which it makes one for its session and a link to it."""
    return [path for path in scratch.glob("session_*/logs/*") if path.is_file() and "session_latest" not in path.parts]
