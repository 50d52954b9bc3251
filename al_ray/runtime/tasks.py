"""Messages of the runtime: a cell to run, and the events that tell what became of it; no ray here."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from al_ray.errors import AlRayError
from al_ray.runtime.failures import Failure

# What a killed lane loses, against how many files a study leaves; below 10 MiB an object store takes one request.
HOLD_S, MAX_HELD, MAX_HELD_BYTES = 10.0, 1000, 2**23

if TYPE_CHECKING:
    from al_ray.model.worker import Worker
    from al_ray.runtime.pool import CellPool


@dataclass(frozen=True, kw_only=True)
class CellTask:
    """One cell to run: small, since it travels through actors.

    Attributes:
        key: unique name of the cell in its grid.
        study: name of the study.
        storage: address of the records.
        storage_patience_s: how long an outage of the storage is waited for.
        slug: what the cell's folder is called, before its fingerprint.
        fingerprint: SHA-256 of what the cell computes.
        spec: the cell's spec as JSON.
        n_classes: classes of its data set.
        provenance: what is recorded of this run beside the spec, as JSON.
        pool_key: which of the grid's pools the cell works on.
        workers: size of its worker group, a part of its identity.
        is_quick: takes seconds, so that a lane is given many at a time.
        is_new: nothing of it was recorded when it was planned, so that a quick one need not have a folder of its own.
        attempt: at it, from 1; after the first it may have a folder all the same.
        cost: about what it takes beside the other cells of its grid, in any unit; above 0.
    """

    key: str
    study: str
    storage: str = field(repr=False)  # may hold a key
    storage_patience_s: float
    slug: str
    fingerprint: str
    spec: dict[str, Any]
    n_classes: int
    provenance: dict[str, Any]
    pool_key: str
    workers: int = 1
    is_quick: bool = False
    is_new: bool = False
    attempt: int = 1
    cost: float = 1.0

    def to_json(self) -> bytes:
        """Return it as JSON, small beside the object: 100,000 of them wait in one process."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "CellTask":
        """Read back what :meth:`to_json` returned."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class CellStarted:
    """An attempt at a cell began.

    Attributes:
        key: of the cell.
        attempt: number of this attempt, from 1.
        where: pid, machine and node of rank 0; empty without Ray.
        failures_since_progress: attempts since the last recorded round that failed.
        lost: why the last of them did, if anything is known of it.
    """

    key: str
    attempt: int = 1
    where: Mapping[str, Any] = field(default_factory=dict)
    failures_since_progress: int = 0
    lost: Failure | None = None


@dataclass(frozen=True)
class RoundEnded:
    """A round of a cell is recorded; the record holds the rest."""

    key: str
    round_index: int
    n_labeled: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class CellFinished:
    """A cell is done."""

    key: str


@dataclass(frozen=True)
class CellFailed:
    """A cell failed, and is not tried again."""

    key: str
    failure: Failure
    attempts: int

    def reason(self) -> dict[str, Any]:
        """Return it as ``failed.json`` tells it."""
        return {**asdict(self.failure), "attempts": self.attempts}


@dataclass(frozen=True)
class CellSaid:
    """What a cell's workers have to say of how they compute it, for the log."""

    key: str
    words: str


CellEvent = CellStarted | RoundEnded | CellSaid | CellFinished | CellFailed
LAST_EVENTS = (CellFinished, CellFailed)
ReportRound = Callable[[RoundEnded], None]


class HeldCell(Protocol):
    """A cell that is computed, and is to be recorded together with others."""

    @property
    def n_bytes(self) -> int:
        """Return how much memory it takes."""
        ...

    @property
    def rounds(self) -> Sequence[RoundEnded]:
        """Return what is to be told of its rounds once they are recorded."""
        ...

    def record_with(self, others: Sequence[Any]) -> None:
        """Record it and other cells that the same function ran: all of them, or none.

        Raises:
            StorageError: they cannot be written.
        """
        ...


# Runs one cell on every rank of a worker group: its task, its pool, the rank's worker, and what takes its recorded
# rounds (on rank 0). A module-level function, pickled by reference. It resumes by itself: after a lost worker it is
# called again with the same task. A quick cell may come back computed, to be recorded together with others.
RunCell = Callable[[CellTask, "CellPool", "Worker", ReportRound], "HeldCell | None"]


class HeldCells:
    """Cells that a process has computed and not recorded yet: it records them together, every few seconds.

    What a killed process held is computed again, and is the same.
    """

    def __init__(self) -> None:
        self._cells: list[tuple[str, HeldCell]] = []
        self._n_bytes = 0
        self._since_s = 0.0

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._cells)

    @property
    def is_due(self) -> bool:
        """Whether it is time to record them."""
        if not self._cells:
            return False
        is_large = len(self._cells) >= MAX_HELD or self._n_bytes >= MAX_HELD_BYTES
        return is_large or time.monotonic() - self._since_s >= HOLD_S

    def add(self, key: str, cell: HeldCell) -> None:
        """Hold a cell."""
        if not self._cells:
            self._since_s = time.monotonic()
        self._cells.append((key, cell))
        # Summed up as they come: it is asked for at each event, and a cell has many files.
        self._n_bytes += cell.n_bytes

    def record(self) -> list[CellEvent]:
        """Record all that are held; return what is to be told of them: their ends, or that they failed."""
        cells, self._cells, self._n_bytes = self._cells, [], 0
        if not cells:
            return []
        try:
            cells[0][1].record_with([cell for _, cell in cells[1:]])
        except AlRayError as error:
            return [CellFailed(key, Failure.of(error), attempts=1) for key, _ in cells]
        events: list[CellEvent] = []
        for key, cell in cells:
            events += [*cell.rounds, CellFinished(key)]
        return events


def by_workers(cells: Sequence[CellTask]) -> dict[int, list[CellTask]]:
    """Split cells into resource classes, smallest worker group first, order kept inside a class."""
    classes: dict[int, list[CellTask]] = {}
    for cell in cells:
        classes.setdefault(cell.workers, []).append(cell)
    return dict(sorted(classes.items()))
