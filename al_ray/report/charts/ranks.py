"""Critical-difference diagram (Demsar 2006), turned upright so that long names and small screens agree."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from al_ray.report.charts.scale import Scale
from al_ray.report.charts.styles import Look, marker
from al_ray.report.charts.svg import drawing, group, line, tag, text
from al_ray.report.content import CriticalDifference
from al_ray.report.wording import number, plural

_ROW, _TOP, _BOTTOM = 20.0, 44.0, 14.0
_LANE, _SCALE_WIDTH, _ELBOW = 9.0, 30.0, 46.0
_CHARACTER = 6.9
_LEAST_HEIGHT = 170.0


def ranks_chart(test: CriticalDifference, looks: Mapping[str, Look]) -> Markup:
    """Return mean ranks from best (top) down, bars joining what cannot be told apart."""
    ranks = dict(test.mean_ranks)
    height = max(_LEAST_HEIGHT, _TOP + _BOTTOM + _ROW * len(ranks))
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
    return drawing(width, height, _label(test), parts, "fixed")


def _scale(test: CriticalDifference, height: float) -> Scale:
    ranks = list(test.mean_ranks.values())
    low, high = min(ranks), max(ranks)
    room = max(0.25, (high - low) * 0.03)
    return Scale(low=low - room, high=high + room, start=_TOP, end=height - _BOTTOM)


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
    step = (height - _TOP - _BOTTOM) / len(ranks)
    parts = []
    for at, (name, rank) in enumerate(ranks.items()):
        place, row = y(rank), _TOP + step * (at + 0.5)
        css = looks[name].css if name in looks else "rest"
        joint = tag("path", d=f"M{axis:.1f} {place:.1f}L{axis + _ELBOW - 14:.1f} {row:.1f}h8", class_="elbow")
        words = text(f"{name}  {number(rank)}", axis + _ELBOW, row + 4)
        parts.append(group([joint, marker(css, axis, place), words], class_=css))
    return parts


def _label(test: CriticalDifference) -> str:
    ranks = "; ".join(f"{name} {number(rank)}" for name, rank in test.mean_ranks.items())
    bars = "; ".join(", ".join(clique) for clique in test.cliques) or "none"
    return (
        f"Critical-difference diagram over {plural(test.n_blocks, test.unit)}, critical difference "
        f"{number(test.critical_difference)}. Mean ranks: {ranks}. Not told apart: {bars}."
    )
