"""Reliability diagram: how often a prediction is right, against how sure the method was of it."""

from collections.abc import Sequence

from markupsafe import Markup

from al_ray.report.charts.scale import Scale
from al_ray.report.charts.styles import Look
from al_ray.report.charts.svg import drawing, group, line, path_of, tag, text
from al_ray.report.content import Calibration, ReliabilityBin
from al_ray.report.wording import count, percent

_SIZE, _LEFT, _BOTTOM, _EDGE = 156.0, 34.0, 34.0, 8.0
_LARGEST, _SMALLEST = 7.0, 2.0


def reliability_chart(calibration: Calibration, look: Look) -> Markup:
    """Return the diagram; the area of a dot is the share of predictions in its bin."""
    x = Scale(low=0, high=1, start=_LEFT, end=_SIZE - _EDGE)
    y = Scale(low=0, high=1, start=_SIZE - _BOTTOM, end=_EDGE)
    bins = [entry for entry in calibration.bins if entry.n and entry.accuracy is not None]
    parts = [*_axes(x, y), line(x(0), y(0), x(1), y(1), "diagonal"), _dots(bins, x, y, look)]
    return drawing(_SIZE, _SIZE, _label(calibration), parts, "fixed")


def _axes(x: Scale, y: Scale) -> list[Markup]:
    parts = [line(x.start, y.start, x.end, y.start, "axis"), line(x.start, y.start, x.start, y.end, "axis")]
    for tick in (0.0, 0.5, 1.0):
        words = f"{tick:g}"
        parts.append(text(words, x(tick), y.start + 14, "middle", class_="quiet"))
        parts.append(text(words, x.start - 5, y(tick) + 4, "end", class_="quiet"))
    return [*parts, text("confidence", (x.start + x.end) / 2, _SIZE - 4, "middle", class_="quiet")]


def _dots(bins: Sequence[ReliabilityBin], x: Scale, y: Scale, look: Look) -> Markup:
    most = max((entry.n for entry in bins), default=1)
    xs = [x(_place(entry)) for entry in bins]
    ys = [y(entry.accuracy or 0.0) for entry in bins]
    parts = [tag("path", d=path_of(xs, ys), class_="stroke")] if len(bins) > 1 else []
    for entry, at, height in zip(bins, xs, ys, strict=True):
        radius = max(_SMALLEST, _LARGEST * (entry.n / most) ** 0.5)
        name = f"{_edges(entry)}: {count(entry.n)} predictions, {percent(entry.accuracy)} right"
        parts.append(group([tag("title", name), tag("circle", cx=at, cy=height, r=radius, class_="mark")]))
    return group(parts, class_=look.css if not look.is_plain else "random")


def _place(entry: ReliabilityBin) -> float:
    return entry.confidence if entry.confidence is not None else (entry.low + entry.high) / 2


def _edges(entry: ReliabilityBin) -> str:
    return f"confidence {entry.low:g} to {entry.high:g}"


def _label(calibration: Calibration) -> str:
    bins = [entry for entry in calibration.bins if entry.n and entry.accuracy is not None]
    values = "; ".join(f"{_edges(entry)} right {percent(entry.accuracy, 0)}" for entry in bins)
    return f"Reliability of {calibration.method} on {calibration.on} examples. {values}."
