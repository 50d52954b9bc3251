"""What the runtime is asked to run and what it tells back, and the rules of failing; no ray here."""

import errno
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from al_ray.errors import AlRayError, ConfigError, ExecutionError, StorageError, without_secrets

if TYPE_CHECKING:
    import pyarrow as pa

    from al_ray.model.worker import Worker

EventKind = Literal["started", "round", "finished", "failed"]
FailureKind = Literal["input", "storage", "memory", "device", "lost", "error"]
Report = Callable[[dict[str, Any]], None]

MEMORY_TYPES = frozenset({"OutOfMemoryError", "MemoryError"})
MEMORY_WORDS = ("can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
DEVICE_TYPES = frozenset({"AcceleratorError", "DistBackendError"})
DEVICE_WORDS = ("CUDA error", "cuBLAS", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL", "device-side assert")
LOG_BYTES = 4000


@dataclass(frozen=True, kw_only=True)
class CellTask:
    """One cell to run: opaque to the runtime but for its pool and the size of its worker group.

    Attributes:
        key: unique name of the cell in this grid.
        payload: what ``run_cell`` gets; small, it travels through actors.
        pool_key: which of the grid's pools the cell works on.
        workers: size of the cell's worker group (part of the cell's identity).
    """

    key: str
    payload: dict[str, Any] = field(repr=False)  # the address of the storage may hold a key
    pool_key: str
    workers: int = 1


class RunCell(Protocol):
    """Runs one cell on every rank of a worker group; a module-level function, pickled by reference.

    It resumes by itself: after a lost worker it is called again with the same payload.
    """

    def __call__(
        self, payload: dict[str, Any], tables: "Mapping[str, pa.Table]", worker: "Worker", report: Report
    ) -> None:
        """Run the cell; ``tables`` are the tokenised tables of its pool, ``report`` tells a round (rank 0 only)."""


@dataclass(frozen=True)
class CellEvent:
    """Something that happened to a cell, told to the driver in order.

    ``data`` holds: for ``started`` the attempt, host and pid of rank 0; for ``round`` what the cell reported; for
    ``finished`` the seconds of the last attempt; for ``failed`` the fields of :class:`Failure` and the attempts.
    """

    kind: EventKind
    key: str
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def is_last(self) -> bool:
        """Whether no event of this cell follows."""
        return self.kind in ("finished", "failed")


@dataclass(frozen=True)
class Failure:
    """An exception in words, so that it can travel without its class; addresses in it have no logins.

    Attributes:
        error: name of its class.
        message: what it says.
        traceback: where it came from.
        kind: what failed, and so whether trying again can help.
        log: the last lines that the worker wrote to its standard error.
    """

    error: str
    message: str
    traceback: str = ""
    kind: FailureKind = "error"
    log: str = ""

    @classmethod
    def of(cls, error: BaseException, log: str = "") -> "Failure":
        """Word an exception with its stack trace."""
        trace = without_secrets("".join(traceback.format_exception(error)))
        return cls(type(error).__name__, without_secrets(str(error)), trace, kind_of(error), without_secrets(log))

    def data(self, attempts: int) -> dict[str, Any]:
        """Return the data of the ``failed`` event."""
        return {**asdict(self), "attempts": attempts}


class ExchangeLostError(ExecutionError):
    """The exchange died or cannot be reached, and with it what was under way; what is recorded is not lost."""


class RayLostError(ExecutionError):
    """The head of Ray died, or the process that drives it; what is recorded is not lost."""


class RayStartError(ExecutionError):
    """A private Ray did not start."""


def brief(error: object, limit: int = 400) -> str:
    """Return what an exception says in one line: Ray tells pages of advice with some."""
    text = " ".join(without_secrets(str(error)).split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def kind_of(error: BaseException) -> FailureKind:
    """Tell what failed.

    Returns:
        ``memory`` and ``device`` leave a process unfit for further work; ``storage`` and ``input`` are other errors
        that al_ray words itself; ``error`` is any other exception. What has no exception at all is ``lost``, and so is
        a worker that lost touch with its lane.
    """
    if _looks_like(error, MEMORY_TYPES, MEMORY_WORDS) or getattr(error, "errno", None) == errno.ENOMEM:
        return "memory"
    if _looks_like(error, DEVICE_TYPES, DEVICE_WORDS):
        return "device"
    if isinstance(error, ExchangeLostError):
        return "lost"
    if isinstance(error, AlRayError):
        return "storage" if isinstance(error, StorageError) else "input"
    return "error"


def _looks_like(error: BaseException, types: frozenset[str], words: tuple[str, ...]) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & types) or any(word in str(error) for word in words)


def lane_survives(error: Exception, world: int) -> bool:
    """Decide whether a worker group can take its next cell after ``error`` left a cell.

    A broken device or full memory poisons the process. With several ranks only the package's own errors count as
    raised on all ranks alike; after anything else a rank may still wait inside a collective operation.

    Args:
        error: what the cell raised.
        world: number of ranks in the group.
    """
    if kind_of(error) in ("memory", "device", "lost"):
        return False
    return world == 1 or isinstance(error, AlRayError)


def check_cells(cells: "list[CellTask]", pools: "Mapping[str, object]") -> None:
    """Refuse a grid that cannot be run as it stands.

    Raises:
        ConfigError: a key used twice, a pool that was not given, or a group of no workers.
    """
    seen: set[str] = set()
    for cell in cells:
        if cell.key in seen:
            raise ConfigError(f"cell {cell.key!r} is in the grid twice. Give every cell its own key.")
        seen.add(cell.key)
        if cell.pool_key not in pools:
            known = ", ".join(sorted(pools)) or "none"
            raise ConfigError(f"cell {cell.key!r} needs the pool {cell.pool_key!r}. Pools given: {known}.")
        if cell.workers < 1:
            raise ConfigError(f"cell {cell.key!r} asks for {cell.workers} workers. Give it 1 or more.")


def by_workers(cells: "list[CellTask]") -> dict[int, list[CellTask]]:
    """Split cells into resource classes, smallest worker group first, order kept inside a class."""
    classes: dict[int, list[CellTask]] = {}
    for cell in cells:
        classes.setdefault(cell.workers, []).append(cell)
    return dict(sorted(classes.items()))
