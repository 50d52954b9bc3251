"""What MLflow has not been told yet, cell by cell: bounded by the number of cells, however long an outage lasts."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from al_ray.experiment.recorded_rounds import RecordedRound
from al_ray.experiment.store import StudyStore

if TYPE_CHECKING:
    from al_ray.experiment.tracking_projection import Projection


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
