"""Tune's hooks in the driver: results become events, and a grid that cannot go on is stopped."""

from collections.abc import Sequence
from typing import Any

from ray import tune

from al_ray.runtime.grid import GridWatch
from al_ray.runtime.lane.exchange import Exchange
from al_ray.runtime.tasks import CellEvent, CellTask, ExchangeLostError, Failure

# Tune keeps statistics of every number of every trial, 2 KB each, which nobody reads here.
CLOCKS = ("time_this_iter_s", "time_total_s", "time_since_restore", "iterations_since_restore")


class EventForwarder(tune.Callback):  # type: ignore[misc]
    """Takes the events out of each trial result and hands them on."""

    def __init__(self, cells: Sequence[CellTask], watch: GridWatch, exchange: Exchange) -> None:
        self._cells, self._watch, self._exchange = cells, watch, exchange

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Forward the events of one step; they leave the result, so that Tune's state stays small."""
        for name in CLOCKS:
            result.pop(name, None)
        for kind, key, data in result.pop("events", ()):
            self._watch.tell(CellEvent(kind, key, data))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report the cell of a trial that Tune gave up: its lane died more often than retries allow."""
        self._check_exchange()
        failure = Failure("LaneDied", f"the lane died more often than it may: {_cause(trial)}", kind="lost")
        self._watch.tell(CellEvent("failed", self._cells[trial.config["cell"]].key, failure.data(0)))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See whether the lane died because the exchange did: no other lane could live then."""
        self._check_exchange()

    def _check_exchange(self) -> None:
        try:
            self._exchange.ask("ping")
        except ExchangeLostError as error:
            self._watch.stop(error)


class GridStopper(tune.Stopper):  # type: ignore[misc]
    """Stops all trials once the watch holds an error."""

    def __init__(self, watch: GridWatch) -> None:
        self._watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial: a cell ends by itself."""
        return False

    def stop_all(self) -> bool:
        """Tell whether the grid has to end."""
        return self._watch.error is not None


def _cause(trial: Any) -> str:
    error = trial.get_error()
    return str(error).strip().splitlines()[-1] if error and str(error).strip() else "no reason given"
