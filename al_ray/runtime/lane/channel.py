"""Channel of a lane, between its trial and its worker group: cells go in, one after the other, and events come out.

Plain asyncio, so that its rules are tested without a cluster; :mod:`al_ray.runtime.lane.exchange` makes it reachable.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from al_ray.runtime.failures import Failed, Failure, RetryPolicy
from al_ray.runtime.tasks import LAST_EVENTS, CellEvent, CellFailed, CellStarted, CellTask, RoundEnded

WORKERS_DIED = Failure("WorkersDied", "the cell's workers died at every attempt, without an exception", kind="lost")


@dataclass(frozen=True)
class Assignment:
    """A cell handed to a worker group, with the number of this attempt, from 1."""

    task: CellTask
    attempt: int


@dataclass(frozen=True)
class RecordHeld:
    """Said to a worker that holds cells in the place of a next one: it has to record them first."""


@dataclass
class _CellInHand:
    """A cell of a lane: its attempts, and those since its last recorded round."""

    task: CellTask
    attempts: int = 0
    failures_since_progress: int = 0  # the one under way counts until it records a round
    last_round: int = -1  # the latest that was told, in any attempt
    is_suspect: bool = False  # a lane died while it had it in hand
    n_lost: int = 0  # how often it was computed and lost before it was recorded; the first time says nothing of it
    trouble: Failure | None = None  # why its workers left


@dataclass(frozen=True)
class LaneUpdate:
    """What a trial learns of its lane: events in order, whether the worker group is gone, and whether it has no cell.

    A lane without a cell may have given back cells that it was assigned: its workers cannot start.
    """

    events: tuple[CellEvent, ...]
    group_lost: bool
    is_idle: bool


class Channel:
    """Holds the cells of one lane, the first of them in hand, and counts the attempts at that one.

    Quick cells that are computed and not yet recorded are *held* by the worker: the next one is handed out meanwhile.
    When the group is lost they are run again, before the others, and the first time that costs them no attempt. A
    recorded round starts the count anew: on machines that come and go a long cell may lose its workers many times, and
    only one that no longer gets on is given up.

    Args:
        policy: decides whether the cell is tried again.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._changed = asyncio.Condition()
        self._cell: _CellInHand | None = None
        self._next: deque[_CellInHand] = deque()
        self._held: dict[str, _CellInHand] = {}
        self._events: list[CellEvent] = []
        self._generation = 0
        self._closed = False
        self._group_lost = False
        self._group_served = self._any_served = False

    async def assign(self, tasks: Sequence[CellTask], suspect: str = "") -> None:
        """Give the lane its next cells, in the order to run them (trial).

        Args:
            tasks: the cells.
            suspect: key of the one that may be deadly, so that what is held is recorded before it.
        """
        async with self._changed:
            assert self._is_idle, f"cells assigned before {self._cell} ended"
            self._next.extend(_CellInHand(task, is_suspect=task.key == suspect) for task in tasks)
            self._take_in_hand()
            self._changed.notify_all()

    async def wait_for_update(self, timeout_s: float, gather_s: float = 0.0) -> LaneUpdate:
        """Wait for events or the loss of the group (trial).

        Args:
            timeout_s: wait no longer.
            gather_s: once there is an event, wait so long for more, but not after the last event of the last cell.
        """
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait_for(lambda: self._events or self._group_lost)
                async with asyncio.timeout(gather_s):
                    await self._changed.wait_for(lambda: self._group_lost or self._is_idle)
            update = LaneUpdate(tuple(self._events), self._group_lost, is_idle=self._is_idle)
            self._events, self._group_lost = [], False
            return update

    async def close(self) -> None:
        """Let the worker group leave its loop at the next question or report (trial)."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def group_ended(self, failure: Failure) -> None:
        """Note that the worker group is gone for good and close the cell if it is not tried again (trial).

        A group that ended before it took the cell has lost an attempt.
        """
        async with self._changed:
            if self._cell is not None:
                self._cell.failures_since_progress += not self._group_served
                what: Failed = "workers" if self._any_served else "lane start"
                if not self._policy.tries_again(what, self._cell.failures_since_progress):
                    if what == "lane start":
                        self._next.clear()
                    self._give_up(self._cell.trouble or failure)
            self._run_held_again()
            self._group_lost, self._group_served = True, False
            self._changed.notify_all()

    async def enter(self) -> int:
        """Return the generation of a fresh worker group; older generations are not heard any more (worker)."""
        async with self._changed:
            self._generation += 1
            self._run_held_again()
            self._changed.notify_all()
            return self._generation

    async def take(
        self, generation: int, where: Mapping[str, Any], *, is_computed: bool = False
    ) -> Assignment | RecordHeld | None:
        """Wait for a cell and count the attempt; None when the lane is closed (worker).

        Args:
            generation: what :meth:`enter` returned.
            where: pid, machine and node of rank 0.
            is_computed: the worker holds the cell in hand from now on, and tells its end later.

        Returns:
            the cell; or the wish that what is held be recorded, where there is no other, or one that may be deadly.
        """
        async with self._changed:
            if is_computed and self._cell is not None and not self._closed and generation == self._generation:
                self._held[self._cell.task.key] = self._cell
                self._take_in_hand()
            while True:
                await self._changed.wait_for(
                    lambda: self._closed or generation != self._generation or not self._is_idle
                )
                if self._closed or generation != self._generation:
                    return None
                cell = self._cell
                if self._held and (cell is None or cell.is_suspect or cell.failures_since_progress):
                    return RecordHeld()
                assert self._cell is not None
                if self._policy.tries_again("workers", self._cell.failures_since_progress):
                    return self._hand_out(self._cell, where)
                self._give_up(self._cell.trouble or WORKERS_DIED)

    async def push(self, generation: int, events: Sequence[CellEvent]) -> bool:
        """Take events of the cell in hand, or of held ones; False where the cell should stop (worker).

        That is when the lane is closed, or another group has taken this one's place: an orphan must not end its cell.

        Args:
            generation: what :meth:`enter` returned.
            events: of each cell in order.
        """
        async with self._changed:
            if self._is_idle or self._closed or generation != self._generation:
                return False
            for event in events:
                cell = self._cell
                if (
                    isinstance(event, RoundEnded)
                    and cell is not None
                    and event.key == cell.task.key
                    and event.round_index > cell.last_round  # one that is told again is no progress
                ):
                    cell.last_round, cell.failures_since_progress, cell.trouble = event.round_index, 0, None
                self._tell(event)
            return True

    async def in_hand(self) -> str:
        """Return the key of the cell in hand; empty where there is none (driver)."""
        return "" if self._cell is None else self._cell.task.key

    async def note(self, failure: Failure) -> None:
        """Keep the reason why a worker is about to leave, for the event of a last attempt (worker)."""
        if self._cell is not None:
            self._cell.trouble = failure

    async def note_loss(self, failure: Failure) -> None:
        """Keep what Ray says of a worker that left without a word (controller of the group)."""
        cell = self._cell
        if cell is not None and (cell.trouble is None or cell.trouble.error == failure.error):
            cell.trouble = failure

    async def refuse(self, failure: Failure) -> None:
        """Report that a worker cannot start at all, which no retry mends (worker)."""
        async with self._changed:
            if self._cell is not None:
                self._next.clear()
                self._give_up(failure)

    def _hand_out(self, cell: _CellInHand, where: Mapping[str, Any]) -> Assignment:
        cell.attempts += 1
        self._tell(CellStarted(cell.task.key, cell.attempts, where, cell.failures_since_progress, cell.trouble))
        cell.failures_since_progress += 1
        self._group_served = self._any_served = True
        return Assignment(cell.task, cell.attempts)

    def _give_up(self, failure: Failure) -> None:
        assert self._cell is not None
        self._tell(CellFailed(self._cell.task.key, failure, self._cell.attempts))

    @property
    def _is_idle(self) -> bool:
        """Whether every cell has ended."""
        return self._cell is None and not self._held

    def _tell(self, event: CellEvent) -> None:
        self._events.append(event)
        if isinstance(event, LAST_EVENTS) and self._held.pop(event.key, None) is None:
            self._take_in_hand()
        self._changed.notify_all()

    def _take_in_hand(self) -> None:
        self._cell = self._next.popleft() if self._next else None

    def _run_held_again(self) -> None:
        """Put the cells that a lost group held before the others; the one that it lost has its turn behind them."""
        if not self._held:
            return
        held, self._held = list(self._held.values()), {}
        for cell in held:
            cell.n_lost += 1
            cell.failures_since_progress = cell.n_lost - 1
        self._next.extendleft(reversed([*held, *([] if self._cell is None else [self._cell])]))
        self._take_in_hand()
