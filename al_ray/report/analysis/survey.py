"""Whether the ranking of methods survives another query size, start, learner or data set, and where methods cross."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from al_ray.core.seeding import stream
from al_ray.report.analysis.comparing import largest_block
from al_ray.report.analysis.curves import MIN_SEEDS, Floats, Groups, Ints, resampled_interval, resampling_weights
from al_ray.report.analysis.results import METRIC, Agreement, Crossing
from al_ray.report.stats.bootstrap import LEVEL, Interval
from al_ray.report.stats.ranks import kendall_tau_b

METRICS = (METRIC, "final_accuracy", "ramp_up_aulc", "plateau_aulc")
MIN_METHODS = 3
"""Methods below which two leaderboards are not compared: the order of two is the same or it is not."""
MIN_HALVED_SEEDS = 4
N_HALVES = 20
ENOUGH = 0.95
"""Share of the resamples that must say the same of a crossing before it is said."""
MARGIN = 0.1
"""A change of an axis that costs less tau-b than this, beside what other seeds cost, leaves the ranking as it is."""
LEAST_ORDER = 1 / 3
"""Tau-b between halves of the seeds, two thirds of the pairs of methods, below which there is no order to survive."""
SEED = "seed"
INITIAL_SIZE = "initial_size"
_ROUNDS = "rounds"
_TOO_SMALL = 1e-12
_BRING_ROUNDS = (INITIAL_SIZE, "query_size")

Axes = Mapping[str, Mapping[str, str]]
Over = Literal["initial_size", "n_labeled"]


def varied_axes(axes: Axes) -> list[str]:
    """Return the axes on which the settings of a study differ."""
    names = dict.fromkeys(name for values in axes.values() for name in values)
    return [name for name in names if len({values.get(name) for values in axes.values()}) > 1]


def agreements(axes: Axes, scores: pd.DataFrame) -> tuple[Agreement, ...]:
    """Compare the leaderboards of all settings between which one axis has changed, and those of single seeds.

    Gonsior et al. 2025 (arXiv 2506.03817) compare leaderboards under one changed hyperparameter by Kendall's tau-b.
    Deviation: they fill missing cells with 0; here methods and seeds that one side lacks are left out on both.

    Args:
        axes: of the settings.
        scores: of the finished cells but passive ones (:class:`~al_ray.report.analysis.comparing.Finished`).
    """
    boards = {str(setting): _boards(part) for setting, part in scores.groupby("setting", sort=False)}
    known = {setting: values for setting, values in axes.items() if setting in boards}
    return (*_between_settings(known, boards), *_between_seeds(known, boards))


def _boards(part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return one table a metric: seeds by methods."""
    return {
        metric: part.pivot_table(index=SEED, columns="method", values=metric, sort=False, aggfunc="mean").dropna(
            axis=1, how="all"
        )
        for metric in METRICS
        if metric in part and part[metric].notna().any()
    }


def _between_settings(axes: Axes, boards: Mapping[str, Mapping[str, pd.DataFrame]]) -> Iterator[Agreement]:
    varied = varied_axes(axes)
    for axis in varied:
        for held, members in held_groups(axes, axis, varied).items():
            ordered = sorted(members, key=lambda setting: _by_size(axes[setting].get(axis, "")))
            for one, other in itertools.combinations(ordered, 2):
                values = axes[one].get(axis, ""), axes[other].get(axis, "")
                if values[0] == values[1]:
                    continue  # their rounds differ alone
                for metric in METRICS:
                    if metric in boards[one] and metric in boards[other]:
                        yield from _agreement(axis, values, held, metric, boards[one][metric], boards[other][metric])


def _by_size(value: str) -> tuple[bool, float, str]:
    """Return what orders the values of an axis: numbers by size, then texts."""
    is_number = value.replace(".", "", 1).isdigit()
    return not is_number, float(value) if is_number else 0.0, value


def held_groups(axes: Axes, axis: str, varied: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings that differ in one axis at most, by what they share, in words.

    With another size of the query, or of the first one, come other rounds, so these are not held then; and no size of
    the query either where every initial size has its own.
    """
    brings = (axis, _ROUNDS) if axis in _BRING_ROUNDS else (axis,)
    groups = _groups(axes, [name for name in varied if name not in brings])
    if axis == INITIAL_SIZE and len(groups) == len(axes):
        return _groups(axes, [name for name in varied if name not in (*brings, *_BRING_ROUNDS)])
    return groups


def _groups(axes: Axes, others: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for setting, values in axes.items():
        said = (f"{name}={values[name]}" if name not in _PLAIN else values[name] for name in others if name in values)
        groups.setdefault(" · ".join(said), []).append(setting)
    return groups


_PLAIN = ("data set", "model", "learner")


def _agreement(
    axis: str, values: tuple[str, str], held: str, metric: str, mine: pd.DataFrame, theirs: pd.DataFrame
) -> Iterator[Agreement]:
    mine, theirs = mine.align(theirs, join="inner")
    seeds, methods = largest_block(mine.notna() & theirs.notna())
    if len(methods) < MIN_METHODS or not seeds:
        return
    here, there = (table.loc[seeds, methods].to_numpy(np.float64) for table in (mine, theirs))
    tau = float(kendall_tau_b(here.mean(axis=0), there.mean(axis=0)))
    if math.isnan(tau):
        return
    across, same = _halves(here, there)
    yield Agreement(
        axis=axis,
        value=values[0],
        other=values[1],
        held=held,
        metric=metric,
        n_methods=len(methods),
        n_seeds=len(seeds),
        tau=tau,
        p_value=_p_value(here.mean(axis=0), there.mean(axis=0)),
        tau_halves=across,
        tau_same=same,
    )


def _p_value(mine: Floats, theirs: Floats) -> float | None:
    from scipy.stats import kendalltau

    p = float(kendalltau(np.round(mine, 12), np.round(theirs, 12)).pvalue)
    return None if math.isnan(p) else p


def _halves(here: Floats, there: Floats) -> tuple[float | None, float | None]:
    """Return tau-b of random halves of the seeds: with the axis changed, and with both halves on one side.

    Args:
        here: ``[n_seeds, n_methods]``.
        there: of the same seeds and methods.
    """
    n_seeds = len(here)
    if n_seeds < MIN_HALVED_SEEDS:
        return None, None
    rng = stream(0, "report", "halves", n_seeds)
    orders = np.stack([rng.permutation(n_seeds) for _ in range(N_HALVES)])
    first, second = orders[:, : n_seeds // 2], orders[:, n_seeds // 2 : n_seeds // 2 * 2]
    a, b = here[first].mean(axis=1), here[second].mean(axis=1)  # [n_halves, n_methods]
    c, d = there[first].mean(axis=1), there[second].mean(axis=1)
    return _mean(kendall_tau_b(a, d), kendall_tau_b(b, c)), _mean(kendall_tau_b(a, b), kendall_tau_b(c, d))


def _mean(*taus: Floats) -> float | None:
    known = np.concatenate(taus)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else None


def _between_seeds(axes: Axes, boards: Mapping[str, Mapping[str, pd.DataFrame]]) -> Iterator[Agreement]:
    varied = varied_axes(axes)
    groups = held_groups(axes, SEED, varied)
    for held, (setting, *_) in groups.items():
        for metric, table in boards[setting].items():
            seeds, methods = largest_block(table.notna())
            if len(methods) < MIN_METHODS or len(seeds) < 2:
                continue
            values = table.loc[seeds, methods].to_numpy(np.float64)
            left, right = np.triu_indices(len(seeds), 1)
            tau = _mean(kendall_tau_b(values[left], values[right]))
            if tau is not None:
                yield Agreement(
                    axis=SEED,
                    value="one",
                    other="another",
                    held=held,
                    metric=metric,
                    n_methods=len(methods),
                    n_seeds=len(seeds),
                    tau=tau,
                    p_value=None,
                    tau_halves=None,
                    tau_same=None,
                )


@dataclass(frozen=True, kw_only=True)
class AxisSummary:
    """What a change of one axis does to the order of the methods, over all pairs of its values and all that is held.

    Attributes:
        axis: its name.
        taus: metric -> tau-b of every comparison; by :data:`METRIC` there is one at least.
        n_comparisons: pairs of settings, or of seeds, that are in it by :data:`METRIC`.
        n_methods: fewest and most methods that were compared.
        tau_halves: mean of :attr:`Agreement.tau_halves` by :data:`METRIC`, None where unknown.
        tau_same: mean of :attr:`Agreement.tau_same`, likewise.
    """

    axis: str
    taus: Mapping[str, tuple[float, ...]]
    n_comparisons: int
    n_methods: tuple[int, int]
    tau_halves: float | None
    tau_same: float | None

    def mean(self, metric: str) -> float | None:
        """Return the mean tau-b by one metric, None where nothing was compared by it."""
        found = self.taus.get(metric, ())
        return float(np.mean(found)) if found else None

    @property
    def tau(self) -> float:
        """The mean tau-b by :data:`METRIC`."""
        return float(np.mean(self.taus[METRIC]))

    @property
    def has_order(self) -> bool | None:
        """Whether other seeds alone leave an order of the methods (:data:`LEAST_ORDER`), None where unknown."""
        return None if self.tau_same is None else self.tau_same >= LEAST_ORDER

    @property
    def survives(self) -> bool | None:
        """Whether the order changes no more than by other seeds alone, but for :data:`MARGIN`; None where unknown."""
        if self.tau_halves is None or self.tau_same is None or not self.has_order:
            return None
        return self.tau_halves >= self.tau_same - MARGIN


def summarise(found: Sequence[Agreement]) -> list[AxisSummary]:
    """Return what each axis does, in their order; nothing of one on which :data:`METRIC` told no methods apart."""
    summaries = []
    for axis in dict.fromkeys(one.axis for one in found if one.metric == METRIC):
        of_axis = [one for one in found if one.axis == axis]
        by_metric = [one for one in of_axis if one.metric == METRIC]
        ranked = [one for one in by_metric if one.tau_halves is not None]
        summaries.append(
            AxisSummary(
                axis=axis,
                taus={metric: tuple(one.tau for one in of_axis if one.metric == metric) for metric in METRICS},
                n_comparisons=sum(math.comb(one.n_seeds, 2) if axis == SEED else 1 for one in by_metric),
                n_methods=(min(one.n_methods for one in of_axis), max(one.n_methods for one in of_axis)),
                tau_halves=_mean(np.array([one.tau_halves for one in ranked], dtype=np.float64)),
                tau_same=_mean(np.array([one.tau_same for one in ranked], dtype=np.float64)),
            )
        )
    return summaries


@dataclass(frozen=True, kw_only=True)
class _Series:
    """What one method comes to at growing numbers of labels: ``[n_points]``, and ``[n_seeds, n_points]``."""

    n_labels: Ints
    seeds: Ints
    values: Floats


def crossings(axes: Axes, scores: pd.DataFrame, groups: Groups) -> tuple[Crossing, ...]:
    """Say of every pair of methods where one overtakes the other: over initial sizes, and along learning curves.

    Args:
        axes: of the settings.
        scores: of the finished cells but passive ones.
        groups: their aligned learning curves.
    """
    found: list[Crossing] = []
    for held, of_method in _over_initial_sizes(axes, scores).items():
        found += _of_pairs("initial_size", held, of_method)
    by_setting: dict[str, dict[str, _Series]] = {}
    for (setting, method), group in groups.items():
        if group.finished:
            series = _Series(n_labels=group.n_labeled, seeds=group.seeds, values=group.accuracy)
            by_setting.setdefault(setting, {})[method] = series
    for setting, of_method in by_setting.items():
        found += _of_pairs("n_labeled", setting, of_method)
    return tuple(found)


def _over_initial_sizes(axes: Axes, scores: pd.DataFrame) -> dict[str, dict[str, _Series]]:
    """Return the areas of every method by initial size, by what is held beside."""
    known = {setting: values for setting, values in axes.items() if INITIAL_SIZE in values}
    varied = varied_axes(known)
    found: dict[str, dict[str, _Series]] = {}
    for held, members in held_groups(known, INITIAL_SIZE, varied).items():
        sizes = {setting: int(known[setting][INITIAL_SIZE]) for setting in members}
        if len(set(sizes.values())) < len(members) or len(members) < 2:
            continue
        part = scores[scores["setting"].isin(members)]
        part = part.assign(initial_size=part["setting"].map(sizes))
        for method, cells in part.groupby("method", sort=False):
            table = cells.pivot_table(index=SEED, columns=INITIAL_SIZE, values=METRIC, aggfunc="mean").dropna()
            found.setdefault(held, {})[str(method)] = _Series(
                n_labels=table.columns.to_numpy(np.int64),
                seeds=table.index.to_numpy(np.int64),
                values=table.to_numpy(np.float64),
            )
    return found


def _of_pairs(over: Over, where: str, of_method: Mapping[str, _Series]) -> Iterator[Crossing]:
    for (mine, one), (theirs, other) in itertools.combinations(of_method.items(), 2):
        seeds, a, b = np.intersect1d(one.seeds, other.seeds, return_indices=True)
        n_labels, at, there = np.intersect1d(one.n_labels, other.n_labels, return_indices=True)
        if len(seeds) >= MIN_SEEDS and len(n_labels) > 1:
            lead = one.values[np.ix_(a, at)] - other.values[np.ix_(b, there)]
            yield find_crossing(lead, n_labels, (mine, theirs), over, where)


def find_crossing(lead: Floats, n_labels: Ints, methods: tuple[str, str], over: Over, where: str) -> Crossing:
    """Find the number of labels that best parts a curve of leads into one method ahead and then the other.

    Of all cuts, and both directions, the one with the largest sum of leads of the one before and of the other after;
    a cut before the first or after the last point is no crossing. Unlike the first change of sign it is not moved by
    single points of noise. The seeds are resampled as for learning curves.

    Args:
        lead: of the first method over the second ``[n_seeds, n_points]``.
        n_labels: ``[n_points]``, rising.
        methods: their names.
        over: see :class:`Crossing`.
        where: likewise.
    """
    n_seeds, n_points = lead.shape
    cuts, directions = _best_cuts(np.vstack([lead.mean(axis=0), resampling_weights(n_seeds) @ lead]))
    crosses = (cuts > 0) & (cuts < n_points)
    agree = (crosses[1:] == crosses[0]) & (directions[1:] == directions[0])
    share, interval = float(agree.mean()), None
    if crosses[0] and share >= ENOUGH:
        low, high = resampled_interval(n_labels[cuts[1:][agree]].astype(np.float64), n_seeds)
        interval = Interval(low=float(low), high=float(high), level=LEVEL, resampled="within strata")
    first, then = methods if directions[0] > 0 else methods[::-1]
    return Crossing(
        over=over,
        where=where,
        first=first,
        then=then,
        n_labels=int(n_labels[cuts[0]]) if crosses[0] else None,
        interval=interval,
        share=share,
        is_shown=share >= ENOUGH,
        n_seeds=n_seeds,
    )


def _best_cuts(leads: Floats) -> tuple[Ints, Floats]:
    """Return for every curve of leads the points before the best cut, and who is ahead at first: 1 the first method.

    Args:
        leads: ``[n_curves, n_points]``.

    Returns:
        ``[n_curves]`` each. A curve without a cut is wholly before it: its cut is n_points.
    """
    before = np.cumsum(leads, axis=1)  # cuts after 1 ... n_points points; one before the first is its mirror image
    gains = 2 * before - before[:, -1:]
    # Where all start from one initial query the first lead is 0: a cut there is no better than none, and is none.
    parted = np.abs(gains) - _TOO_SMALL
    parted[:, -1] += 2 * _TOO_SMALL
    cuts = parted.argmax(axis=1)
    return cuts + 1, np.where(gains[np.arange(len(leads)), cuts] >= 0, 1.0, -1.0)
