"""Failures: of what kind one is, how it travels, and whether something is tried again; no ray here."""

import errno
import traceback
from dataclasses import dataclass
from typing import Literal

from al_ray.errors import AlRayError, ExecutionError, StorageError, one_line, without_secrets

FailureKind = Literal["input", "storage", "memory", "device", "lost", "error"]
Failed = Literal["workers", "lane", "lane start", "exchange", "Ray", "Ray start"]

MEMORY_TYPES = frozenset({"OutOfMemoryError", "MemoryError"})
MEMORY_WORDS = ("can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
DEVICE_TYPES = frozenset({"AcceleratorError", "DistBackendError"})
DEVICE_WORDS = ("CUDA error", "cuBLAS", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL", "device-side assert")


class ExchangeLostError(ExecutionError):
    """The exchange died or cannot be reached, and with it what was under way; what is recorded is not lost."""


class RayLostError(ExecutionError):
    """The head of Ray died, or the process that drives it; what is recorded is not lost."""


class RayStartError(ExecutionError):
    """A private Ray did not start."""


@dataclass(frozen=True)
class RetryPolicy:
    """The one owner of ``retries``: decides what is tried again, and tells Ray's own mechanisms how often.

    What gets on may fail any number of times: failures are counted since the last recorded round. A cell that raises
    an error which leaves its workers whole is never tried again: it would raise it again.

    Attributes:
        retries: failures without a recorded round between that are tried again.
    """

    retries: int

    def restarts(self, what: Failed) -> int:
        """Return how often something is tried again without a recorded round between.

        A lane whose first workers end before they take a cell would end alike; a private Ray that does not start may
        have met a busy machine.
        """
        return {"lane start": 0, "Ray start": 1}.get(what, self.retries)

    def tries_again(self, what: Failed, failures_since_progress: int) -> bool:
        """Decide whether something that failed is tried again.

        Args:
            what: failed.
            failures_since_progress: how often since the last recorded round, this one included.
        """
        return failures_since_progress <= self.restarts(what)


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

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.error}: {one_line(self.message)}"


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


def _looks_like(error: BaseException, types: frozenset[str], words: tuple[str, ...]) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & types) or any(word in str(error) for word in words)
