"""The channel of a lane, between its trial and its worker group: cells go in, events come out.

Plain asyncio, so that its rules are tested without a cluster; :mod:`al_ray.runtime.lane.exchange` makes it reachable.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from al_ray.runtime.tasks import CellEvent, CellTask, Failure


@dataclass(frozen=True)
class Assignment:
    """A cell handed to a worker group, with the number of this attempt, from 1."""

    task: CellTask
    attempt: int


@dataclass
class _Hand:
    """The cell in hand: all its attempts, and those since it last got on."""

    task: CellTask
    attempts: int = 0
    in_vain: int = 0


@dataclass(frozen=True)
class ChannelNews:
    """What a trial learns: events in order, and whether the worker group is gone."""

    events: tuple[CellEvent, ...] = ()
    group_lost: bool = False


class Channel:
    """Holds the cell in hand of one lane and counts its attempts.

    A recorded round starts the count anew: on machines that come and go a long cell may lose its workers many times,
    and only one that no longer gets on is given up.

    Args:
        attempts_allowed: attempts of a cell without a recorded round before it is reported failed.
    """

    def __init__(self, attempts_allowed: int) -> None:
        self._allowed = attempts_allowed
        self._changed = asyncio.Condition()
        self._hand: _Hand | None = None
        self._events: list[CellEvent] = []
        self._trouble: Failure | None = None
        self._seat = 0
        self._closed = False
        self._group_lost = False
        self._group_served = self._any_served = False

    async def assign(self, task: CellTask) -> None:
        """Put the next cell in hand (trial)."""
        async with self._changed:
            assert self._hand is None, f"cell {task.key} assigned before {self._hand} ended"
            self._hand, self._trouble = _Hand(task), None
            self._changed.notify_all()

    async def news(self, timeout_s: float) -> ChannelNews:
        """Wait for events or the loss of the group, at most ``timeout_s`` (trial)."""
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait_for(lambda: self._events or self._group_lost)
            except TimeoutError:
                return ChannelNews()
            events, lost = tuple(self._events), self._group_lost
            self._events, self._group_lost = [], False
            return ChannelNews(events, lost)

    async def close(self) -> None:
        """Let the worker group leave its loop at the next question or report (trial)."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def group_ended(self, failure: Failure) -> None:
        """Note that the worker group is gone for good and close the cell if no attempt is left (trial).

        A lane whose first group ended before it took any cell cannot start; another try would end alike. A later group
        that ends so has lost an attempt.
        """
        async with self._changed:
            if self._hand is not None:
                self._hand.in_vain += not self._group_served
                if self._hand.in_vain >= self._allowed or not self._any_served:
                    self._give_up(self._trouble or failure)
            self._group_lost, self._group_served = True, False
            self._changed.notify_all()

    async def enter(self) -> int:
        """Seat the rank 0 of a fresh worker group; older seats are void (worker)."""
        async with self._changed:
            self._seat += 1
            self._changed.notify_all()
            return self._seat

    async def take(self, seat: int, where: dict[str, Any]) -> Assignment | None:
        """Wait for a cell and count the attempt; None when the lane is closed (worker).

        Args:
            seat: what :meth:`enter` returned.
            where: host and pid for the ``started`` event.
        """
        async with self._changed:
            while True:
                await self._changed.wait_for(lambda: self._closed or seat != self._seat or self._hand is not None)
                if self._closed or seat != self._seat or self._hand is None:
                    return None
                if self._hand.in_vain < self._allowed:
                    return self._hand_out(self._hand, where)
                self._give_up(self._trouble or WORKERS_DIED)

    async def push(self, seat: int, kind: str, data: dict[str, Any]) -> bool:
        """Record an event of the cell in hand; False where the cell should stop (worker).

        That is when the lane is closed, or another group has taken this one's place: an orphan must not end its cell.

        Args:
            seat: what :meth:`enter` returned.
            kind: of the event.
            data: of the event.
        """
        async with self._changed:
            if self._hand is None or self._closed or seat != self._seat:
                return False
            if kind == "round":
                self._hand.in_vain, self._trouble = 0, None
            self._tell(kind, data)
            return True

    async def note(self, failure: Failure) -> None:
        """Keep the reason why a worker is about to leave, for the event of a last attempt (worker)."""
        self._trouble = failure

    async def note_loss(self, failure: Failure) -> None:
        """Keep what Ray says of a worker that left without a word (controller of the group)."""
        if self._trouble is None or self._trouble.error == failure.error:
            self._trouble = failure

    async def refuse(self, failure: Failure) -> None:
        """Report that a worker cannot start at all, which no retry mends (worker)."""
        async with self._changed:
            if self._hand is not None:
                self._give_up(failure)

    def _hand_out(self, hand: _Hand, where: dict[str, Any]) -> Assignment:
        hand.attempts += 1
        hand.in_vain += 1
        self._group_served = self._any_served = True
        self._tell("started", {"attempt": hand.attempts, **where})
        return Assignment(hand.task, hand.attempts)

    def _give_up(self, failure: Failure) -> None:
        assert self._hand is not None
        self._tell("failed", failure.data(self._hand.attempts))

    def _tell(self, kind: Any, data: dict[str, Any]) -> None:
        assert self._hand is not None
        event = CellEvent(kind, self._hand.task.key, data)
        self._events.append(event)
        if event.is_last:
            self._hand = None
        self._changed.notify_all()


WORKERS_DIED = Failure("WorkersDied", "the cell's workers died at every attempt, without an exception", kind="lost")
