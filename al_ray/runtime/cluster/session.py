"""A Ray to run on: a private one on this machine, one that was joined by its address, or the one already here."""

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al_ray.errors import ExecutionError
from al_ray.runtime.cluster.address import why_no_head
from al_ray.runtime.cluster.resources import LaneResources, NodeSize, object_store_bytes
from al_ray.runtime.tasks import RayStartError, brief

DATA_PLANE_CPUS = 1
DAEMONS = ("gcs_server", "raylet")
START_PATIENCE_S, LOOK_AGAIN_S = 300.0, 0.2
# How long the parts of a private Ray wait for each other: a machine ten times slower than a laptop starts it, too.
PATIENT_START = {
    "RAY_gcs_server_port_wait_time_s": 300,
    "RAY_raylet_start_wait_time_s": 2,  # of one look; see patient_start
    "RAY_worker_register_timeout_seconds": 300,
    "RAY_agent_register_timeout_ms": 300_000,
}
ACCELERATOR = "accelerator_type:"
QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's history of calls, for its dashboard: 60 KB a cell in its head process.
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


@dataclass(frozen=True)
class RaySession:
    """The Ray in use.

    Attributes:
        private: whether it was started here, with a logical CPU for the data plane on top of the lanes' CPUs.
        nodes: what the lanes may use.
        scratch: a folder on this machine that is gone when the session ends.
    """

    private: bool
    nodes: tuple[NodeSize, ...]
    scratch: Path


def is_here() -> bool:
    """Tell whether this process has a Ray already."""
    import ray

    return bool(ray.is_initialized())


def address_of(resources: LaneResources) -> str | None:
    """Return the address of the cluster to join; None where a private Ray is to be started."""
    address = resources.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None


@contextlib.contextmanager
def ray_session(resources: LaneResources, scratch: Path) -> Iterator[RaySession]:
    """Give a Ray to work on and take back only what was started here.

    A Ray that this process already has is used and left alone. A stranger's cluster on this machine is never joined
    unless an address is given or ``RAY_ADDRESS`` is set, as inside a Ray job.

    Args:
        resources: which Ray, and its size.
        scratch: an empty folder for what the run needs on this machine.

    Raises:
        ExecutionError: no cluster answers at the address, or it cannot be joined.
        RayStartError: a private Ray does not start.
    """
    with quiet_ray():
        import ray

        if is_here():
            yield RaySession(False, _nodes(0), scratch)
            return
        address = address_of(resources)
        if address is None:
            _start(resources.cpus or os.cpu_count() or 1, scratch)
        else:
            _join(address)
        try:
            yield RaySession(address is None, _nodes(DATA_PLANE_CPUS if address is None else 0), scratch)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def quiet_ray() -> Iterator[None]:
    """Keep Ray's own talk off the terminal: errors come back as exceptions, events through callbacks."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.data", "ray.train")]
    levels = [logger.level for logger in loggers]
    before = {name: os.environ.get(name) for name in QUIET_ENVIRONMENT}
    os.environ.update(QUIET_ENVIRONMENT)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        _restore(before)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _start(cpus: int, scratch: Path) -> None:
    import ray

    os.environ.update({name: str(seconds) for name, seconds in PATIENT_START.items()})
    # A lane is four processes and more, most of them idle; at its default Ray warns of this on the terminal.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(2 * cpus + 4))
    try:
        with on_loopback(), patient_start():
            ray.init(
                address="local",
                num_cpus=cpus + DATA_PLANE_CPUS,
                include_dashboard=False,
                object_store_memory=object_store_bytes(_memory_bytes(), _shared_memory_bytes()),
                _temp_dir=str(scratch),
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
    except RayStartError:
        raise
    except Exception as error:  # Ray's own words for it have no common type
        raise RayStartError(f"{type(error).__name__}: {brief(error)}") from error


@contextlib.contextmanager
def patient_start() -> Iterator[None]:
    """Wait for a private Ray's raylet as long as it lives, not for Ray's 30 s, which a busy machine may exceed.

    Ray 2.60 has the number in ``ray/_private/node.py`` (``raylet_start_wait_time_s``), where no setting reaches it.
    What it asks again and again there is asked here, and between two looks the raylet itself is looked at.
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


def dead_daemon() -> str | None:
    """Return the name of a process that a private Ray cannot live without and that is dead, if there is one."""
    from ray._private import worker

    node = worker._global_node
    dead = {} if node is None else dict(node.dead_processes())
    return next((name for name in DAEMONS if name in dead), None)


def what_died() -> str | None:
    """Tell what of the Ray in use is gone, if anything is: a part of a private one, or the head."""
    import ray

    if (name := dead_daemon()) is not None:
        return f"its {name} ended"
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    why = why_no_head(host.strip("[]"), int(port), silence_counts=False)
    return why and f"its head does not answer: {why}"


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that is started inside listen on 127.0.0.1 only; at its default all machines of the network reach it.

    This is how Ray starts itself on a Mac. It reads the variable once, when it is imported, so the value that it made
    of it is set as well; both are put back, since a process may join a cluster later.
    """
    from ray._private import ray_constants

    name, is_reachable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    before = {name: os.environ.get(name)}
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = is_reachable
        _restore(before)


def _join(address: str) -> None:
    import ray

    gcs = _find_head(address)
    try:
        _greet(gcs)
        ray.init(address=gcs, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray's own words for it have no common type
        raise ExecutionError(f"the Ray cluster at {address!r} cannot be joined: {_why_not_joined(error)}") from error


def _find_head(address: str) -> str:
    """Return host and port of a cluster's head, which is there.

    Raises:
        ExecutionError: nothing answers there, or something that no driver can join.
    """
    from ray._private import services

    if "://" in address:
        raise ExecutionError(
            f"{address!r} is the address of a service of Ray, and a study joins the head itself, from a machine of the "
            "cluster. Give HOST:PORT of the head (port 6379 at its default) with --set address=, or start the study as "
            "a job: ray job submit."
        )
    try:
        gcs: str = services.canonicalize_bootstrap_address(address)
        host, _, port = gcs.rpartition(":")
        why = why_no_head(host.strip("[]"), int(port))
    except ValueError:
        raise ExecutionError(
            f"{address!r} is no address of a Ray cluster. Give HOST:PORT of its head (port 6379 at its default), or "
            "'auto' for the one of this machine."
        ) from None
    except OSError as error:
        gcs, why = address, brief(error)
    if why is not None:
        at = f"{address!r}" if gcs == address else f"{address!r} ({gcs})"
        is_variable = os.environ.get("RAY_ADDRESS") == address
        without = "unset RAY_ADDRESS" if is_variable else "leave 'address' out"
        raise ExecutionError(
            f"no Ray cluster answers at {at}: {why}. Start one, correct the address, or {without} to use a private Ray "
            "on this machine."
        )
    return gcs


def _greet(gcs: str) -> None:
    """Ask a head for its name once: Ray does so twenty times, and then does not tell what was wrong."""
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    # Without this, which ray.init does as well, Ray's C++ part ends the process where there is no token.
    ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    GcsClient(address=gcs)


def _why_not_joined(error: Exception) -> str:
    from ray.exceptions import AuthenticationError, RpcError

    if isinstance(error, AuthenticationError):
        return (
            "it wants a token, and this process has none or another one. Set RAY_AUTH_MODE=token here too, and "
            "RAY_AUTH_TOKEN_PATH to a file with the cluster's token (~/.ray/auth_token at its default)."
        )
    if isinstance(error, RpcError):
        return (
            f"what answers is not the head of a Ray ({brief(error)}). Give HOST:PORT of the head (port 6379 at its "
            "default); port 10001 is that of Ray Client."
        )
    if "Version mismatch" in str(error):
        return f"{brief(error)} Use the same versions of Ray and Python here and there."
    return brief(error)


def _nodes(reserved_cpus: int) -> tuple[NodeSize, ...]:
    import ray

    sizes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return tuple(
        NodeSize(size.get("CPU", 0) - reserved_cpus, size.get("GPU", 0), _accelerator_types(size)) for size in sizes
    )


def _accelerator_types(resources: Mapping[str, float]) -> frozenset[str]:
    """Return the names of a node's GPUs: Ray gives each node a resource ``accelerator_type:NAME``."""
    return frozenset(name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR))


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shared_memory_bytes() -> int:
    try:
        stat = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return stat.f_bavail * stat.f_frsize
