"""One look for one method on the whole page: colour, dash and marker together, so that none of them is needed alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup

from al_ray.report.charts.svg import drawing, line, tag
from al_ray.report.content import ReportContent

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
        css: class that sets colour and dash: ``s0`` to ``s7``, ``random``, ``passive`` or ``rest`` (grey).
    """

    method: str
    index: int
    css: str

    @property
    def is_plain(self) -> bool:
        """Whether it is one of those drawn in grey."""
        return self.css == "rest"


def assign_looks(content: ReportContent) -> dict[str, Look]:
    """Give every method its look: the first of the overall ranking stand out, random and passive are references."""
    ranked = [row.method for row in content.rankings[0].rows] if content.rankings else []
    names = list(dict.fromkeys([*ranked, *(method.name for method in content.methods)]))
    queried = [name for name in names if content.role(name) == "query"]
    shown = queried if len(queried) <= N_STYLES else queried[:N_HIGHLIGHTED]
    css = {name: f"s{at}" for at, name in enumerate(shown)}
    return {
        name: Look(method=name, index=at, css=_reference(content.role(name)) or css.get(name, "rest"))
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


def _reference(role: str) -> str:
    return {"random": "random", "passive": "passive"}.get(role, "")
