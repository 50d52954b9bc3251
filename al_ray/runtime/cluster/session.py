"""Ray session: a private Ray on this machine, one that was joined by its address, or the one already here."""

import contextlib
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from al_ray.errors import ExecutionError, one_line
from al_ray.runtime.cluster import ray_internals
from al_ray.runtime.cluster.resources import LaneResources, NodeSize, object_store_bytes
from al_ray.runtime.failures import RayStartError

DATA_PLANE_CPUS = 1
# Of the object store, for pools; the rest is for what Ray itself moves: blocks of texts, weights.
STORE_SHARE = 0.8
PATIENCE_S = 4.0
# The first words of a client of HTTP/2, and settings that change nothing (RFC 9113, section 3.4). Ray's head speaks
# gRPC, which is HTTP/2, and so its first words are a frame of settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_BYTES, _SETTINGS = 9, 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RaySession:
    """The Ray in use.

    Attributes:
        private: whether it was started here, with a logical CPU for the data plane on top of the lanes' CPUs.
        nodes: what the lanes may use.
    """

    private: bool
    nodes: tuple[NodeSize, ...]


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
            yield RaySession(False, node_sizes(0))
            return
        address = address_of(resources)
        if address is None:
            _start(os.cpu_count() or 1, scratch)
        else:
            _join(address)
        try:
            yield RaySession(address is None, node_sizes(DATA_PLANE_CPUS if address is None else 0))
        finally:
            ray.shutdown()


@contextlib.contextmanager
def quiet_ray() -> Iterator[None]:
    """Keep Ray's own talk off the terminal: errors come back as exceptions, events through callbacks."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.data", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with ray_internals.environment(ray_internals.QUIET_ENVIRONMENT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _start(cpus: int, scratch: Path) -> None:
    import ray

    os.environ.update(ray_internals.PATIENT_ENVIRONMENT)
    os.environ.setdefault(ray_internals.STARTUPS_AT_ONCE, str(2 * cpus + 4))
    began = time.monotonic()
    try:
        with ray_internals.on_loopback(), ray_internals.without_log_monitor(), ray_internals.patient_start():
            ray.init(
                address="local",
                num_cpus=cpus + DATA_PLANE_CPUS,
                include_dashboard=False,
                object_store_memory=private_store_bytes(),
                _temp_dir=str(scratch),
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
    except RayStartError:
        raise
    except Exception as error:  # Ray's own words for it have no common type
        raise RayStartError(f"{type(error).__name__}: {one_line(error)}") from error
    _log.info("a private Ray of %d CPUs started in %.1f s", cpus, time.monotonic() - began)


def what_died() -> str | None:
    """Tell what of the Ray in use is gone, if anything is: a part of a private one, or the head."""
    import ray

    if (name := ray_internals.dead_daemon()) is not None:
        return f"its {name} ended"
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    why = why_no_head(host.strip("[]"), int(port), silence_counts=False)
    return why and f"its head does not answer: {why}"


def _join(address: str) -> None:
    import ray

    gcs = _find_head(address)
    try:
        ray_internals.greet(gcs)
        ray.init(address=gcs, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray's own words for it have no common type
        raise ExecutionError(f"the Ray cluster at {address!r} cannot be joined: {_why_not_joined(error)}") from error
    _log.info("joined the Ray cluster at %s", gcs)


def _find_head(address: str) -> str:
    """Return host and port of a cluster's head, which is there.

    Raises:
        ExecutionError: nothing answers there, or something that no driver can join.
    """
    if "://" in address:
        raise ExecutionError(
            f"{address!r} is the address of a service of Ray, and a study joins the head itself, from a machine of the "
            "cluster. Give HOST:PORT of the head (port 6379 at its default) with --set address=, or start the study as "
            "a job: ray job submit."
        )
    try:
        gcs = ray_internals.head_at(address)
        host, _, port = gcs.rpartition(":")
        why = why_no_head(host.strip("[]"), int(port))
    except ValueError:
        raise ExecutionError(
            f"{address!r} is no address of a Ray cluster. Give HOST:PORT of its head (port 6379 at its default), or "
            "'auto' for the one of this machine."
        ) from None
    except OSError as error:
        gcs, why = address, one_line(error)
    if why is not None:
        at = f"{address!r}" if gcs == address else f"{address!r} ({gcs})"
        is_variable = os.environ.get("RAY_ADDRESS") == address
        without = "unset RAY_ADDRESS" if is_variable else "leave 'address' out"
        raise ExecutionError(
            f"no Ray cluster answers at {at}: {why}. Start one, correct the address, or {without} to use a private Ray "
            "on this machine."
        )
    return gcs


def why_no_head(host: str, port: int, *, silence_counts: bool = True) -> str | None:
    """Tell within seconds why no head of Ray can be there; None where one may be.

    Ray itself asks a head that is not there for a quarter of an hour, with warnings of its C++ parts on the terminal.

    Args:
        host: its name or number.
        port: of the head itself, not of its dashboard.
        silence_counts: whether nobody is there where nobody answers in time; a busy head may be late.
    """
    found: list[str | None] = []
    # In a thread of its own, since finding a name has no time limit.
    thread = threading.Thread(target=lambda: found.append(_look(host, port)), name="address", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if not found or found[0] is None:
        return f"no answer within {PATIENCE_S:.0f} s" if silence_counts else None
    return found[0] or None


def _look(host: str, port: int) -> str | None:
    """Return what is wrong with what answers, nothing where it may be a head, None where nothing answers."""
    try:
        line = socket.create_connection((host, port), timeout=PATIENCE_S)
    except TimeoutError:
        return None
    except socket.gaierror:
        return f"the name {host!r} is not known here"
    except OSError as error:
        return f"no connection ({error.strerror or error})"
    with line, line.makefile("rb") as answers:
        if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):
            return ""  # what is behind it tells itself to those alone who have a certificate
        try:
            line.sendall(_HELLO)
            answer = answers.read(_FRAME_BYTES)  # or less, where the other side ends
        except TimeoutError:
            return None
        except OSError as error:
            return f"what listens there hung up ({error.strerror or error})"
    if answer.startswith(b"HTTP/1"):
        return "a web server, and not the head of a Ray, answers; Ray's dashboard (port 8265 at its default) is one"
    if len(answer) < _FRAME_BYTES or answer[3] != _SETTINGS:
        return f"something else than the head of a Ray answers ({answer[:_FRAME_BYTES]!r})"
    return ""


def _why_not_joined(error: Exception) -> str:
    from ray.exceptions import AuthenticationError, RpcError

    if isinstance(error, AuthenticationError):
        return (
            "it wants a token, and this process has none or another one. Set RAY_AUTH_MODE=token here too, and "
            "RAY_AUTH_TOKEN_PATH to a file with the cluster's token (~/.ray/auth_token at its default)."
        )
    if isinstance(error, RpcError):
        return (
            f"what answers is not the head of a Ray ({one_line(error)}). Give HOST:PORT of the head (port 6379 at its "
            "default); port 10001 is that of Ray Client."
        )
    if "Version mismatch" in str(error):
        return f"{one_line(error)} Use the same versions of Ray and Python here and there."
    return one_line(error)


def node_sizes(reserved_cpus: float) -> tuple[NodeSize, ...]:
    """Return what the nodes that are there now offer to lanes, each without some CPUs that are reserved."""
    import ray

    nodes, mark = [], ray_internals.ACCELERATOR
    for size in (node["Resources"] for node in ray.nodes() if node["Alive"]):
        types = frozenset(name.removeprefix(mark) for name in size if name.startswith(mark))
        nodes.append(NodeSize(size.get("CPU", 0) - reserved_cpus, size.get("GPU", 0), types))
    return tuple(nodes)


def object_store_bytes_here() -> float:
    """Return the size of the smallest object store among the nodes of the Ray in use."""
    import ray

    sizes = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return float(min(sizes, default=0.0))


def private_store_bytes() -> int:
    """Return the size of the object store that a private Ray gets on this machine."""
    return object_store_bytes(psutil.virtual_memory().total, _shared_memory_bytes())


def _shared_memory_bytes() -> int:
    try:
        return int(psutil.disk_usage("/dev/shm").free)
    except OSError:
        return 0
