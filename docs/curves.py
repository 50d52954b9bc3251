"""Draw docs/curves.svg from the quickstart: ``python docs/curves.py``; runs what of it is not in results/ yet."""

from pathlib import Path

import pandas as pd
from matplotlib import pyplot, rc_context

import al_ray

STUDY = Path(__file__).parents[1] / "pipelines" / "studies" / "quickstart.yaml"
# One picture for light and dark pages: no background, and colours in the middle between black and white.
GREY = "#7d8590"
COLOURS = {
    "softmax + random": "#a0764a",
    "softmax + typiclust": "#3fb950",
    "softmax + margin": "#2f81f7",
    "softmax + margin + uncertainty_clipping": "#a371f7",
}
NAMES = {"softmax + margin + uncertainty_clipping": "margin, clipped"}
OFFSETS = {"softmax + margin + uncertainty_clipping": 0, "softmax + margin": -9}  # in points; they end side by side


def draw(curves: pd.DataFrame, file: Path) -> None:
    """Draw the mean learning curves with their bands; each line is named at its end."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "al_ray", "font.family": "sans-serif", "font.size": 11}):
        figure, axes = pyplot.subplots(figsize=(6.6, 3.2), layout="constrained")
        for method, colour in COLOURS.items():
            points = curves[curves["method"] == method].sort_values("n_labeled")
            axes.fill_between(points["n_labeled"], points["low"], points["high"], color=colour, alpha=0.12, linewidth=0)
            axes.plot(points["n_labeled"], points["mean"], color=colour, marker="o", markersize=4, linewidth=2)
            axes.annotate(
                NAMES.get(method, method.removeprefix("softmax + ")),
                (points["n_labeled"].iloc[-1], points["mean"].iloc[-1]),
                xytext=(8, OFFSETS.get(method, -4)), textcoords="offset points", color=colour, annotation_clip=False,
            )  # fmt: skip
        axes.set_xlabel("labels", color=GREY)
        axes.set_ylabel("test accuracy", color=GREY)
        axes.set_xticks(sorted(curves["n_labeled"].unique()))
        axes.set_xlim(right=curves["n_labeled"].max() + 45)
        axes.tick_params(colors=GREY)
        axes.grid(axis="y", color=GREY, alpha=0.25)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(GREY)
        axes.patch.set_alpha(0)
        figure.savefig(file, transparent=True, metadata={"Date": None})
        pyplot.close(figure)


if __name__ == "__main__":
    al_ray.run(al_ray.load_study(STUDY), storage="results", tracking="off")
    curves = al_ray.results("results/quickstart").curves
    draw(curves[curves["setting"].str.contains("frozen")], Path(__file__).with_suffix(".svg"))
