"""Numbers as people read them: one way to write a share, a difference, a p-value or a duration, on the whole page."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # these bring pandas, and whoever needs the words alone should not wait for it
    from al_ray.report.stats.bootstrap import Interval
    from al_ray.report.stats.paired import Comparison

METRIC_WORDS = "accuracy averaged over the learning curve"
"""How people call :data:`al_ray.report.analysis.results.METRIC`."""
DASH = "–"
_FEW = 4


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as ``82.4 %``; a dash for None."""
    return DASH if share is None else f"{_signless(share * 100, digits)} %"


def points(difference: float | None) -> str:
    """Write a difference of shares as ``+1.2 points``; a dash for None."""
    return DASH if difference is None else f"{signed_points(difference)} points"


def signed_points(difference: float) -> str:
    """Write a difference of shares in points without the unit; two digits where one would hide it."""
    value = difference * 100
    return signed(value, 2 if 0 < abs(value) < 0.1 else 1)


def size_in_points(difference: float) -> str:
    """Write how large a difference of shares is, without its sign: ``1.2 points``."""
    return f"{signed_points(abs(difference)).lstrip('+')} points"


def signed(value: float, digits: int) -> str:
    """Write a number with its sign; what rounds to zero has none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with fixed digits; a dash for None."""
    return DASH if value is None else _signless(value, digits)


def count(value: float | None) -> str:
    """Write a count, rounded, with thousands apart: ``12,345``; a dash for None."""
    return DASH if value is None else f"{round(value):,}".replace("-", "−")


def plural(value: float, noun: str) -> str:
    """Write ``1 cell``, ``2 cells``."""
    return f"{count(value)} {noun}{'' if round(value) == 1 else 's'}"


def p_value(p: float | None) -> str:
    """Write a p-value: ``0.34``, ``0.012``, ``< 0.001``; a dash for None."""
    if p is None:
        return DASH
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"


def p_words(p: float) -> str:
    """Write ``p = 0.012`` or ``p < 0.001``."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def interval_points(interval: "Interval | None") -> str:
    """Write an interval of a difference in points: ``+0.4 to +2.0``; a dash for None."""
    return DASH if interval is None else f"{signed_points(interval.low)} to {signed_points(interval.high)}"


def interval_count(interval: "Interval | None") -> str:
    """Write an interval of a count: ``40 to 120``; a dash for None."""
    return DASH if interval is None else f"{count(interval.low)} to {count(interval.high)}"


def tally(comparison: "Comparison | None") -> str:
    """Write wins, ties and losses: ``7 / 0 / 3``; a dash for None."""
    return DASH if comparison is None else f"{comparison.wins} / {comparison.ties} / {comparison.losses}"


def seconds_in_words(seconds: float | None) -> str:
    """Write seconds as ``0.42 s``, ``8.1 s``, ``3 min 20 s`` or ``2 h 5 min``; a dash for None."""
    if seconds is None:
        return DASH
    size = abs(seconds)
    sign = "−" if seconds < 0 else ""
    if size < 59.95:
        return f"{sign}{size:.{2 if size < 0.995 else 1}f} s"
    if size < 3599.5:
        minutes, rest = divmod(round(size), 60)
        return f"{sign}{minutes} min {rest} s" if rest else f"{sign}{minutes} min"
    hours, rest = divmod(round(size / 60), 60)
    return f"{sign}{hours:,} h {rest} min" if rest else f"{sign}{hours:,} h"


def joined(names: Sequence[str], last: str = "and") -> str:
    """Write ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def some(names: Sequence[str], noun: str, most: int = _FEW) -> str:
    """Write the names where they are few, else how many there are: ``a and b``, or ``12 other methods``."""
    return joined(names) if len(names) <= most else plural(len(names), noun)


def _signless(value: float, digits: int) -> str:
    assert math.isfinite(value), "an unknown number is None, never NaN"
    return signed(value, digits).lstrip("+")
