"""Small drawings for the cell of a table: a difference with its interval, a bar of shares, a ruler for both."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from al_ray.report.charts.scale import Scale, span
from al_ray.report.charts.svg import drawing, group, line, tag, text
from al_ray.report.content import Comparison
from al_ray.report.wording import interval_points, points, signed_points

_WIDTH, _HEIGHT, _EDGE = 220.0, 22.0, 22.0


def difference_scale(comparisons: Sequence[Comparison]) -> Scale:
    """Return one axis for some differences and their intervals, with zero on it."""
    ends = [comparison.difference for comparison in comparisons] + [0.0]
    ends += [end for one in comparisons if one.interval for end in (one.interval.low, one.interval.high)]
    low, high = span(ends, least=0.01)
    return Scale(low=low, high=high, start=_EDGE, end=_WIDTH - _EDGE)


def difference_ruler(scale: Scale) -> Markup:
    """Return the ticks of that axis, in points."""
    parts = [text(signed_points(tick), scale(tick), 15, "middle") for tick in scale.ticks(3)]
    return drawing(_WIDTH, _HEIGHT, "points of difference", parts, "fixed")


def difference_strip(comparison: Comparison, scale: Scale, *, real: bool) -> Markup:
    """Return a dot with its interval; filled where the difference is more than chance, hollow where it is not shown."""
    middle = _HEIGHT / 2
    parts = [line(scale(0), 0, scale(0), _HEIGHT, "axis")]
    if comparison.interval is not None:
        low, high = scale(comparison.interval.low), scale(comparison.interval.high)
        parts += [line(low, middle, high, middle, "stroke")]
        parts += [line(end, middle - 4, end, middle + 4, "stroke") for end in (low, high)]
    parts.append(tag("circle", cx=scale(comparison.difference), cy=middle, r=4.5, class_="mark" if real else "hollow"))
    return drawing(_WIDTH, _HEIGHT, _label(comparison), [group(parts, class_="effect")], "fixed")


def bar_strip(parts: Mapping[str, float], whole: float, label: str) -> Markup:
    """Return one bar of stacked parts, in the given order, on an axis that ends at ``whole``."""
    drawn, x = [], 0.0
    for at, (name, value) in enumerate(parts.items()):
        width = _WIDTH * value / whole if whole > 0 else 0.0
        block = tag("rect", x=x, y=3, width=width, height=_HEIGHT - 6)
        drawn.append(group([tag("title", name), block], class_=f"part p{at}"))
        x += width
    return drawing(_WIDTH, _HEIGHT, label, drawn, "fixed")


def _label(comparison: Comparison) -> str:
    return f"{points(comparison.difference)}, interval {interval_points(comparison.interval)}"
