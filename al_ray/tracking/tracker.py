"""The live view of a study in MLflow: the cells that it lacks something of, and the thread that shows them."""

import logging
import math
import shlex
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from al_ray.errors import AlRayError, StorageError, without_secrets
from al_ray.records.round import RecordedRound, now
from al_ray.records.study import StudyStore
from al_ray.tracking.mlflow import ENDED, MethodRun, Projection, error_words

# What MLflow answers where it can be used, and only the update of one cell is not taken.
_REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"})
_N_SHOWN = 3
_AGAIN = "The study goes on and its records are complete; MLflow is tried again from time to time."
_log = logging.getLogger(__name__)


class Methods(Protocol):
    """The methods of a study, as the analysis has them from the cells that have ended; used by one thread."""

    def cell_ended(self, key: str, rounds: Sequence[RecordedRound], *, is_done: bool) -> None:
        """Take in that a cell has ended, with its recorded rounds; once more changes nothing."""

    def due(self, *, is_last: bool = False) -> list[MethodRun]:
        """Return the methods that are to be shown now; in the end all that changed."""
        ...

    def shown(self, run: MethodRun) -> None:
        """Note that MLflow shows a method as it was returned."""


@dataclass
class Outage:
    """How often MLflow failed in a row (``n_failures``), and when it is tried again, as a :class:`Tracker` was told."""

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
        """Return the seconds before the n-th look, n from 1; none before a look that does not count."""
        first_s, longest_s = self.looks_s
        return min(first_s * 2.0 ** min(n - 1, 30), longest_s) if n else 0.0

    def is_of_one_cell(self, error: Exception, n_failures: int) -> bool:
        """Tell whether what an MLflow that was reached, or the storage, raised says nothing about other cells.

        Where the update of this cell has failed more often than MLflow, it cannot be taken.
        """
        refused = isinstance(error, AlRayError) or getattr(error, "error_code", None) in _REFUSALS
        return refused or (not self.is_down and n_failures > len(self.waits_s) + 1)


@dataclass(frozen=True)
class News:
    """What was told of a cell since MLflow showed it last, beyond what its records say.

    Attributes:
        spec, started_at: its identity and when it started, where it did.
        status: ``running``, ``done`` or ``failed``, where that was told.
        n_failures: attempts to show the cell that failed.
        wait_s: how long its last news may wait for more.
        not_before_s: when it may be taken, on the monotonic clock.
    """

    spec: Mapping[str, Any] | None = None
    started_at: datetime | None = None
    status: str | None = None
    n_failures: int = 0
    wait_s: float = 0.0
    not_before_s: float = 0.0


class Backlog:
    """The cells of which MLflow lacks something, the oldest first. Any thread adds to it, one takes from it."""

    def __init__(self) -> None:
        self._news: dict[str, News] = {}
        self._closed = False
        self._changed = threading.Condition()

    def add(self, key: str, *, wait_s: float = 0.0, **told: Any) -> None:
        """Note that MLflow lacks something of a cell, and what of :class:`News` was told; it keeps its place.

        Args:
            key: of the cell.
            wait_s: how long it may wait for more news, from the first that MLflow lacks; 0 ends that wait.
            **told: fields of :class:`News`.
        """
        with self._changed:
            news = self._news.get(key) or News(not_before_s=_at(wait_s))
            if not wait_s and not news.n_failures:
                news = replace(news, not_before_s=0.0)
            self._news[key] = replace(news, wait_s=wait_s, **told)
            self._changed.notify()

    def close(self) -> None:
        """Let everything that waits be taken at once, and then nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> tuple[str, News] | None:
        """Wait for the cell that waits longest, which stays here until it is done; None when closed and all are."""
        with self._changed:
            while (key := next(self._due(), None)) is None:
                if self._closed:
                    return None
                time_s = min((news.not_before_s for news in self._news.values()), default=None)
                self._changed.wait(None if time_s is None else max(time_s - time.monotonic(), 0.0))
            return key, self._news[key]

    def done(self, key: str, shown: News) -> None:
        """Note that MLflow shows a cell as it was taken; where more was told meanwhile, it waits behind the others."""
        with self._changed:
            news = self._news.pop(key)
            if news is not shown:
                self._news[key] = replace(news, n_failures=0, not_before_s=_at(news.wait_s))

    def put_back(self, key: str, n_failures: int, wait_s: float = 0.0) -> None:
        """Let a cell that could not be shown wait so long, behind the others; for ever, and it is left behind."""
        with self._changed:
            news = self._news.pop(key)
            self._news[key] = replace(news, n_failures=n_failures, not_before_s=time.monotonic() + wait_s)

    def behind(self) -> list[str]:
        """Return the keys of the cells of which MLflow lacks something."""
        with self._changed:
            return sorted(self._news)

    def due(self) -> list[str]:
        """Return the keys of the cells that may be taken now."""
        with self._changed:
            return list(self._due())

    def _due(self) -> Iterator[str]:
        now_s = time.monotonic()
        for key, news in self._news.items():
            if news.not_before_s <= now_s or (self._closed and news.not_before_s < math.inf):
                yield key


def _at(wait_s: float) -> float:
    """Return the time after a wait on the monotonic clock; 0 without one."""
    return time.monotonic() + wait_s if wait_s else 0.0


class Tracker:
    """Shows a study in MLflow while it runs: one backlog, one thread, and no way to hold the study up.

    What it is told only notes which cell changed. MLflow is imported, its database made and every call done in the
    thread, which takes one cell after the other and brings its run up from its records: one that runs a while after its
    news, so that a cell of a second is shown once, whole. Where MLflow fails, the thread tries again a few times, says
    so once, and looks again at growing intervals. The records are the truth: :func:`al_ray.tracking.mlflow.sync` adds
    what is missing in the end.

    Args:
        store: the study's records.
        tracking_uri: where MLflow is; None: nothing is tracked.
        methods: what of the study's methods is to be shown; None: nothing.
        tracks_cells: whether each cell has a run of its own; else the ends of cells only move their methods on.
        live_s: seconds that news of a cell that runs wait for more.
        waits_s: seconds between the first attempts, of which nobody is told.
        looks_s: seconds before the first look at an MLflow that is down and, doubling, at most before a later one.
    """

    def __init__(
        self,
        store: StudyStore,
        tracking_uri: str | None,
        methods: Methods | None = None,
        *,
        tracks_cells: bool = True,
        live_s: float = 10.0,
        waits_s: Sequence[float] = (1.0, 4.0, 15.0),
        looks_s: tuple[float, float] = (30.0, 300.0),
    ) -> None:
        self._store = store
        self._uri = tracking_uri
        self._methods = methods
        self._tracks_cells = tracks_cells
        self._statuses: set[str] = set()
        self._live_s = live_s
        shown = without_secrets(tracking_uri or "")
        self._address = f"MLflow at {shown}"
        self._sync = shlex.join(["al-ray", "sync", store.root, "--tracking", shown])
        self._backlog = Backlog()
        self._outage = Outage(waits_s, looks_s)
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._telling = threading.Lock()
        self._under_way: set[str] = set()
        self._catching_up: set[str] | None = None  # cells that were behind when MLflow came back, until none is
        self._n_brought_up = 0
        self._complete = self._refusal_told = self._had_trouble = False
        self._why = ""
        self._projection: Projection | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        if self._uri is not None:
            self._thread.start()

    def cell_started(self, key: str, spec: Mapping[str, Any]) -> None:
        """Show a cell, by the name of its folder, as running, with its spec in JSON form as parameters."""
        self._under_way.add(key)
        # The time of now, not when the thread gets there: it may be importing MLflow for half a minute.
        if self._tracks_cells:
            self._note(key, wait_s=self._live_s, spec=spec, started_at=now(), status="running")

    def round_recorded(self, key: str) -> None:
        """Show what has been recorded of a cell."""
        if self._tracks_cells:
            self._note(key, wait_s=self._live_s)

    def cell_finished(self, key: str, status: str) -> None:
        """Show a cell as ``done`` or ``failed``, and add from its records whatever is missing."""
        self._under_way.discard(key)
        self._statuses.add(status)
        if self._tracks_cells or self._methods is not None:
            self._note(key, status=status)

    def close(self, timeout_s: float = 60.0) -> bool:
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
            with self._telling:
                self._abandoned.set()
            self._why = f" It was too slow: after {timeout_s:g} s updates are still waiting."
        elif self._complete:
            return True
        behind = self._backlog.behind()
        names = ", ".join([*behind[:_N_SHOWN], *(["..."] if len(behind) > _N_SHOWN else [])])
        lacks = f"the last news of {_n_cells(len(behind))} ({names})" if behind else "the end of the study"
        self._tell(f"{self._address} lacks {lacks}.{self._why} The records are complete; this adds it: {self._sync}")
        return False

    def _note(self, key: str, **told: Any) -> None:
        if self._uri is not None:
            self._backlog.add(key, **told)

    def _work(self) -> None:
        going_on = True
        while going_on and not self._abandoned.is_set():
            taken = self._backlog.take()
            last = self._closing.is_set()
            going_on = self._end() if taken is None else self._show(*taken, last)

    def _show(self, key: str, news: News, last: bool) -> bool:
        try:
            rounds: Sequence[RecordedRound] = ()
            if self._tracks_cells:
                rounds = self._connected().show_cell(key, news.status, news.spec, news.started_at)
            if self._methods is not None and news.status in ENDED:
                self._methods.cell_ended(key, rounds, is_done=news.status == "done")
            self._show_methods()
        except Exception as error:
            n_failures = news.n_failures + 1
            if self._projection is not None and self._outage.is_of_one_cell(error, n_failures):
                self._set_aside(key, n_failures, error, last)
                return True
            self._backlog.put_back(key, n_failures)
            return self._wait_after(error, last)
        self._backlog.done(key, news)
        if self._outage.is_down:
            self._catching_up = {key, *self._backlog.due()}
        self._outage.n_failures = 0
        self._caught_up(key, is_shown=True)
        return True

    def _end(self) -> bool:
        """Bring up the methods and the study's run; after trouble with a look for what lost answers made twice."""
        if self._had_trouble:
            self._projection = None
        try:
            self._show_methods(is_last=True)
            self._connected().interrupt(self._under_way)
            untracked = set() if self._tracks_cells else {*self._statuses, *(["killed"] if self._under_way else [])}
            self._connected().close_study(untracked)
        except Exception as error:
            return self._wait_after(error, last=True)
        self._complete = not self._backlog.behind()
        return bool(self._backlog.due())

    def _show_methods(self, *, is_last: bool = False) -> None:
        due = [] if self._methods is None else self._methods.due(is_last=is_last)
        if due:
            self._connected().show_methods(due)
        for run in due:
            assert self._methods is not None
            self._methods.shown(run)

    def _connected(self) -> Projection:
        if self._projection is None:
            assert self._uri is not None
            self._projection = Projection(self._store, self._uri)
            for key in self._projection.doubled:
                self._backlog.add(key)
        return self._projection

    def _wait_after(self, error: Exception, last: bool) -> bool:
        """Wait until MLflow is to be tried again; return whether it is."""
        self._projection, self._had_trouble = None, True  # what was known of MLflow may be out of date
        words, was_down, wait_s = error_words(error), self._outage.is_down, self._outage.failed()
        self._why = f" It cannot be used: {words}."
        if self._outage.is_down and last:
            return False
        attempt = f"attempt {self._outage.n_failures} in a row failed ({words})"
        behind = _n_cells(len(self._backlog.behind()))
        self._tell(f"{self._address}: {attempt}; {behind} behind; the next after {wait_s:g} s", logging.INFO)
        if self._outage.is_down and not was_down:
            self._tell(f"{self._address} cannot be used: {words}. {_AGAIN}")
        (self._abandoned if last else self._closing).wait(wait_s)
        return True

    def _set_aside(self, key: str, n_failures: int, error: Exception, last: bool) -> None:
        """Let a cell wait alone: at first for a look with fresh eyes, then at growing intervals."""
        self._had_trouble = True
        if not isinstance(error, StorageError):
            self._projection = None
        words = error_words(error)
        wait_s = math.inf if last and n_failures > 1 else self._outage.look_s(n_failures - 1)
        self._backlog.put_back(key, n_failures, wait_s)
        self._why = f" Cell {key}: {words}."
        attempt = f"attempt {n_failures} at cell {key} failed ({words})"
        self._tell(f"{self._address}: {attempt}; the next after {wait_s:g} s", logging.INFO)
        if not self._refusal_told:
            self._refusal_told = True
            self._tell(f"{self._address} did not take an update of cell {key}: {words}. {_AGAIN}")
        if wait_s:
            self._caught_up(key, is_shown=False)

    def _caught_up(self, key: str, is_shown: bool) -> None:
        """Say that MLflow is back once no cell waits any more that was behind when it came back."""
        if self._catching_up is None:
            return
        self._n_brought_up += is_shown and key in self._catching_up
        self._catching_up.discard(key)
        if not self._catching_up:
            cells = f"{_n_cells(self._n_brought_up)} {'was' if self._n_brought_up == 1 else 'were'}"
            self._tell(f"{self._address} is back: {cells} brought up from the records, and the view is live again.")
            self._catching_up, self._n_brought_up = None, 0

    def _tell(self, sentence: str, level: int = logging.WARNING) -> None:
        """Log a sentence; the thread of a tracker that was given up is not heard any more."""
        with self._telling:
            if self._abandoned.is_set() and threading.current_thread() is self._thread:
                return
            with suppress(Exception):  # of somebody's log handler: the thread and the study's end do not fail by it
                _log.log(level, "%s", sentence)


def _n_cells(n: int) -> str:
    return "1 cell" if n == 1 else f"{n} cells"
