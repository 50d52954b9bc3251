"""Dispenser of a lane: deals the batches of a scoring to the lane's workers and to processes beside the lane.

Plain asyncio, so that its rules are tested without a cluster; :mod:`al_ray.runtime.lane.exchange` makes it reachable.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# A share is a quarter of what would be even of what is left, so that a machine five times as slow as the others has
# taken no more, at first, than it computes while they do the rest; and at least a part of what was even of all, since
# every share costs a message or two.
PARTS_A_TAKER, FINEST_PARTS_A_TAKER = 4, 32


@dataclass(frozen=True)
class Share:
    """Some batches of a scoring, handed to one process.

    Attributes:
        scoring: number of the scoring in its lane.
        first: place of its first batch among those of the scoring, the dearest of which is at 0.
        end: one beyond its last one.
        ref: of what another process needs to compute them; None for the lane's own workers.
    """

    scoring: int
    first: int
    end: int
    ref: Any = None


@dataclass(frozen=True)
class Dismissed:
    """Said to a process in the place of a share: the lane needs it no more."""


class Dispenser:
    """Deals one scoring after the other: large shares first, single batches towards the end.

    Who asks sooner gets more, so that machines may be of unequal speed, come late or leave. A share that was given for
    a ticket is given again for the same ticket, since Ray repeats the call of a process that died.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._scoring = 0
        self._ref: Any = None
        self._cost_before = np.zeros(1)
        self._next = 0
        self._takers: set[str] = set()
        self._n_expected = 1
        self._given: dict[int, Share] = {}
        self._first_ticket = 0

    async def begin(self, scoring: int, costs: Sequence[float], n_workers: int) -> None:
        """Lay out the batches of a scoring, none of which is given to others than the lane's own workers yet.

        Args:
            scoring: its number, higher than any before.
            costs: what each batch costs, the dearest first.
            n_workers: of the lane.
        """
        assert scoring > self._scoring, f"scoring {scoring} after {self._scoring}"
        self._scoring, self._ref, self._next = scoring, None, 0
        self._cost_before = np.concatenate([[0.0], np.cumsum(costs)])
        self._takers.clear()
        self._n_expected = n_workers + 1  # somebody else, perhaps
        self._given.clear()

    async def open(self, scoring: int, ref: Any, n_processes: int) -> None:
        """Let processes beside the lane take part from now on.

        Args:
            scoring: its number.
            ref: what they need for it.
            n_processes: how many they will be.
        """
        async with self._changed:
            if scoring == self._scoring:
                self._ref, self._n_expected = ref, self._n_expected - 1 + n_processes
                self._changed.notify_all()

    async def take(self, scoring: int, taker: str) -> Share | None:
        """Return the next share for a worker of the lane; None when all batches are given."""
        assert scoring == self._scoring, f"share of scoring {scoring}, this is {self._scoring}"
        return self._cut(taker) if self._has_more() else None

    async def take_beside(self, ticket: int, taker: str, timeout_s: float) -> Share | Dismissed | None:
        """Wait for a share for a process beside the lane.

        Args:
            ticket: names this share, however often it is asked for.
            taker: names the process.
            timeout_s: wait no longer, since nobody tells whether the process is still there.

        Returns:
            the share; None where it has to ask again.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                while True:
                    if (known := self._given.get(ticket)) is not None:
                        return known
                    if ticket < self._first_ticket:
                        return Dismissed()
                    if self._ref is not None and self._has_more():
                        self._given[ticket] = self._cut(taker, self._ref)
                        return self._given[ticket]
                    await self._changed.wait()
        return None

    async def given_beside(self, scoring: int) -> list[Share]:
        """Return the shares of a scoring that were given for tickets so far."""
        return [share for share in self._given.values() if share.scoring == scoring]

    async def end(self, scoring: int) -> None:
        """Give nothing more of a scoring, and let go what others needed for it."""
        if scoring == self._scoring:
            self._ref, self._next = None, len(self._cost_before) - 1
            self._given.clear()

    async def dismiss(self, first_ticket: int) -> None:
        """Send away those who come with older tickets than this one, and those who wait with them."""
        async with self._changed:
            self._first_ticket = first_ticket
            self._changed.notify_all()

    def _has_more(self) -> bool:
        return self._next < len(self._cost_before) - 1

    def _cut(self, taker: str, ref: Any = None) -> Share:
        self._takers.add(taker)
        n_takers = max(len(self._takers), self._n_expected)
        done, all_ = self._cost_before[self._next], self._cost_before[-1]
        cost = max((all_ - done) / (PARTS_A_TAKER * n_takers), all_ / (FINEST_PARTS_A_TAKER * n_takers))
        first = self._next
        self._next = max(int(np.searchsorted(self._cost_before, done + cost, side="right")) - 1, first + 1)
        return Share(self._scoring, first, self._next, ref)
