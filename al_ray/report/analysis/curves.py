"""Learning curves, what a finished cell comes to, and labels saved against random queries."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.core.metrics import aulc, labels_to_reach, plateau_aulc, ramp_up_aulc, ramp_up_end
from al_ray.core.seeding import stream
from al_ray.report.analysis.results import Curve, LabelsSaved
from al_ray.report.read import StudyRecords
from al_ray.report.stats.bootstrap import LEVEL, Interval, deviation_weights, expanded_tail

LAST = 5
N_CURVE_RESAMPLES = 2000
MIN_SEEDS = 5
"""Seeds below which a mean gets no interval: of fewer there are too few resamples for its ends."""
RANDOMS_FINAL = "random's final accuracy"
SHARES_OF_BEST = (0.95, 0.9, 0.8, 0.7, 0.5)
MAX_UNREACHED = 0.05

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CurveGroup:
    """The learning curves of one method on one setting.

    Attributes:
        setting: name of the setting.
        method: name of the method.
        seeds: ``[n_seeds]``, ascending.
        n_labeled: numbers of labels that all of them have a point at ``[n_points]``, ascending.
        accuracy: ``[n_seeds, n_points]``.
        finished: whether the cells are done; otherwise they run, and the curves are as far as they are.
    """

    setting: str
    method: str
    seeds: Ints
    n_labeled: Ints
    accuracy: Floats
    finished: bool

    @property
    def mean(self) -> Floats:
        """Return the mean curve ``[n_points]``."""
        return np.asarray(self.accuracy.mean(axis=0))

    def of_seeds(self, seeds: Ints) -> Floats:
        """Return the curves of some seeds, in their order."""
        return self.accuracy[np.searchsorted(self.seeds, seeds)]


Groups = dict[tuple[str, str], CurveGroup]
CellCurve = tuple[Ints, Floats]
"""Labels and test accuracy of every fine-tuned round of a cell, ``[n_points]`` each.

Where the pool holds texts of no class, an answer that there is none counts as a label: it was asked for, and paid.
"""


def cell_curves(records: StudyRecords) -> dict[int, CellCurve]:
    """Return labels and test accuracy of every fine-tuned round ``[n_points]`` of every cell that has one."""
    rounds = records.rounds
    if rounds.empty:
        return {}
    kept = ["cell", "round_index", "n_labeled", "accuracy", *(["n_rejected"] if "n_rejected" in rounds else [])]
    rounds = rounds[kept].sort_values(["cell", "round_index"])
    cells, starts = np.unique(rounds["cell"].to_numpy(), return_index=True)
    spent = rounds["n_labeled"].to_numpy(dtype=np.int64)
    if "n_rejected" in rounds:
        spent = spent + rounds["n_rejected"].fillna(0).to_numpy(dtype=np.int64)
    n_labeled = np.split(spent, starts[1:])
    accuracy = np.split(rounds["accuracy"].to_numpy(dtype=np.float64), starts[1:])
    return dict(zip(cells.tolist(), zip(n_labeled, accuracy, strict=True), strict=True))


def ramp_up_ends(groups: Groups, reference: str | None) -> dict[str, int]:
    """Return where ramp-up ends in every setting, in labels: :func:`ramp_up_end` of random's finished mean curve."""
    ends = {
        group.setting: ramp_up_end(group.n_labeled, group.mean)
        for group in groups.values()
        if group.finished and group.method == reference
    }
    return {setting: end for setting, end in ends.items() if end is not None}


def score_cells(
    records: StudyRecords, curves: Mapping[int, CellCurve], ramp_up: Mapping[str, int] | None = None
) -> pd.DataFrame:
    """Return what every finished cell comes to; the index is that of ``records.cells``.

    Args:
        records: of the study.
        curves: of its cells.
        ramp_up: setting -> labels at which ramp-up ends; what it lacks has no ramp-up and no plateau.

    Returns:
        ``n_points, n_labeled``, ``final_accuracy`` after the last round, ``aulc`` and ``aulc_last5`` (mean accuracy of
        all points and of the last five, NaN where there are fewer; Gonsior et al. 2022, arXiv 2210.03005),
        ``ramp_up_aulc`` and ``plateau_aulc``, ``ece`` and ``brier`` of the confidence method after the last round, and
        the last value of every ``acquired.SLICE`` and ``chosen_by.STRATEGY``.
    """
    cells = [cell for cell in records.cells.index[records.cells["status"] == "done"] if cell in curves]
    found = [curves[cell] for cell in cells]
    is_passive = records.cells["role"].loc[cells] == "passive"
    settings = records.cells["setting"].loc[cells].where(~is_passive, "")
    ends = [(ramp_up or {}).get(setting) for setting in settings]
    scores = pd.DataFrame(
        {
            "n_points": [len(accuracy) for _, accuracy in found],
            "n_labeled": [n_labeled[-1] for n_labeled, _ in found],
            "final_accuracy": [accuracy[-1] for _, accuracy in found],
            "aulc": [aulc(accuracy) for _, accuracy in found],
            "aulc_last5": [aulc(accuracy[-LAST:]) if len(accuracy) >= LAST else math.nan for _, accuracy in found],
            **{
                name: [math.nan if end is None else area(*of, end) for of, end in zip(found, ends, strict=True)]
                for name, area in (("ramp_up_aulc", ramp_up_aulc), ("plateau_aulc", plateau_aulc))
            },
        },
        index=pd.Index(cells, dtype=np.int64),
    )
    rounds = records.rounds[records.rounds["cell"].isin(cells)].sort_values(["cell", "round_index"])
    last = rounds.groupby("cell").last()
    for name in ("ece", "brier"):
        own = last[f"own.{name}"] if f"own.{name}" in last else pd.Series(np.nan, index=last.index)
        scores[name] = own.fillna(last[name]) if name in last else own
    for name in [column for column in last if column.startswith(("acquired.", "chosen_by."))]:
        scores[name] = last[name]
    return scores


def group_curves(records: StudyRecords, curves: Mapping[int, CellCurve]) -> Groups:
    """Align the learning curves of every setting and method but the passive ones.

    Finished cells only; where a method has none yet, its running cells as far as all of them are.
    """
    cells = records.cells[(records.cells["role"] != "passive") & records.cells["status"].isin(["done", "running"])]
    cells = cells[cells.index.isin(curves.keys())]
    found: Groups = {}
    for (setting, method), members in cells.groupby(["setting", "method"], sort=False):
        done = members[members["status"] == "done"]
        kept = (members if done.empty else done).sort_values("seed")
        of_cells = [curves[cell] for cell in kept.index]
        group = align_curves(str(setting), str(method), kept["seed"].tolist(), of_cells, finished=not done.empty)
        if group is not None:
            found[str(setting), str(method)] = group
    return found


def align_curves(
    setting: str, method: str, seeds: Sequence[int], curves: Sequence[CellCurve], *, finished: bool
) -> CurveGroup | None:
    """Align the curves of some seeds, ascending, at the numbers of labels that all of them have; None without one."""
    # Where all answers of a round were withheld, two rounds have one number of labels: the later one counts.
    of_cells = [dict(zip(*(each.tolist() for each in curve), strict=True)) for curve in curves]
    common = sorted(set.intersection(*(set(curve) for curve in of_cells)))
    if not common:
        return None
    return CurveGroup(
        setting=setting,
        method=method,
        seeds=np.array(seeds, dtype=np.int64),
        n_labeled=np.array(common, dtype=np.int64),
        accuracy=np.array([[curve[n] for n in common] for curve in of_cells], dtype=np.float64),
        finished=finished,
    )


def mean_curves(groups: Groups) -> tuple[Curve, ...]:
    """Return the mean curves with bootstrap bands: the interval of the mean over seeds, point by point, from five."""
    return tuple(map(mean_curve, groups.values()))


def mean_curve(group: CurveGroup) -> Curve:
    """Return the mean curve of one method, likewise."""
    n_seeds = len(group.seeds)
    low = high = np.empty(0)
    if n_seeds >= MIN_SEEDS:
        low, high = resampled_interval(resampling_weights(n_seeds) @ group.accuracy, n_seeds)
    return Curve(
        setting=group.setting,
        method=group.method,
        n_labeled=tuple(group.n_labeled.tolist()),
        mean=tuple(group.mean.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        n_seeds=n_seeds,
        finished=group.finished,
    )


@functools.cache
def resampling_weights(n: int) -> Floats:
    """Return bootstrap resamples of ``n`` seeds as weights ``[N_CURVE_RESAMPLES, n]`` that sum to 1.

    Stretched as in :mod:`al_ray.report.stats.bootstrap`, so some are negative. The same weights serve every method, so
    that methods paired by seed stay paired, and every report of the same records.
    """
    return np.asarray((1 + deviation_weights(n, N_CURVE_RESAMPLES, stream(0, "report", "bootstrap", "seeds", n))) / n)


def resampled_interval(values: Floats, n: int) -> tuple[Floats, Floats]:
    """Return the ends of the expanded percentile interval of resampled values of ``n`` seeds.

    Args:
        values: ``[N_CURVE_RESAMPLES, ...]``; NaN are left out.
        n: seeds that were resampled.
    """
    tail = _tail(n)
    quantile = np.nanquantile if np.isnan(values).any() else np.quantile  # the plain one is much faster
    low, high = quantile(values, [tail, 1 - tail], axis=0)
    return low, high


@functools.cache
def _tail(n: int) -> float:
    return expanded_tail(LEVEL, n - 1)


def labels_saved(groups: Groups, reference: str | None) -> tuple[LabelsSaved, ...]:
    """Return what every method needs to reach every level of its setting.

    Levels are random's own final accuracy and 95, 90, 80, 70 and 50 % of the best accuracy that any mean curve of the
    setting reaches. A level that every mean curve has at its first point already tells nothing and is left out.

    Args:
        groups: aligned curves; those of unfinished cells are ignored.
        reference: name of the method that stands for random queries, None where the study has none.
    """
    finished = {key: group for key, group in groups.items() if group.finished}
    found: list[LabelsSaved] = []
    for setting in dict.fromkeys(setting for setting, _ in finished):
        members = [group for (name, _), group in finished.items() if name == setting]
        random = finished.get((setting, reference)) if reference else None
        best = max(float(group.mean.max()) for group in members)
        first = min(float(group.mean[0]) for group in members)
        levels = {f"{share:.0%} of the best accuracy".replace("%", " %"): share * best for share in SHARES_OF_BEST}
        informative = {label: level for label, level in levels.items() if level > first}
        for group in members:
            found += _of_method(group, random, informative)
    return tuple(found)


def _of_method(group: CurveGroup, random: CurveGroup | None, levels: Mapping[str, float]) -> Iterator[LabelsSaved]:
    if random is None:
        for label, level in levels.items():
            yield _saving(group, label, level, _needed(group.n_labeled, group.mean, level), None, None)
        return
    seeds = np.intersect1d(group.seeds, random.seeds)
    if not len(seeds):
        return
    mine, theirs = group.of_seeds(seeds), random.of_seeds(seeds)
    mean, baseline = mine.mean(axis=0), theirs.mean(axis=0)
    for label, level in {RANDOMS_FINAL: float(baseline[-1]), **levels}.items():
        interval = _interval(group, random, mine, theirs, None if label == RANDOMS_FINAL else level)
        needed, saved_of = _needed(group.n_labeled, mean, level), _needed(random.n_labeled, baseline, level)
        yield _saving(group, label, level, needed, saved_of, interval)


def _needed(n_labeled: Ints, curve: Floats, level: float) -> float | None:
    needed = labels_to_reach(n_labeled.tolist(), curve.tolist(), level)
    return None if math.isnan(needed) else needed


def _saving(
    group: CurveGroup, label: str, level: float, n_labels: float | None, of: float | None, interval: Interval | None
) -> LabelsSaved:
    return LabelsSaved(
        setting=group.setting,
        method=group.method,
        label=label,
        level=level,
        n_labels=n_labels,
        saved_of=of,
        labels_saved=None if n_labels is None or of is None else of - n_labels,
        interval=interval,
    )


def _interval(
    group: CurveGroup, random: CurveGroup, mine: Floats, theirs: Floats, level: float | None
) -> Interval | None:
    """Resample the shared seeds, both methods alike; ``level`` None = random's final accuracy in each resample.

    No interval where more than 5 % of the resamples never reach the level: what is left would flatter.
    """
    n_seeds = len(mine)
    if n_seeds < MIN_SEEDS or group is random:
        return None
    weights = resampling_weights(n_seeds)
    ours, baseline = weights @ mine, weights @ theirs
    levels = baseline[:, -1] if level is None else np.full(len(weights), level)
    saved = reach_all(random.n_labeled, baseline, levels) - reach_all(group.n_labeled, ours, levels)
    if np.isnan(saved).mean() > MAX_UNREACHED:
        return None
    low, high = resampled_interval(saved, n_seeds)
    return Interval(low=float(low), high=float(high), level=LEVEL, resampled="within strata")


def reach_all(n_labeled: npt.NDArray[np.int64], curves: Floats, levels: Floats) -> Floats:
    """Return :func:`labels_to_reach` for many curves at once.

    Args:
        n_labeled: ``[n_points]``.
        curves: ``[n_curves, n_points]``.
        levels: one for each curve ``[n_curves]``.
    """
    reached = curves >= levels[:, None]
    at = reached.argmax(axis=1)
    rows = np.arange(len(curves))
    before = np.maximum(at - 1, 0)
    step = curves[rows, at] - curves[rows, before]
    share = np.divide(levels - curves[rows, before], step, out=np.zeros(len(curves)), where=at > 0)
    labels = n_labeled[before] + share * (n_labeled[at] - n_labeled[before])
    return np.where(reached.any(axis=1), np.where(at == 0, float(n_labeled[0]), labels), np.nan)
