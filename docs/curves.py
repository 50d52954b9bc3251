"""Draw docs/curves.svg from a real run: ``python docs/curves.py``; some minutes on two cores, records in results/."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot, rc_context

import al_ray

STUDY: dict[str, Any] = {
    "study": "first-study",
    "description": "Margin against random queries on the built-in support tickets, three seeds.",
    "defaults": {
        "dataset": {"name": "tickets", "n_train": 900, "n_test": 400},
        "model": "minilm",
        "precision": "float32",
        "rounds": 6,
        "finetune": {
            "learning_rate": 1e-4,
            "epochs": 6,
            "batch_size": 16,
            "schedule": "linear",
            "warmup_fraction": 0.1,
            "validation_fraction": 0.0,
        },
    },
    "grid": [{"strategy": ["random", "margin"], "seed": {"range": [42, 45]}}],
}
# One picture for light and dark pages: no background, and colours in the middle between black and white.
GREY = "#7d8590"
COLOURS = {"softmax + random": "#a0764a", "softmax + margin": "#2f81f7"}


def draw(curves: pd.DataFrame, file: Path) -> None:
    """Draw the mean learning curves; each line is named at its end."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "al_ray", "font.family": "sans-serif", "font.size": 11}):
        figure, axes = pyplot.subplots(figsize=(6.6, 3.2), layout="constrained")
        for method, colour in COLOURS.items():
            points = curves[curves["method"] == method].sort_values("n_labeled")
            axes.plot(points["n_labeled"], points["mean"], color=colour, marker="o", markersize=4, linewidth=2)
            axes.annotate(
                method.removeprefix("softmax + "),
                (points["n_labeled"].iloc[-1], points["mean"].iloc[-1]),
                xytext=(8, -4), textcoords="offset points", color=colour, annotation_clip=False,
            )  # fmt: skip
        axes.set_xlabel("labels", color=GREY)
        axes.set_ylabel("test accuracy", color=GREY)
        axes.set_xticks(sorted(curves["n_labeled"].unique()))
        axes.set_xlim(right=curves["n_labeled"].max() + 22)
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
    draw(al_ray.results("results/first-study").curves, Path(__file__).with_suffix(".svg"))
