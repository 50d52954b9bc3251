"""The live view of a study in MLflow, which goes on through outages and never holds the study up."""

import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from al_ray.core.types import RoundRecord
from al_ray.errors import AlRayError, StorageError, without_secrets
from al_ray.records.round import RecordedRound, now
from al_ray.records.study import StudyStore
from al_ray.tracking.mlflow import brief, connect

if TYPE_CHECKING:
    from al_ray.tracking.projection import Projection


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


def cells_named(keys: Sequence[str]) -> str:
    """Say how many cells these are, and the names of the first."""
    names = ", ".join([*keys[:_N_SHOWN], *(["..."] if len(keys) > _N_SHOWN else [])])
    return f"{len(keys)} cell{'' if len(keys) == 1 else 's'} ({names})"


@dataclass
class News:
    """What MLflow has not been told of one cell.

    Attributes:
        spec: identity of the cell, where its start is news.
        started_at: when it started.
        rounds: rounds to add.
        status: ``running``, ``done`` or ``failed``, where that is news.
        is_whole: the cell is to be brought up from its records, and no round is kept here.
        n_failures: attempts to tell it that failed.
        not_before_s: when it may be tried again, on the monotonic clock.
    """

    spec: Mapping[str, Any] | None = None
    started_at: datetime | None = None
    rounds: list[RecordedRound] = field(default_factory=list)
    status: str | None = None
    is_whole: bool = False
    n_failures: int = 0
    not_before_s: float = 0.0

    def show(self, key: str, projection: "Projection", store: StudyStore) -> None:
        """Write it to MLflow.

        Raises:
            StorageError: the records of the cell cannot be read.
            Exception: whatever MLflow raises.
        """
        if self.spec is not None:
            projection.start_cell(key, self.spec, self.started_at)
        if self.is_whole or self.status in ("done", "failed") or not projection.has(key):
            self._bring_up(key, projection, store)
        elif self.rounds:
            projection.add_rounds(key, [_as_stored(store, key, entry) for entry in self.rounds])

    def _bring_up(self, key: str, projection: "Projection", store: StudyStore) -> None:
        cell = store.find(key)
        if cell is not None:
            projection.project_cell(cell, self.status)
        elif self.status is not None:
            projection.end_cell(key, self.status)

    def before(self, newer: "News") -> "News":
        """Return both as one, to be told from the records: what MLflow took of the first is not known."""
        return News(
            spec=newer.spec or self.spec,
            started_at=newer.started_at or self.started_at,
            status=newer.status or self.status,
            is_whole=True,
            n_failures=self.n_failures,
        )


class Backlog:
    """The news of all cells, the oldest first. Any thread adds to it, one takes from it.

    Args:
        max_rounds: rounds that are kept for all cells together; a cell with a round beyond that is brought up from its
            records, which takes fewer calls.

    Attributes:
        overflowed: whether a round was not kept because too many were waiting.
    """

    def __init__(self, max_rounds: int) -> None:
        self.overflowed = False
        self._max_rounds = max_rounds
        self._waiting: dict[str, News] = {}
        self._n_rounds = 0
        self._in_hand: str | None = None
        self._left: set[str] = set()
        self._keeps_rounds = True
        self._closed = False
        self._changed = threading.Condition()

    def cell_started(self, key: str, spec: Mapping[str, Any], started_at: datetime) -> None:
        """Note that a cell started."""
        with self._news_of(key) as news:
            news.spec, news.started_at, news.status = spec, started_at, "running"

    def round_recorded(self, key: str, entry: RecordedRound) -> None:
        """Note a round, or only that its cell is behind where no more rounds are kept."""
        with self._news_of(key) as news:
            if news.is_whole:
                return
            if self._n_rounds < self._max_rounds:
                news.rounds.append(entry)
                self._n_rounds += 1
            else:
                self.overflowed = True
                self._forget_rounds(news)

    def cell_ended(self, key: str, status: str) -> None:
        """Note that a cell is done or failed."""
        with self._news_of(key) as news:
            news.status = status

    def bring_up(self, keys: Iterable[str]) -> None:
        """Note that MLflow may lack anything of these cells."""
        for key in keys:
            with self._news_of(key) as news:
                self._forget_rounds(news)

    def keep_rounds(self, keep: bool) -> None:
        """Say whether rounds are worth keeping; if not, only which cells are behind is remembered."""
        with self._changed:
            self._keeps_rounds = keep
            for news in () if keep else self._waiting.values():
                self._forget_rounds(news)

    def close(self) -> None:
        """Let everything that waits be taken at once, and then nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> tuple[str, News] | None:
        """Wait for news and take those of the cell that waits longest; None when closed and nothing is left."""
        with self._changed:
            while (key := self._due()) is None:
                if self._closed:
                    return None
                self._changed.wait(self._wait_s())
            self._in_hand = key
            news = self._waiting.pop(key)
            self._n_rounds -= len(news.rounds)
            return key, news

    def done(self) -> None:
        """Say that what was taken has been told."""
        with self._changed:
            self._in_hand = None

    def put_back(self, key: str, news: News, wait_s: float = 0.0) -> None:
        """Return news that could not be told, behind those of other cells; newer ones are added to them."""
        with self._changed:
            newer = self._waiting.pop(key, News())
            self._n_rounds -= len(newer.rounds)
            self._waiting[key] = news.before(newer)
            self._waiting[key].not_before_s = time.monotonic() + wait_s
            self._in_hand = None

    def leave(self, key: str) -> None:
        """Give a cell up: it stays behind."""
        with self._changed:
            self._left.add(key)
            self._in_hand = None

    def behind(self) -> list[str]:
        """Return the keys of the cells of which MLflow lacks something."""
        with self._changed:
            return sorted({*self._waiting, *self._left, *([self._in_hand] if self._in_hand else [])})

    def has_whole(self) -> bool:
        """Tell whether a cell is to be brought up from its records now."""
        with self._changed:
            now_s = time.monotonic()
            return any(news.is_whole and news.not_before_s <= now_s for news in self._waiting.values())

    @contextmanager
    def _news_of(self, key: str) -> Iterator[News]:
        with self._changed:
            news = self._waiting.setdefault(key, News())
            news.is_whole |= not self._keeps_rounds
            yield news
            self._changed.notify()

    def _forget_rounds(self, news: News) -> None:
        self._n_rounds -= len(news.rounds)
        news.rounds.clear()
        news.is_whole = True

    def _due(self) -> str | None:
        now_s = time.monotonic()
        return next((key for key, news in self._waiting.items() if self._closed or news.not_before_s <= now_s), None)

    def _wait_s(self) -> float | None:
        times_s = [news.not_before_s for news in self._waiting.values()]
        return max(min(times_s) - time.monotonic(), 0.0) if times_s else None


def _as_stored(store: StudyStore, key: str, entry: RecordedRound) -> RecordedRound:
    """Return the round with the time that its record has, where the storage shows it already."""
    cell = store.find(key)
    stored = None if cell is None else cell.recorded_round(entry.record.round_index)
    return stored or entry


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
    live again. The records are the truth: :func:`al_ray.tracking.mlflow.sync` adds what is missing in the end.

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
