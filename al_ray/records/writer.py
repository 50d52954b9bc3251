"""Writing behind the computing: the rounds of one cell are recorded while its next ones are computed."""

import threading
import time
from collections import deque

from al_ray.core.types import RoundRecord
from al_ray.records.arrays import Tables
from al_ray.records.cell import CellStore

N_AHEAD = 8
QUICK_ROUND_S = 1.0


class RoundWriter:
    """Records the rounds of one cell, in order, from a thread, so that quick ones do not wait for the storage.

    A flush of a disk takes a millisecond or twenty, an upload twice that, and a round of a quick cell is computed in
    such a time. Rounds that come while one is written are written together. A round that took more than
    :data:`QUICK_ROUND_S` is waited for as if there were no thread. What a killed process had not recorded is computed
    again, and is the same.

    Args:
        store: of the cell.
        is_quick: whether any round may be written behind; else each is waited for.
    """

    def __init__(self, store: CellStore, *, is_quick: bool = True) -> None:
        self._store = store
        self._is_quick = is_quick
        self._waiting: deque[tuple[RoundRecord, Tables]] = deque()
        self._recorded: list[RoundRecord] = []
        self._error: BaseException | None = None
        self._closed = False
        self._appended_at_s = 0.0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="rounds", daemon=True)
        self._thread.start()

    def append(self, record: RoundRecord, arrays: Tables) -> list[RoundRecord]:
        """Let a round be recorded, after those before it; wait where :data:`N_AHEAD` are on their way.

        Args:
            record: as for :meth:`~al_ray.records.cell.CellStore.append`.
            arrays: likewise; not to be changed any more.

        Returns:
            the rounds that have been recorded since the last call.

        Raises:
            StorageError: this round, or one before it, could not be recorded.
        """
        is_quick = self._is_quick and time.monotonic() - self._appended_at_s < QUICK_ROUND_S
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < N_AHEAD or self._error is not None)
            self._waiting.append((record, arrays))
            self._changed.notify_all()
        told = self._news() if is_quick else self.flush()
        self._appended_at_s = time.monotonic()
        return told

    def flush(self) -> list[RoundRecord]:
        """Wait until all rounds are recorded; return and raise as :meth:`append`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._error is not None)
        return self._news()

    def close(self) -> None:
        """Wait until all rounds are recorded, or one could not be, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _news(self) -> list[RoundRecord]:
        with self._changed:
            if self._error is not None:
                raise self._error
            told, self._recorded = self._recorded, []
            return told

    def _work(self) -> None:
        while rounds := self._next():
            try:
                self._store.append_all(rounds)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                for record, _ in rounds:
                    self._waiting.popleft()
                    self._recorded.append(record)
                self._changed.notify_all()

    def _next(self) -> list[tuple[RoundRecord, Tables]]:
        """Wait for rounds, and return all that wait, or none once this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return list(self._waiting)
