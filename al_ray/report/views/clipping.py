"""What filters change, method by method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from al_ray.report.charts.strips import difference_ruler, difference_scale, difference_strip
from al_ray.report.charts.styles import Look
from al_ray.report.content import ClippingEffect, ReportContent
from al_ray.report.wording import METRIC_WORDS, some


@dataclass(frozen=True, kw_only=True)
class ClippingView:
    """One setting, or all of them.

    Attributes:
        title: which.
        metric: what is compared, in words.
        ruler: axis of the drawings.
        rows: effect, look of the unfiltered method and drawing, greatest gain first.
        remarks: what was refused, one sentence each.
    """

    title: str
    metric: str
    ruler: Markup
    rows: tuple[tuple[ClippingEffect, Look, Markup], ...]
    remarks: tuple[str, ...]


def clipping_views(content: ReportContent, looks: Mapping[str, Look]) -> list[ClippingView]:
    """Return the effects over all settings first."""
    settings = list(dict.fromkeys(effect.setting for effect in content.clipping))
    ordered = sorted(settings, key=lambda name: name is not None)
    shown = ordered[:1] if len(ordered) == 2 and ordered[0] is None else ordered
    return [_view(name, [e for e in content.clipping if e.setting == name], content, looks) for name in shown]


def _view(
    setting: str | None, effects: Sequence[ClippingEffect], content: ReportContent, looks: Mapping[str, Look]
) -> ClippingView:
    scale = difference_scale([effect.comparison for effect in effects])
    ordered = sorted(effects, key=lambda effect: -effect.comparison.difference)
    return ClippingView(
        title=setting or "All settings",
        metric=METRIC_WORDS[effects[0].comparison.metric],
        ruler=difference_ruler(scale),
        rows=tuple(
            (
                effect,
                looks[effect.method],
                difference_strip(effect.comparison, scale, real=effect.comparison.is_significant(content.alpha)),
            )
            for effect in ordered
        ),
        remarks=tuple(_remarks(ordered)),
    )


def _remarks(effects: Sequence[ClippingEffect]) -> list[str]:
    refused: dict[str, list[str]] = {}
    for effect in effects:
        if effect.comparison.refusal:
            refused.setdefault(effect.comparison.refusal, []).append(effect.method)
    return [f"No p-value for {some(methods, 'method')}: {reason}" for reason, methods in refused.items()]
