"""A Ray to run on: a private one on this machine, one that was joined by its address, or the one already here."""

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from al_ray.errors import ExecutionError
from al_ray.runtime.plan import LaneResources, NodeSize, object_store_bytes
from al_ray.runtime.scratch import scratch_folder

DATA_PLANE_CPUS = 1
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


@contextlib.contextmanager
def ray_session(resources: LaneResources) -> Iterator[RaySession]:
    """Give a Ray to work on and take back only what was started here.

    A Ray that this process already has is used and left alone. A stranger's cluster on this machine is never joined
    unless an address is given or ``RAY_ADDRESS`` is set, as inside a Ray job.

    Raises:
        ExecutionError: no cluster answers at the address.
    """
    with quiet_ray(), scratch_folder() as scratch:
        import ray

        if ray.is_initialized():
            yield RaySession(False, _nodes(0), scratch)
            return
        with _own_sigterm():
            private = _connect(resources, scratch)
        try:
            yield RaySession(private, _nodes(DATA_PLANE_CPUS if private else 0), scratch)
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


def _connect(resources: LaneResources, scratch: Path) -> bool:
    """Join the named cluster, or start a private Ray; True when private."""
    address = resources.address or os.environ.get("RAY_ADDRESS")
    if address is None or address == "local":
        _start(resources.cpus or os.cpu_count() or 1, scratch)
        return True
    _join(address)
    return False


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the program's handler of SIGTERM, if it has one, where connecting to Ray puts another in its place."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _start(cpus: int, scratch: Path) -> None:
    import ray

    # A lane is four processes and more, most of them idle; at its default Ray warns of this on the terminal.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(2 * cpus + 4))
    try:
        with on_loopback():
            ray.init(
                address="local",
                num_cpus=cpus + DATA_PLANE_CPUS,
                include_dashboard=False,
                object_store_memory=object_store_bytes(_memory_bytes(), _shared_memory_bytes()),
                _temp_dir=str(scratch),
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
    except (OSError, RuntimeError) as error:
        raise ExecutionError(
            f"a private Ray cannot start in {scratch}: {error}. Name a folder that this machine can write to and whose "
            "name is short with TMPDIR, or join a Ray with --set address=."
        ) from error


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

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ExecutionError(
            f"no Ray cluster answers at {address!r}: {error}. Start one, correct the address, "
            "or leave the address out to use a private Ray on this machine."
        ) from error


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
