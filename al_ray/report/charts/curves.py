"""Learning curves of one setting: accuracy against labels, with bands, on an axis of its own."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from al_ray.report.charts.scale import Scale, span
from al_ray.report.charts.styles import Look, marker
from al_ray.report.charts.svg import drawing, group, line, path_of, tag, text
from al_ray.report.content import Curve, Setting
from al_ray.report.wording import count, percent

_WIDTH, _HEIGHT = 340.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 40.0
_N_MARKERS = 4
_N_TICKS = 5


def curves_chart(setting: Setting, curves: Sequence[Curve], looks: Mapping[str, Look]) -> Markup:
    """Return the picture of one setting that has at least one curve."""
    x, y = _scales(setting, curves, looks)
    order = sorted(curves, key=lambda curve: _depth(looks[curve.method]))
    coloured = [curve for curve in order if not looks[curve.method].is_plain]
    parts = [
        *_axes(x, y),
        *(_band(curve, looks[curve.method], x, y) for curve in coloured if curve.low),
        *(_line(curve, looks[curve.method], x, y) for curve in order),
        *_passive(setting, y),
    ]
    return drawing(_WIDTH, _HEIGHT, _label(setting, curves), parts, "chart")


def _scales(setting: Setting, curves: Sequence[Curve], looks: Mapping[str, Look]) -> tuple[Scale, Scale]:
    values = [value for curve in curves for value in curve.mean]
    values += [end for curve in curves if not looks[curve.method].is_plain for end in (*curve.low, *curve.high)]
    values += [setting.passive.mean] if setting.passive else []
    low, high = span(values)
    labels = [n for curve in curves for n in curve.n_labeled]
    left, right = min(labels), max(labels)
    x = Scale(low=left, high=max(right, left + 1), start=_LEFT, end=_WIDTH - _RIGHT)
    return x, Scale(low=max(low, 0.0), high=min(high, 1.005), start=_HEIGHT - _BOTTOM, end=_TOP)


def _axes(x: Scale, y: Scale) -> list[Markup]:
    digits = 0 if y.high - y.low > 0.05 else 1
    parts = []
    for tick in y.ticks(_N_TICKS):
        parts += [line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), "grid")]
        parts += [text(percent(tick, digits), _LEFT - 5, y(tick) + 4, "end")]
    for tick in x.ticks(_N_TICKS):
        parts += [line(x(tick), _HEIGHT - _BOTTOM, x(tick), _HEIGHT - _BOTTOM + 4, "axis")]
        parts += [text(count(tick), x(tick), _HEIGHT - _BOTTOM + 17, "middle")]
    base = line(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "axis")
    return [*parts, base, text("labels", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, "middle", class_="quiet")]


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
    return [group([name, line(_LEFT, at, _WIDTH - _RIGHT, at, "stroke")], class_="line passive")]


def _marked(n: int, index: int) -> list[int]:
    step = max(1, n // _N_MARKERS)
    return sorted({(index + at) % n for at in range(0, n, step)})


def _depth(look: Look) -> int:
    return 0 if look.is_plain else 2 if look.css == "random" else 1


def _label(setting: Setting, curves: Sequence[Curve]) -> str:
    best = max(curves, key=lambda curve: curve.mean[-1])
    return (
        f"Learning curves on {setting.name}: test accuracy against labels for {len(curves)} methods. "
        f"Highest at the end: {best.method}, {percent(best.mean[-1])} at {count(best.n_labeled[-1])} labels."
    )
