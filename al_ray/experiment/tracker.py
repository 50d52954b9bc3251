"""The live view of a study in MLflow, which goes on through outages and never holds the study up."""

import logging
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from al_ray.core.types import RoundRecord
from al_ray.errors import StorageError, without_secrets
from al_ray.experiment.recorded_rounds import RecordedRound, now
from al_ray.experiment.store import StudyStore
from al_ray.experiment.tracking import connect
from al_ray.experiment.tracking_backlog import Backlog, News
from al_ray.experiment.tracking_outage import Outage, brief, cells_named

if TYPE_CHECKING:
    from al_ray.experiment.tracking_projection import Projection

WAITS_S = (1.0, 4.0, 15.0)
LOOKS_S = (30.0, 300.0)
MAX_ROUNDS = 256
CLOSE_TIMEOUT_S = 60.0
_AGAIN = "The study goes on and its records are complete; MLflow is tried again from time to time."
_SLOW = (
    "more rounds are waiting than are kept. Cells are brought up from their records instead, with fewer calls; the "
    "study does not wait, and nothing is lost."
)
_log = logging.getLogger(__name__)


class Tracker:
    """Shows a study in MLflow while it runs: one backlog, one thread, and no way to hold the study up.

    Its methods only note what happened. MLflow is imported, its database made and every call done in the thread. Where
    MLflow fails, the thread tries again a few times, says so once, and then remembers only which cells are behind. It
    looks again at growing intervals; when MLflow answers, those cells are brought up from their records and the view is
    live again. The records are the truth: :func:`al_ray.experiment.tracking.sync` adds what is missing in the end.

    Args:
        store: the study's records.
        tracking_uri: where MLflow is; None: nothing is tracked.
        say: takes the sentences about an outage; called from the thread. None: a warning is logged.
        waits_s: seconds between the first attempts.
        looks_s: seconds before the first look at an MLflow that is down, and the most before a later one.
        max_rounds: rounds that may wait; where more do, cells are brought up from their records.
    """

    def __init__(
        self,
        store: StudyStore,
        tracking_uri: str | None,
        *,
        say: Callable[[str], None] | None = None,
        waits_s: Sequence[float] = WAITS_S,
        looks_s: tuple[float, float] = LOOKS_S,
        max_rounds: int = MAX_ROUNDS,
    ) -> None:
        self._store = store
        self._uri = tracking_uri
        shown = without_secrets(tracking_uri or "")
        self._address = f"MLflow at {shown}"
        self._sync = shlex.join(["al-ray", "sync", store.root, "--tracking", shown])
        self._say = say or _log.warning
        self._backlog = Backlog(max_rounds)
        self._outage = Outage(waits_s, looks_s)
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._telling = threading.Lock()
        self._told: set[str] = set()
        self._under_way: set[str] = set()
        self._recovering = self._complete = False
        self._look_again = True
        self._n_brought_up = 0
        self._why = ""
        self._projection: Projection | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        if self._uri is not None:
            self._thread.start()

    def cell_started(self, key: str, spec: Mapping[str, Any]) -> None:
        """Show a cell as running, with its spec as parameters.

        Args:
            key: name of the cell's folder.
            spec: its identity, in JSON form.
        """
        if self._uri is not None:
            self._under_way.add(key)
            # The time of now, not when the thread gets there: it may be importing MLflow for half a minute.
            self._backlog.cell_started(key, spec, now())

    def round_recorded(self, key: str, record: RoundRecord) -> None:
        """Show a round that has been recorded."""
        if self._uri is not None:
            self._backlog.round_recorded(key, RecordedRound(record=record, recorded_at=now(), tables={}))

    def cell_finished(self, key: str, status: str) -> None:
        """Show a cell as done or failed, and add from its records whatever is missing.

        Args:
            key: name of the cell's folder.
            status: ``done`` or ``failed``.
        """
        if self._uri is not None:
            self._under_way.discard(key)
            self._backlog.cell_ended(key, status)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Write what is waiting, for at most so long; an MLflow that is down gets one last attempt.

        Cells that have not ended by now were interrupted, and are shown as killed.

        Returns:
            whether MLflow now shows everything that this tracker was told.
        """
        if self._uri is None:
            return True
        self._backlog.close()
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandon()
            self._why = f" It was too slow: after {timeout_s:g} s updates are still waiting."
        elif self._complete:
            return True
        behind = self._backlog.behind()
        lacks = f"the last news of {cells_named(behind)}" if behind else "the end of the study"
        self._tell(f"{self._address} lacks {lacks}.{self._why} The records are complete; this adds it: {self._sync}")
        return False

    def _abandon(self) -> None:
        """Leave the thread to itself: whatever MLflow does to it from now on, nobody hears of it."""
        with self._telling:
            self._abandoned.set()

    def _work(self) -> None:
        going_on = True
        while going_on and not self._abandoned.is_set():
            taken = self._backlog.take()
            last = self._closing.is_set()
            going_on = self._end() if taken is None else self._show(*taken, last)

    def _show(self, key: str, news: News, last: bool) -> bool:
        try:
            news.show(key, self._connected(), self._store)
        except Exception as error:
            news.n_failures += 1
            if self._projection is not None and self._outage.is_of_one_cell(error, news.n_failures):
                self._set_aside(key, news, error, last)
                return True
            self._backlog.put_back(key, news)
            return self._wait_after(error, last)
        self._backlog.done()
        self._worked(news)
        return True

    def _end(self) -> bool:
        """Give the parent run its status, after a look for what lost answers or other programs made twice."""
        try:
            if self._look_again:
                self._projection, self._look_again = None, False
            self._connected().interrupt(self._under_way)
            self._connected().close_study()
        except Exception as error:
            return self._wait_after(error, last=True)
        self._complete = not self._backlog.behind()
        return self._backlog.has_whole()

    def _connected(self) -> "Projection":
        if self._projection is None:
            assert self._uri is not None
            self._projection = connect(self._store, self._uri)
            self._backlog.bring_up(self._projection.doubled)
        return self._projection

    def _wait_after(self, error: Exception, last: bool) -> bool:
        """Wait until MLflow is to be tried again; return whether it is."""
        self._projection, self._look_again = None, True  # what was known of MLflow may be out of date
        self._why = f" It cannot be used: {brief(error)}."
        was_down, wait_s = self._outage.is_down, self._outage.failed()
        if self._outage.is_down:
            self._backlog.keep_rounds(False)
            if last:
                return False
            if not was_down:
                self._tell(f"{self._address} cannot be used: {brief(error)}. {_AGAIN}")
        (self._abandoned if last else self._closing).wait(wait_s)
        return True

    def _set_aside(self, key: str, news: News, error: Exception, last: bool) -> None:
        """Let a cell wait alone: at first for a look with fresh eyes, then at growing intervals."""
        self._look_again = True
        if not isinstance(error, StorageError):
            self._projection = None
        self._why = f" Cell {key}: {brief(error)}."
        self._tell_once("cell", f"{self._address} did not take an update of cell {key}: {brief(error)}. {_AGAIN}")
        if last and news.n_failures > 1:
            self._backlog.leave(key)
        else:
            self._backlog.put_back(key, news, self._outage.look_s(news.n_failures - 1) if news.n_failures > 1 else 0.0)
        self._tell_when_back()

    def _worked(self, news: News) -> None:
        if self._outage.is_down:
            self._recovering = True
            self._backlog.keep_rounds(True)
        self._outage.n_failures = 0
        self._n_brought_up += self._recovering and news.is_whole
        self._tell_when_back()
        if self._backlog.overflowed:
            self._tell_once("slow", f"{self._address} is slow: {_SLOW}")

    def _tell_when_back(self) -> None:
        if self._recovering and not self._backlog.has_whole():
            n = self._n_brought_up
            cells = "1 cell was" if n == 1 else f"{n} cells were"
            self._tell(f"{self._address} is back: {cells} brought up from the records, and the view is live again.")
            self._recovering, self._n_brought_up = False, 0

    def _tell_once(self, what: str, sentence: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(sentence)

    def _tell(self, sentence: str) -> None:
        """Say a sentence; the thread of a tracker that was given up is not heard any more."""
        with self._telling:
            if self._abandoned.is_set() and threading.current_thread() is self._thread:
                return
            try:
                self._say(sentence)
            except Exception:
                _log.exception("the listener for tracking problems failed")
