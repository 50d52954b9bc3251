"""When MLflow is asked again after it failed, which failures are those of one cell, and how they are worded."""

from collections.abc import Sequence
from dataclasses import dataclass

from al_ray.errors import AlRayError, without_secrets

# What MLflow answers where it can be used, and only the update of one cell is not taken.
_REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"})
_N_SHOWN = 3


@dataclass
class Outage:
    """How often MLflow failed in a row, and what follows.

    Attributes:
        waits_s: seconds between the first attempts, of which nobody is told.
        looks_s: seconds before the first and, doubling, at most before any later look at an MLflow that is down.
        n_failures: attempts that failed since the last that did not.
    """

    waits_s: Sequence[float]
    looks_s: tuple[float, float]
    n_failures: int = 0

    @property
    def is_down(self) -> bool:
        """Whether it failed so often that somebody is told."""
        return self.n_failures > len(self.waits_s)

    def failed(self) -> float:
        """Count a failure; return the seconds until the next attempt."""
        self.n_failures += 1
        if self.is_down:
            return self.look_s(self.n_failures - len(self.waits_s))
        return self.waits_s[self.n_failures - 1]

    def look_s(self, n: int) -> float:
        """Return the seconds before the n-th look, n from 1."""
        first_s, longest_s = self.looks_s
        return min(first_s * 2.0 ** min(n - 1, 30), longest_s)

    def is_of_one_cell(self, error: Exception, n_failures: int) -> bool:
        """Tell whether an error says nothing about other cells.

        Args:
            error: what an MLflow that was reached, or the storage, raised.
            n_failures: how often the update of this cell has failed; more often than MLflow: it cannot be taken.
        """
        refused = isinstance(error, AlRayError) or getattr(error, "error_code", None) in _REFUSALS
        return refused or (not self.is_down and n_failures > len(self.waits_s) + 1)


def brief(error: Exception, limit: int = 300) -> str:
    """Return an error in one line that may be shown: where the network failed, in the system's words."""
    text = _of_the_system(error) or without_secrets(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."


def _of_the_system(error: BaseException) -> str | None:
    """Return what the system said, which the client's libraries wrap in pages of their own; None where it said nothing.

    The outermost error is left out: a file that cannot be read says which one.
    """
    seen, inner = {id(error)}, error.__cause__ or error.__context__
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror[0].lower() + inner.strerror[1:]
        if type(inner).__name__.endswith(("ReadTimeout", "ReadTimeoutError", "ConnectTimeout")):
            return "no answer in time"
        inner = inner.__cause__ or inner.__context__
    return None


def cells_named(keys: Sequence[str]) -> str:
    """Say how many cells these are, and the names of the first."""
    names = ", ".join([*keys[:_N_SHOWN], *(["..."] if len(keys) > _N_SHOWN else [])])
    return f"{len(keys)} cell{'' if len(keys) == 1 else 's'} ({names})"
