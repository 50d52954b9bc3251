"""Learning curves: one picture a setting, and the numbers behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from al_ray.report.charts.curves import curves_chart
from al_ray.report.charts.styles import Look
from al_ray.report.content import Curve, ReportContent, Setting
from al_ray.report.wording import count, percent


@dataclass(frozen=True, kw_only=True)
class CurvesView:
    """One setting.

    Attributes:
        name: of the setting.
        facts: sizes, seeds and the passive model in a few words.
        chart: the picture.
        columns: numbers of labels of any curve.
        rows: look and accuracies, a dash where a curve has no such point.
    """

    name: str
    facts: str
    chart: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[Look, tuple[str, ...]], ...]


def curves_views(content: ReportContent, looks: Mapping[str, Look]) -> list[CurvesView]:
    """Return the settings that have a curve."""
    views = []
    for setting in content.settings:
        curves = [curve for curve in content.curves if curve.setting == setting.name and curve.mean]
        if curves:
            views.append(_view(setting, sorted(curves, key=lambda curve: looks[curve.method].index), looks))
    return views


def _view(setting: Setting, curves: Sequence[Curve], looks: Mapping[str, Look]) -> CurvesView:
    columns = sorted({n for curve in curves for n in curve.n_labeled})
    values = [dict(zip(curve.n_labeled, curve.mean, strict=True)) for curve in curves]
    return CurvesView(
        name=setting.name,
        facts=_facts(setting, curves),
        chart=curves_chart(setting, curves, looks),
        columns=tuple(count(n) for n in columns),
        rows=tuple(
            (looks[curve.method], tuple(percent(found.get(n)) for n in columns))
            for curve, found in zip(curves, values, strict=True)
        ),
    )


def _facts(setting: Setting, curves: Sequence[Curve]) -> str:
    seeds = sorted({curve.n_seeds for curve in curves})
    words = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' if seeds[0] > 1 else ''}"
    parts = [words]
    sizes = ((setting.n_classes, "classes"), (setting.n_pool, "in the pool"), (setting.n_test, "test examples"))
    parts += [f"{count(n)} {noun}" for n, noun in sizes if n is not None]
    parts += [f"passive {percent(setting.passive.mean)}"] if setting.passive else []
    return ", ".join(parts)
