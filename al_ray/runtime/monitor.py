"""What outlives one start of a grid: its plan, and the monitor that knows what has ended; no ray here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from al_ray.errors import ExecutionError
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.failures import RetryPolicy
from al_ray.runtime.pool import PoolSource
from al_ray.runtime.tasks import LAST_EVENTS, CellEvent, CellFailed, CellStarted, CellTask, RoundEnded


@dataclass(frozen=True)
class GridPlan:
    """What every start of a grid is given, beside the cells that are left.

    Attributes:
        pools: pool key -> texts and tokenizer.
        functions: pickled ``(run_cell, warm_up)``.
        resources: lanes, CPUs, GPUs, and which Ray.
        policy: what is tried again.
    """

    pools: Mapping[str, PoolSource]
    functions: bytes
    resources: LaneResources
    policy: RetryPolicy


class GridMonitor:
    """Forwards events to the driver, knows which cells have ended, and holds the error that stops the grid."""

    def __init__(self, on_event: Callable[[CellEvent], None]) -> None:
        self._on_event = on_event
        self._any_started = False
        self._ended: set[str] = set()
        self.n_rounds = 0
        self.error: BaseException | None = None

    def __reduce__(self) -> Any:
        # Tune pickles its callbacks into its snapshots; the driver's own listener stays out, any function replaces it.
        return GridMonitor, (repr,)

    def tell(self, event: CellEvent) -> None:
        """Forward one event; the first exception, or lanes that cannot start, stop the grid."""
        if self.error is not None:
            return
        self._any_started |= isinstance(event, CellStarted)
        self.n_rounds += isinstance(event, RoundEnded)
        if isinstance(event, LAST_EVENTS):
            self._ended.add(event.key)
        if isinstance(event, CellFailed) and not self._any_started:
            why = f"no lane could start: {event.failure.error}: {event.failure.message}."
            self.stop(ExecutionError(f"{why} Mend this and start again; what is recorded is kept."))
            return
        try:
            self._on_event(event)
        except BaseException as error:
            self.stop(error)

    def stop(self, error: BaseException) -> None:
        """Stop the grid with an error, unless it has one."""
        self.error = self.error or error

    def check(self) -> None:
        """Raise the error that stopped the grid, if any."""
        if self.error is not None:
            raise self.error

    def left_of(self, cells: Sequence[CellTask]) -> list[CellTask]:
        """Return the cells that have not ended."""
        return [cell for cell in cells if cell.key not in self._ended]
