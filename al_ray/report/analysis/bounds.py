"""How far methods go from random queries to an upper bound, which saw all labels and the test split."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from al_ray.report.analysis.curves import MIN_SEEDS, resampled_interval, resampling_weights
from al_ray.report.analysis.results import METRIC, Gap
from al_ray.report.stats.bootstrap import LEVEL, Interval


def gaps_to_bounds(scores: pd.DataFrame, bounds: pd.DataFrame, reference: str | None) -> tuple[Gap, ...]:
    """Return which share of the way from random queries to each bound each method goes, by setting.

    Args:
        scores: finished cells of methods, random among them: ``setting, method, seed`` and the metric.
        bounds: the same of finished upper bounds.
        reference: name of the method that stands for random queries, None without one.
    """
    found: list[Gap] = []
    for setting, of_bounds in bounds.groupby("setting", sort=False):
        both = pd.concat([scores[scores["setting"] == setting], of_bounds])
        values = both.pivot_table(index="seed", columns="method", values=METRIC, sort=False)
        for bound in of_bounds["method"].unique() if reference in values else ():
            found += _gaps(str(setting), values, str(bound), str(reference), set(of_bounds["method"]))
    return tuple(sorted(found, key=lambda gap: -gap.accuracy))


def _gaps(setting: str, values: pd.DataFrame, bound: str, random: str, bounds: set[str]) -> Iterator[Gap]:
    for method in map(str, values.columns):
        if method == random or method in bounds:
            continue
        shared = values[[random, method, bound]].dropna().to_numpy(dtype=np.float64)
        if not len(shared):
            continue
        low, mine, high = shared.mean(axis=0).tolist()
        yield Gap(
            setting=setting,
            method=method,
            bound=bound,
            n_seeds=len(shared),
            random=low,
            accuracy=mine,
            bound_accuracy=high,
            share=(mine - low) / (high - low) if high > low else None,
            interval=_interval(shared),
        )


def _interval(shared: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Interval | None:
    """Resample the seeds, all three alike; None of few seeds, and where in some resample the bound is not above."""
    if len(shared) < MIN_SEEDS:
        return None
    low, mine, high = (resampling_weights(len(shared)) @ shared).T
    if (high <= low).any():
        return None
    ends = resampled_interval((mine - low) / (high - low), len(shared))
    return Interval(low=float(ends[0]), high=float(ends[1]), level=LEVEL, resampled="within strata")
