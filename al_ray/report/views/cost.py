"""Machine time by phase, and what a saved label costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from al_ray.report.charts.strips import bar_strip
from al_ray.report.charts.styles import Look
from al_ray.report.content import Cost, ReportContent
from al_ray.report.wording import duration


@dataclass(frozen=True, kw_only=True)
class CostView:
    """One setting.

    Attributes:
        name: of the setting.
        phases: in the order of the bars.
        rows: cost, look, total seconds and bar, cheapest first.
    """

    name: str
    phases: tuple[str, ...]
    rows: tuple[tuple[Cost, Look, float, Markup], ...]


def cost_views(content: ReportContent, looks: Mapping[str, Look]) -> list[CostView]:
    """Return the settings that have recorded seconds."""
    names = list(dict.fromkeys(cost.setting for cost in content.costs))
    phases = tuple(dict.fromkeys(phase for cost in content.costs for phase in cost.seconds))
    return [_view(name, phases, [cost for cost in content.costs if cost.setting == name], looks) for name in names]


def _view(name: str, phases: Sequence[str], costs: Sequence[Cost], looks: Mapping[str, Look]) -> CostView:
    totals = {cost.method: sum(cost.seconds.values()) for cost in costs}
    whole = max(totals.values())
    ordered = sorted(costs, key=lambda cost: totals[cost.method])
    return CostView(
        name=name,
        phases=tuple(phases),
        rows=tuple(
            (cost, looks[cost.method], totals[cost.method], _bar(cost, phases, totals[cost.method], whole))
            for cost in ordered
        ),
    )


def _bar(cost: Cost, phases: Sequence[str], total: float, whole: float) -> Markup:
    parts = {f"{phase}: {duration(cost.seconds.get(phase, 0.0))}": cost.seconds.get(phase, 0.0) for phase in phases}
    return bar_strip(parts, whole, f"{cost.method}: {duration(total)} a cell")
