"""From values to pixels, and where to put the ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A straight axis.

    Attributes:
        low: value at ``start``.
        high: value at ``end``; above ``low``.
        start: pixel of the low end.
        end: pixel of the high end; may lie before ``start``.
    """

    low: float
    high: float
    start: float
    end: float

    def __post_init__(self) -> None:
        assert self.low < self.high

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; what lies outside is drawn at the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Return at most about so many round values between the ends."""
        step = _round_step((self.high - self.low) / max(most, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [at * step for at in range(first, last + 1)]


def span(values: Iterable[float], margin: float = 0.04, least: float = 0.02) -> tuple[float, float]:
    """Return ends that hold all values with a margin, and are never closer than ``least``."""
    known = list(values)
    low, high = min(known), max(known)
    room = max((high - low) * margin, (least - (high - low)) / 2)
    return low - room, high + room


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
