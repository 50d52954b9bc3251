"""What rankings and paired comparisons of a study's finished cells are made from."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from al_ray.report.comparison import Comparisons, PairedComparison, Settings
from al_ray.report.content import Comparison, Estimate, Interval, Metric
from al_ray.report.power import seeds_for_observed

METRIC: Metric = "aulc"
SETTINGS = Settings()
EFFECT = "rank-biserial r"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the rankings are made from.

    Attributes:
        scores: of the finished cells (:func:`al_ray.report.curves.score_cells`).
        cells: all cells of the study.
        savings: labels saved (:func:`al_ray.report.savings.savings_table`).
        reference: name of the method that stands for random queries, None without one.
    """

    scores: pd.DataFrame
    cells: pd.DataFrame
    savings: pd.DataFrame
    reference: str | None

    @property
    def queried(self) -> pd.DataFrame:
        """Return the scores of all cells but passive ones."""
        return self.scores[self.scores["role"] != "passive"]

    @functools.cached_property
    def passives(self) -> dict[str, Estimate]:
        """Return the accuracy of the models that were trained on all labels, for the settings that have some."""
        members = self.scores[self.scores["role"] == "passive"].groupby("setting", sort=False)["accuracy"]
        found = {str(setting): estimate(accuracy, None) for setting, accuracy in members}
        return {setting: one for setting, one in found.items() if one is not None}


def estimate(values: pd.Series, interval: Interval | None) -> Estimate | None:
    """Return the mean of what is known of some values, None where nothing is."""
    there = values.dropna().to_numpy(dtype=np.float64)
    if not len(there):
        return None
    std = float(there.std(ddof=1)) if len(there) > 1 else None
    return Estimate(mean=float(there.mean()), n=len(there), std=std, interval=interval)


def block_matrix(part: pd.DataFrame, column: str) -> tuple[pd.DataFrame, list[str]]:
    """Return one value a block (setting, seed) and method, and the setting of each block."""
    values = part.pivot_table(index=["setting", "seed"], columns="method", values=column, sort=False, aggfunc="mean")
    return values, [str(setting) for setting, _ in values.index]


def to_comparison(one: PairedComparison, family: Comparisons) -> Comparison:
    """Return a comparison as the page shows it."""
    needed = seeds_for_observed(one, alpha=family.alpha, n_tests=family.n_tests)
    return Comparison(
        method=one.method,
        against=one.other,
        metric=METRIC,
        n_pairs=one.n_pairs,
        difference=one.mean_difference,
        interval=to_interval(one.low, one.high, family.level),
        p_value=one.p_value,
        p_holm=one.p_holm,
        refusal=one.reason,
        effect_size=None if one.p_value is None else known(one.rank_biserial),
        effect_name=EFFECT,
        wins=one.wins,
        ties=one.ties,
        losses=one.losses,
        more_seeds=needed.more_seeds,
    )


def to_interval(low: float, high: float, level: float) -> Interval | None:
    """Return an interval, None where its ends are NaN."""
    return None if math.isnan(low) or math.isnan(high) else Interval(low=float(low), high=float(high), level=level)


def known(value: float) -> float | None:
    """Return a number, None for NaN."""
    return None if math.isnan(value) else float(value)
