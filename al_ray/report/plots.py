"""Figures for a paper: learning curves drawn by matplotlib, to be saved as PDF, SVG or PNG."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from al_ray.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from al_ray.report.analysis.results import Curve, Setting, StudyResults

MOST_COLUMNS = 3
MOST_METHODS = 8
# Okabe and Ito's palette without yellow, which is too light for a line (doi 10.1038/nmeth.1618); random stays grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
RANDOM_COLOUR, PASSIVE_COLOUR = "#7f7f7f", "#b0b0b0"
_PANEL_INCHES = (3.6, 2.7)
_LEGEND_LINE_INCHES = 0.22
_SETTINGS: dict[str, Any] = {
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text: journals refuse Type 3 fonts
    "svg.fonttype": "none",
    "legend.frameon": False,
}


def plot_curves(
    results: "StudyResults", *, settings: Sequence[str] | None = None, methods: Sequence[str] | None = None
) -> "Figure":
    """Draw mean learning curves: what :meth:`al_ray.report.analysis.results.StudyResults.plot_curves` returns.

    Args:
        results: of a study.
        settings: as there.
        methods: as there.

    Raises:
        ConfigError: a name that the study does not have, or no learning curve to draw.
    """
    from matplotlib import rc_context

    drawn = [curve for curve in results.learning_curves if settings is None or curve.setting in settings]
    _check_names("setting", settings, [setting.name for setting in results.settings])
    _check_names("method", methods, list(results.methods))
    chosen = list(methods) if methods is not None else best_methods(results, drawn)
    drawn = [curve for curve in drawn if curve.method in chosen]
    if not drawn:
        raise ConfigError(
            f"study {results.study!r} has no learning curve to draw here. Finish a cell that queries, or name others "
            "with settings and methods."
        )
    panels = [setting for setting in results.settings if any(curve.setting == setting.name for curve in drawn)]
    with rc_context(_SETTINGS):  # type: ignore[arg-type]
        return _figure(panels, drawn, chosen, results)


def best_methods(results: "StudyResults", drawn: "Sequence[Curve]") -> list[str]:
    """Return the methods that a figure shows unless told otherwise, best first, then upper bounds; random is one."""
    has_curve = {curve.method for curve in drawn}
    names = [name for name in results.methods_by_rank() if name in has_curve]
    always = [name for name in names if results.methods[name].role in ("random", "bound")]
    others = [name for name in names if name not in always]
    return [name for name in names if name in {*always, *others[: max(MOST_METHODS - len(always), 0)]}]


def _check_names(what: str, asked: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in asked or ():
        if name not in known:
            raise ConfigError(unknown_name(what, name, known))


def _figure(
    panels: "Sequence[Setting]", drawn: "Sequence[Curve]", chosen: Sequence[str], results: "StudyResults"
) -> "Figure":
    columns = min(len(panels), MOST_COLUMNS)
    rows = math.ceil(len(panels) / columns)
    legend_inches = _LEGEND_LINE_INCHES * (len(chosen) + 2)
    wide, high = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + legend_inches
    figure = _shown_figure((wide, high))
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, setting in zip(grid, panels, strict=False):
        _draw(axes, setting, [curve for curve in drawn if curve.setting == setting.name], chosen, results)
    for axes in list(grid)[len(panels) :]:
        axes.remove()
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    order = [name for name in (*chosen, "passive") if name in lines]
    figure.legend([lines[name] for name in order], order, loc="outside lower left", ncols=1)
    return figure


def _draw(
    axes: "Axes", setting: "Setting", curves: "Sequence[Curve]", chosen: Sequence[str], results: "StudyResults"
) -> None:
    others = [name for name in chosen if results.methods[name].role != "random"]
    for curve in sorted(curves, key=lambda curve: chosen.index(curve.method)):
        colour, dash = RANDOM_COLOUR, "-"
        if curve.method in others:
            at = others.index(curve.method)
            colour, dash = COLOURS[at % len(COLOURS)], DASHES[at // len(COLOURS) % len(DASHES)]
        axes.plot(curve.n_labeled, curve.mean, color=colour, linestyle=dash, linewidth=1.4, label=curve.method)
        if curve.low:
            axes.fill_between(curve.n_labeled, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    if setting.passive is not None:
        axes.axhline(setting.passive.mean, color=PASSIVE_COLOUR, linestyle=":", linewidth=1.2, label="passive")
    axes.set_title(setting.name, loc="left", fontsize="medium")
    axes.set_xlabel("labels")
    axes.set_ylabel("test accuracy")
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)


def _shown_figure(size: tuple[float, float]) -> "Figure":
    """Return an empty figure that a notebook shows by itself, without pyplot's global list of figures."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png", dpi=144)
            return picture.getvalue()

    return ShownFigure(figsize=size, layout="constrained")
