"""Dealing of cells to lanes: which cells a lane is given when it asks, by the speed that it has shown; no ray here.

Cells lie in the order in which they are to run, the dearest first. A lane is given one at a time, of quick cells as
many as it does in some seconds. Nothing is cut beforehand, so that lanes of unequal machines, and those that come
late, share what is left; and towards the end a slow lane is given nothing that the others would have done long before.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from al_ray.runtime.tasks import CellTask

# A lane asks in milliseconds, so that what it has in hand may be short; towards the end its share of the rest is less.
LOT_S = 12.0
# Speeds are as rough as what cells are said to cost: a lane lets a cell be that it would end so much later than others.
TOO_LATE = 1.5


@dataclass(frozen=True)
class Card:
    """What is known of a cell when it is dealt: its key, what it costs (above 0), whether it is quick."""

    key: str
    cost: float
    is_quick: bool

    @classmethod
    def of(cls, task: CellTask) -> "Card":
        """Return that of a cell."""
        return cls(task.key, task.cost, task.is_quick)


@dataclass(frozen=True)
class _Hand:
    """What a lane has in hand: since when, in seconds, and what it costs together."""

    since: float
    cost: float


class Dealer:
    """Deals cells, in their order, to lanes that ask for some when they have none.

    Args:
        cards: of the cells.
        n_lanes: how many lanes there may be.
    """

    def __init__(self, cards: Iterable[Card], n_lanes: int) -> None:
        self._cards, self._n_lanes = deque(cards), n_lanes
        self._left = sum(card.cost for card in self._cards)
        self._hands: dict[int, _Hand] = {}
        self._speeds: dict[int, float] = {}

    def __bool__(self) -> bool:
        """Tell whether cells are left."""
        return bool(self._cards)

    def deal(self, lane: int, now: float) -> list[str] | None:
        """Return the keys of a lane's next cells; what it was dealt before has ended.

        Args:
            lane: who asks.
            now: seconds on any clock that does not go back.

        Returns:
            none where no cell is left; None where it would end none in time, as it looks now: it may ask again.
        """
        self._measure(lane, now)
        if not self._cards:
            return []
        at = self._first_in_time(lane, now)
        if at is None:
            return None
        lot, cost, most = [self._cards[at]], self._cards[at].cost, self._most(lane)
        del self._cards[at]
        while lot[-1].is_quick and at < len(self._cards) and self._cards[at].is_quick:
            if cost + self._cards[at].cost > most:
                break
            lot.append(self._cards[at])
            cost += self._cards[at].cost
            del self._cards[at]
        self._left -= cost
        self._hands[lane] = _Hand(now, cost)
        return [card.key for card in lot]

    def hold(self, lane: int, cards: Sequence[Card], now: float) -> None:
        """Note that a lane which was started again has these cells in hand."""
        self._hands.pop(lane, None)
        if cards:
            self._hands[lane] = _Hand(now, sum(card.cost for card in cards))

    def put_back(self, lane: int, cards: Sequence[Card]) -> None:
        """Take back cells that a lane will not run; they are the next."""
        self._hands.pop(lane, None)
        self._cards.extendleft(reversed(cards))
        self._left += sum(card.cost for card in cards)

    def _measure(self, lane: int, now: float) -> None:
        hand = self._hands.pop(lane, None)
        if hand is not None and now > hand.since:
            self._speeds[lane] = hand.cost / (now - hand.since)

    def _most(self, lane: int) -> float:
        """Return what quick cells may cost together: some seconds' worth, and half of the lane's share of the rest."""
        if lane not in self._speeds:
            return 0.0
        own = self._speeds[lane]
        others = sum(self._speeds.get(other, own) for other in range(self._n_lanes) if other != lane)
        return min(own * LOT_S, self._left * own / (own + others) / 2)

    def _first_in_time(self, lane: int, now: float) -> int | None:
        """Return the place of the first cell that the lane would not end long after the others had done all of it."""
        own = self._speeds.get(lane)
        # Speed, and seconds until what is in hand has ended; who is late already is slower than thought.
        others: list[tuple[float, float]] = []
        for other, hand in self._hands.items():
            if other in self._speeds:
                spent = max(now - hand.since, 0.0)
                speed = min(self._speeds[other], hand.cost / spent) if spent else self._speeds[other]
                others.append((speed, hand.cost / speed - spent))
        if own is None or not others:
            return 0
        in_hand = sum(speed * free_in for speed, free_in in others)
        all_done = (self._left + in_hand) / sum(speed for speed, _ in others)
        for at, card in enumerate(self._cards):
            alone = min(free_in + card.cost / speed for speed, free_in in others)
            if card.cost / own <= TOO_LATE * max(all_done, alone):
                return at
        return None
