"""The charts of the page, as SVG."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup, escape

from al_ray.report.analysis.results import (
    Calibration,
    Curve,
    ReliabilityBin,
    Setting,
    StudyResults,
)
from al_ray.report.stats.paired import Comparison
from al_ray.report.stats.ranks import CriticalDifference
from al_ray.report.wording import count, interval_points, number, percent, plural, points, signed_points


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


Part = Markup | str


def tag(name: str, *children: Part, **attributes: str | float) -> Markup:
    """Return one element; text and attribute values are escaped, ``class_`` is class and ``_`` is a dash."""
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    if not children:
        return Markup(f"<{name}{words}/>")
    return Markup(f"<{name}{words}>{_inner(children)}</{name}>")


def drawing(width: float, height: float, label: str, parts: Iterable[Part], class_: str = "") -> Markup:
    """Return a whole picture with the text that stands for it where it cannot be seen; hidden from readers without."""
    wide, high = _value(width), _value(height)
    said = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    size = f'width="{wide}" height="{high}" viewBox="0 0 {wide} {high}"'
    return Markup(f'<svg class="{escape(class_)}" {size} {said}>{_inner(parts)}</svg>')


def group(parts: Iterable[Part], **attributes: str | float) -> Markup:
    """Return a ``g`` element."""
    return tag("g", *parts, Markup(""), **attributes)


def text(words: str, x: float, y: float, anchor: str = "start", **attributes: str | float) -> Markup:
    """Return a line of text; ``anchor`` is start, middle or end."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    return tag("path", d=f"M{_value(x1)} {_value(y1)}L{_value(x2)} {_value(y2)}", class_=class_)


def path_of(xs: Sequence[float], ys: Sequence[float]) -> str:
    """Return the path through some points."""
    return "M" + "L".join(f"{_value(x)} {_value(y)}" for x, y in zip(xs, ys, strict=True))


def _inner(parts: Iterable[Part]) -> str:
    return "".join(part if isinstance(part, Markup) else str(escape(part)) for part in parts)


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return str(escape(value))
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


N_STYLES = 8
N_HIGHLIGHTED = 6
_POLYGONS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "s1": ((-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)),
    "s2": ((0, -4.6), (4.3, 3.4), (-4.3, 3.4)),
    "s3": ((0, -4.9), (4.9, 0), (0, 4.9), (-4.9, 0)),
    "s4": ((0, 4.6), (4.3, -3.4), (-4.3, -3.4)),
    "s5": ((-1.6, -4.6), (1.6, -4.6), (1.6, 4.6), (-1.6, 4.6)),
    "s6": ((-4.6, -1.6), (4.6, -1.6), (4.6, 1.6), (-4.6, 1.6)),
    "s7": ((0, -4.8), (4.6, -1.5), (2.8, 3.9), (-2.8, 3.9), (-4.6, -1.5)),
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one method is drawn.

    Attributes:
        method: its name.
        index: its number on the page, which ties lines, legends and switches together.
        css: class that sets colour and dash: ``s0`` to ``s7``, ``random``, ``passive``, ``bound`` or ``rest`` (grey).
    """

    method: str
    index: int
    css: str

    @property
    def is_plain(self) -> bool:
        """Whether it is one of those drawn in grey."""
        return self.css == "rest"


def assign_looks(results: StudyResults) -> dict[str, Look]:
    """Give every method its look: the first of the overall ranking stand out; random and bounds are references."""
    names = results.methods_by_rank()
    role_of = {name: results.methods[name].role for name in names}
    queried = [name for name in names if role_of[name] == "query"]
    shown = queried if len(queried) <= N_STYLES else queried[:N_HIGHLIGHTED]
    css = {name: f"s{at}" for at, name in enumerate(shown)}
    return {
        name: Look(method=name, index=at, css=css.get(name, "rest") if role_of[name] == "query" else role_of[name])
        for at, name in enumerate(names)
    }


def marker(css: str, x: float, y: float) -> Markup:
    """Return the marker of a look at a point."""
    if css in _POLYGONS:
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in _POLYGONS[css])
        return tag("polygon", points=points, class_="mark")
    return tag("circle", cx=x, cy=y, r=3.4 if css != "random" else 2.6, class_="mark")


@cache
def swatch(look: Look) -> Markup:
    """Return the sample of a look that stands before its name."""
    parts = [line(1, 8, 31, 8, "stroke")]
    if look.css not in ("rest", "passive"):
        parts.append(marker(look.css, 16, 8))
    return drawing(32, 16, "", parts, f"swatch {look.css}")


_CURVE_WIDTH, _CURVE_HEIGHT = 340.0, 250.0
_CURVE_LEFT, _RIGHT, _CURVE_TOP, _CURVE_BOTTOM = 46.0, 12.0, 10.0, 40.0
_N_MARKERS = 4
_N_TICKS = 5


def curves_chart(setting: Setting, curves: Sequence[Curve], looks: Mapping[str, Look]) -> Markup:
    """Return the picture of one setting that has at least one curve."""
    x, y = _scales(setting, curves, looks)
    order = sorted(curves, key=lambda curve: _depth(looks[curve.method]))
    coloured = [curve for curve in order if not looks[curve.method].is_plain]
    parts = [
        *_curves_axes(x, y),
        *(_band(curve, looks[curve.method], x, y) for curve in coloured if curve.low),
        *(_line(curve, looks[curve.method], x, y) for curve in order),
        *_passive(setting, y),
    ]
    return drawing(_CURVE_WIDTH, _CURVE_HEIGHT, _curves_label(setting, _rivals(curves, looks)), parts, "chart")


def _scales(setting: Setting, curves: Sequence[Curve], looks: Mapping[str, Look]) -> tuple[Scale, Scale]:
    values = [value for curve in curves for value in curve.mean]
    values += [end for curve in curves if not looks[curve.method].is_plain for end in (*curve.low, *curve.high)]
    values += [setting.passive.mean] if setting.passive else []
    low, high = span(values)
    labels = [n for curve in curves for n in curve.n_labeled]
    left, right = min(labels), max(labels)
    x = Scale(low=left, high=max(right, left + 1), start=_CURVE_LEFT, end=_CURVE_WIDTH - _RIGHT)
    return x, Scale(low=max(low, 0.0), high=min(high, 1.005), start=_CURVE_HEIGHT - _CURVE_BOTTOM, end=_CURVE_TOP)


def _curves_axes(x: Scale, y: Scale) -> list[Markup]:
    digits = 0 if y.high - y.low > 0.05 else 1
    left, right, bottom = x.start, x.end, y.start
    parts = []
    for tick in y.ticks(_N_TICKS):
        parts += [line(left, y(tick), right, y(tick), "grid")]
        parts += [text(percent(tick, digits), left - 5, y(tick) + 4, "end")]
    for tick in x.ticks(_N_TICKS):
        parts += [line(x(tick), bottom, x(tick), bottom + 4, "axis")]
        parts += [text(count(tick), x(tick), bottom + 17, "middle")]
    parts += [line(left, bottom, right, bottom, "axis")]
    return [*parts, text("labels", (left + right) / 2, _CURVE_HEIGHT - 5, "middle", class_="quiet")]


def _line(curve: Curve, look: Look, x: Scale, y: Scale) -> Markup:
    xs, ys = [x(n) for n in curve.n_labeled], [y(value) for value in curve.mean]
    name = f"{curve.method}: {percent(curve.mean[-1])} at {count(curve.n_labeled[-1])} labels"
    parts = [tag("title", name), tag("path", d=path_of(xs, ys), class_="stroke")]
    if not look.is_plain:
        parts += [marker(look.css, xs[at], ys[at]) for at in _marked(len(xs), look.index)]
    return group(parts, class_=f"line {look.css}", data_m=str(look.index))


def _band(curve: Curve, look: Look, x: Scale, y: Scale) -> Markup:
    xs = [x(n) for n in curve.n_labeled]
    there, back = [y(value) for value in curve.high], [y(value) for value in curve.low]
    shape = path_of([*xs, *reversed(xs)], [*there, *reversed(back)]) + "Z"
    return group([tag("path", d=shape)], class_=f"band {look.css}", data_m=str(look.index))


def _passive(setting: Setting, y: Scale) -> list[Markup]:
    if setting.passive is None:
        return []
    at = y(setting.passive.mean)
    name = tag("title", f"passive, all labels: {percent(setting.passive.mean)}")
    return [group([name, line(_CURVE_LEFT, at, _CURVE_WIDTH - _RIGHT, at, "stroke")], class_="line passive")]


def _marked(n: int, index: int) -> list[int]:
    step = max(1, n // _N_MARKERS)
    return sorted({(index + at) % n for at in range(0, n, step)})


def _depth(look: Look) -> int:
    return 0 if look.is_plain else 2 if look.css == "random" else 1


def _rivals(curves: Sequence[Curve], looks: Mapping[str, Look]) -> Sequence[Curve]:
    """Return the curves without upper bounds, or all where there is nothing else."""
    return [curve for curve in curves if looks[curve.method].css != "bound"] or curves


def _curves_label(setting: Setting, curves: Sequence[Curve]) -> str:
    best = max(curves, key=lambda curve: curve.mean[-1])
    return (
        f"Learning curves on {setting.name}: test accuracy against labels for {len(curves)} methods. "
        f"Highest at the end: {best.method}, {percent(best.mean[-1])} at {count(best.n_labeled[-1])} labels."
    )


_ROW, _RANKS_TOP, _RANKS_BOTTOM = 20.0, 44.0, 14.0
_LANE, _SCALE_WIDTH, _ELBOW = 9.0, 30.0, 46.0
_CHARACTER = 6.9
_LEAST_HEIGHT = 170.0


def ranks_chart(test: CriticalDifference, looks: Mapping[str, Look]) -> Markup:
    """Return mean ranks from best (top) down, bars joining what cannot be told apart."""
    ranks = dict(test.mean_ranks)
    height = max(_LEAST_HEIGHT, _RANKS_TOP + _RANKS_BOTTOM + _ROW * len(ranks))
    lanes = _lanes(test.cliques, ranks)
    axis = _SCALE_WIDTH + _LANE * (max(lanes, default=0) + 2)
    y = _scale(test, height)
    names = [f"{name}  {number(rank)}" for name, rank in ranks.items()]
    words = f"critical difference {number(test.critical_difference)}"
    words += "" if test.critical_difference <= y.high - y.low else ", longer than the axis"
    width = max(axis + _ELBOW + 8 + _CHARACTER * max(map(len, names)), 24 + _CHARACTER * len(words))
    parts = [
        *_axis(y, axis),
        *_difference(test, y, words),
        *_cliques(test.cliques, lanes, ranks, y, axis),
        *_names(ranks, looks, y, axis, height),
    ]
    return drawing(width, height, _ranks_label(test), parts, "fixed")


def _scale(test: CriticalDifference, height: float) -> Scale:
    ranks = list(test.mean_ranks.values())
    low, high = min(ranks), max(ranks)
    room = max(0.25, (high - low) * 0.03)
    return Scale(low=low - room, high=high + room, start=_RANKS_TOP, end=height - _RANKS_BOTTOM)


def _axis(y: Scale, axis: float) -> list[Markup]:
    parts = [line(axis, y.start, axis, y.end, "axis")]
    for tick in y.ticks(6):
        parts.append(line(axis - 4, y(tick), axis, y(tick), "axis"))
        parts.append(text(f"{tick:g}", _SCALE_WIDTH - 8, y(tick) + 4, "end", class_="quiet"))
    return parts


def _difference(test: CriticalDifference, y: Scale, words: str) -> list[Markup]:
    length = abs(y.end - y.start) * test.critical_difference / (y.high - y.low)
    fits = y.start + length <= y.end
    end = y.start + length if fits else y.end
    bar = [line(4, y.start, 4, end, "axis" if fits else "axis open"), line(1, y.start, 7, y.start, "axis")]
    foot = [line(1, end, 7, end, "axis")] if fits else []
    return [*bar, *foot, text(words, 2, 16), text("mean rank, best on top", 2, 32, class_="quiet")]


def _lanes(cliques: Sequence[Sequence[str]], ranks: Mapping[str, float]) -> list[int]:
    """Return the lane of every bar, so that bars that overlap stand side by side."""
    ends: list[float] = []
    lanes = []
    for clique in cliques:
        low, high = min(ranks[name] for name in clique), max(ranks[name] for name in clique)
        lane = next((at for at, end in enumerate(ends) if end < low), len(ends))
        ends[lane : lane + 1] = [high]
        lanes.append(lane)
    return lanes


def _cliques(
    cliques: Sequence[Sequence[str]], lanes: Sequence[int], ranks: Mapping[str, float], y: Scale, axis: float
) -> list[Markup]:
    parts = []
    for clique, lane in zip(cliques, lanes, strict=True):
        places = [y(ranks[name]) for name in clique]
        x = axis - _LANE * (lane + 1)
        bar = line(x, min(places) - 3, x, max(places) + 3, "clique")
        parts.append(group([tag("title", f"cannot be told apart: {', '.join(clique)}"), bar]))
    return parts


def _names(ranks: Mapping[str, float], looks: Mapping[str, Look], y: Scale, axis: float, height: float) -> list[Markup]:
    step = (height - _RANKS_TOP - _RANKS_BOTTOM) / len(ranks)
    parts = []
    for at, (name, rank) in enumerate(ranks.items()):
        place, row = y(rank), _RANKS_TOP + step * (at + 0.5)
        css = looks[name].css if name in looks else "rest"
        joint = tag("path", d=f"M{axis:.1f} {place:.1f}L{axis + _ELBOW - 14:.1f} {row:.1f}h8", class_="elbow")
        words = text(f"{name}  {number(rank)}", axis + _ELBOW, row + 4)
        parts.append(group([joint, marker(css, axis, place), words], class_=css))
    return parts


def _ranks_label(test: CriticalDifference) -> str:
    ranks = "; ".join(f"{name} {number(rank)}" for name, rank in test.mean_ranks.items())
    bars = "; ".join(", ".join(clique) for clique in test.cliques) or "none"
    return (
        f"Critical-difference diagram over {plural(test.n_units, test.unit)}, critical difference "
        f"{number(test.critical_difference)}. Mean ranks: {ranks}. Not told apart: {bars}."
    )


_SIZE, _RELIABILITY_LEFT, _RELIABILITY_BOTTOM, _RELIABILITY_EDGE = 156.0, 34.0, 34.0, 8.0
_LARGEST, _SMALLEST = 7.0, 2.0


def reliability_chart(calibration: Calibration, look: Look) -> Markup:
    """Return the diagram; the area of a dot is the share of predictions in its bin."""
    x = Scale(low=0, high=1, start=_RELIABILITY_LEFT, end=_SIZE - _RELIABILITY_EDGE)
    y = Scale(low=0, high=1, start=_SIZE - _RELIABILITY_BOTTOM, end=_RELIABILITY_EDGE)
    bins = [entry for entry in calibration.bins if entry.n and entry.accuracy is not None]
    parts = [*_reliability_axes(x, y), line(x(0), y(0), x(1), y(1), "diagonal"), _dots(bins, x, y, look)]
    values = "; ".join(f"{_edges(entry)} right {percent(entry.accuracy, 0)}" for entry in bins)
    label = f"Reliability of {calibration.method} on {calibration.on} examples. {values}."
    return drawing(_SIZE, _SIZE, label, parts, "fixed")


def _reliability_axes(x: Scale, y: Scale) -> list[Markup]:
    parts = [line(x.start, y.start, x.end, y.start, "axis"), line(x.start, y.start, x.start, y.end, "axis")]
    for tick in (0.0, 0.5, 1.0):
        words = f"{tick:g}"
        parts.append(text(words, x(tick), y.start + 14, "middle", class_="quiet"))
        parts.append(text(words, x.start - 5, y(tick) + 4, "end", class_="quiet"))
    return [*parts, text("confidence", (x.start + x.end) / 2, _SIZE - 4, "middle", class_="quiet")]


def _dots(bins: Sequence[ReliabilityBin], x: Scale, y: Scale, look: Look) -> Markup:
    most = max((entry.n for entry in bins), default=1)
    xs = [x((entry.low + entry.high) / 2 if entry.confidence is None else entry.confidence) for entry in bins]
    ys = [y(entry.accuracy or 0.0) for entry in bins]
    parts = [tag("path", d=path_of(xs, ys), class_="stroke")] if len(bins) > 1 else []
    for entry, at, height in zip(bins, xs, ys, strict=True):
        radius = max(_SMALLEST, _LARGEST * (entry.n / most) ** 0.5)
        name = f"{_edges(entry)}: {count(entry.n)} predictions, {percent(entry.accuracy)} right"
        parts.append(group([tag("title", name), tag("circle", cx=at, cy=height, r=radius, class_="mark")]))
    return group(parts, class_=look.css if not look.is_plain else "random")


def _edges(entry: ReliabilityBin) -> str:
    return f"confidence {entry.low:g} to {entry.high:g}"


_STRIPS_WIDTH, _STRIPS_HEIGHT, _STRIPS_EDGE = 220.0, 22.0, 22.0


def difference_scale(comparisons: Sequence[Comparison]) -> Scale:
    """Return one axis for some differences and their intervals, with zero on it."""
    ends = [comparison.difference for comparison in comparisons] + [0.0]
    ends += [end for one in comparisons if one.interval for end in (one.interval.low, one.interval.high)]
    low, high = span(ends, least=0.01)
    return Scale(low=low, high=high, start=_STRIPS_EDGE, end=_STRIPS_WIDTH - _STRIPS_EDGE)


def difference_ruler(scale: Scale) -> Markup:
    """Return the ticks of that axis, in points."""
    parts = [text(signed_points(tick), scale(tick), 15, "middle") for tick in scale.ticks(3)]
    return drawing(_STRIPS_WIDTH, _STRIPS_HEIGHT, "points of difference", parts, "fixed")


def difference_strip(comparison: Comparison, scale: Scale, alpha: float) -> Markup:
    """Return a dot with its interval; filled where the difference is more than chance, hollow where it is not shown."""
    middle = _STRIPS_HEIGHT / 2
    parts = [line(scale(0), 0, scale(0), _STRIPS_HEIGHT, "axis")]
    if comparison.interval is not None:
        low, high = scale(comparison.interval.low), scale(comparison.interval.high)
        parts += [line(low, middle, high, middle, "stroke")]
        parts += [line(end, middle - 4, end, middle + 4, "stroke") for end in (low, high)]
    css = "mark" if comparison.is_significant(alpha) else "hollow"
    parts.append(tag("circle", cx=scale(comparison.difference), cy=middle, r=4.5, class_=css))
    label = f"{points(comparison.difference)}, interval {interval_points(comparison.interval)}"
    return drawing(_STRIPS_WIDTH, _STRIPS_HEIGHT, label, [group(parts, class_="effect")], "fixed")


_AGREEMENT = Scale(low=-1.0, high=1.0, start=_STRIPS_EDGE, end=_STRIPS_WIDTH - _STRIPS_EDGE)


def agreement_ruler() -> Markup:
    """Return the ticks of the axis of tau-b."""
    parts = [text(number(tick, 1), _AGREEMENT(tick), 15, "middle") for tick in (-1.0, 0.0, 1.0)]
    return drawing(_STRIPS_WIDTH, _STRIPS_HEIGHT, "tau-b from -1 to 1", parts, "fixed")


def agreement_strip(taus: Sequence[float], same: float | None) -> Markup:
    """Return a hollow dot for every comparison, a filled one for their mean, and a bar for other seeds alone."""
    middle = _STRIPS_HEIGHT / 2
    parts = [line(_AGREEMENT(end), 0, _AGREEMENT(end), _STRIPS_HEIGHT, "axis") for end in (0.0, 1.0)]
    shown = dict.fromkeys(round(tau, 2) for tau in taus)
    dots: list[Part] = [tag("circle", cx=_AGREEMENT(tau), cy=middle, r=3, class_="hollow") for tau in shown]
    dots.append(tag("circle", cx=_AGREEMENT(sum(taus) / len(taus)), cy=middle, r=4.5, class_="mark"))
    if same is not None:
        name = tag("title", f"other seeds alone: {number(same)}")
        dots.append(group([name, line(_AGREEMENT(same), 2, _AGREEMENT(same), _STRIPS_HEIGHT - 2, "stroke")]))
    label = f"tau-b {number(sum(taus) / len(taus))} on average, from {number(min(taus))} to {number(max(taus))}"
    return drawing(_STRIPS_WIDTH, _STRIPS_HEIGHT, label, [*parts, group(dots, class_="effect")], "fixed")


def bar_strip(parts: Mapping[str, float], whole: float, label: str) -> Markup:
    """Return one bar of stacked parts, in the given order, on an axis that ends at ``whole``."""
    drawn, x = [], 0.0
    for at, (name, value) in enumerate(parts.items()):
        width = _STRIPS_WIDTH * value / whole if whole > 0 else 0.0
        block = tag("rect", x=x, y=3, width=width, height=_STRIPS_HEIGHT - 6)
        drawn.append(group([tag("title", name), block], class_=f"part p{at}"))
        x += width
    return drawing(_STRIPS_WIDTH, _STRIPS_HEIGHT, label, drawn, "fixed")
