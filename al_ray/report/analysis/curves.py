"""Learning curves, what a finished cell comes to, and labels saved against random queries."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.core.metrics import labels_to_reach
from al_ray.core.seeding import stream
from al_ray.report.read import StudyRecords
from al_ray.report.stats.bootstrap import deviation_weights, expanded_tail

LAST = 5
N_RESAMPLES = 2000
LEVEL = 0.95
MIN_SEEDS = 5
"""Seeds below which a mean gets no interval: of fewer there are too few resamples for its ends."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CurveGroup:
    """The learning curves of one method on one setting.

    Attributes:
        setting: name of the setting.
        method: name of the method.
        cells: of each curve ``[n_seeds]``.
        seeds: ``[n_seeds]``, ascending.
        n_labeled: numbers of labels that all of them have a point at ``[n_points]``, ascending.
        accuracy: ``[n_seeds, n_points]``.
        finished: whether the cells are done; otherwise they run, and the curves are as far as they are.
    """

    setting: str
    method: str
    cells: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    n_labeled: npt.NDArray[np.int64]
    accuracy: Floats
    finished: bool

    @property
    def mean(self) -> Floats:
        """Return the mean curve ``[n_points]``."""
        return np.asarray(self.accuracy.mean(axis=0))

    def of_seeds(self, seeds: npt.NDArray[np.int64]) -> Floats:
        """Return the curves of some seeds, in their order."""
        return self.accuracy[np.searchsorted(self.seeds, seeds)]


Groups = dict[tuple[str, str], CurveGroup]


def score_cells(records: StudyRecords) -> pd.DataFrame:
    """Return what every finished cell comes to; rows and index are those of ``records.cells``.

    Returns:
        ``setting, method, role, base_method, seed``, ``n_points, n_labeled``, ``accuracy`` after the last round,
        ``aulc`` and ``aulc_last5`` (mean accuracy of all points and of the last five, NaN where there are fewer;
        Gonsior et al. 2022, arXiv 2210.03005), ``ece`` and ``brier`` of the confidence method after the last round,
        and the last value of every ``acquired.SLICE``.
    """
    cells = records.cells[records.cells["status"] == "done"]
    rounds = records.rounds[records.rounds["cell"].isin(cells.index)].sort_values(["cell", "round_index"])
    by_cell = rounds.groupby("cell")
    last = by_cell.last()
    tail = rounds.groupby("cell").tail(LAST).groupby("cell")["accuracy"] if len(rounds) else None
    scores = cells[["setting", "method", "role", "base_method", "filters", "clipping", "seed"]].copy()
    scores["n_points"] = by_cell.size()
    scores["n_labeled"] = last["n_labeled"]
    scores["accuracy"] = last.get("accuracy")
    scores["aulc"] = by_cell["accuracy"].mean() if len(rounds) else None
    scores["aulc_last5"] = tail.mean().where(tail.size() >= LAST) if tail is not None else None
    for name in ("ece", "brier"):
        own = last[f"own.{name}"] if f"own.{name}" in last else pd.Series(np.nan, index=last.index)
        scores[name] = own.fillna(last[name]) if name in last else own
    for name in [column for column in last if column.startswith("acquired.")]:
        scores[name] = last[name]
    return scores[scores["n_points"].fillna(0) > 0]


def group_curves(records: StudyRecords) -> Groups:
    """Align the learning curves of every setting and method but the passive ones.

    Finished cells only; where a method has none yet, its running cells as far as all of them are.
    """
    cells = records.cells[(records.cells["role"] != "passive") & records.cells["status"].isin(["done", "running"])]
    rounds = records.rounds[["cell", "n_labeled", "accuracy"]] if "accuracy" in records.rounds else records.rounds
    curves = dict(iter(rounds.groupby("cell")))
    found: Groups = {}
    for (setting, method), members in cells.groupby(["setting", "method"], sort=False):
        done = members[members["status"] == "done"]
        group = _aligned(str(setting), str(method), members if done.empty else done, curves, finished=not done.empty)
        if group is not None:
            found[str(setting), str(method)] = group
    return found


def curve_table(groups: Groups) -> pd.DataFrame:
    """Return the mean curves with bootstrap bands: ``setting, method, n_labeled, mean, low, high, n_seeds, finished``.

    A band is the bootstrap interval of the mean over seeds, point by point; NaN below five seeds.
    """
    rows = [row for group in groups.values() for row in _curve_rows(group)]
    columns = ["setting", "method", "n_labeled", "mean", "low", "high", "n_seeds", "finished"]
    return pd.DataFrame(rows, columns=columns)


@functools.cache
def resampling_weights(n: int) -> Floats:
    """Return bootstrap resamples of ``n`` seeds as weights ``[N_RESAMPLES, n]`` that sum to 1.

    Stretched as in :mod:`al_ray.report.stats.bootstrap`, so some are negative. The same weights serve every method, so
    that methods paired by seed stay paired, and every report of the same records.
    """
    return np.asarray((1 + deviation_weights(n, N_RESAMPLES, stream(0, "report", "bootstrap", "seeds", n))) / n)


def resampled_interval(values: Floats, n: int) -> tuple[Floats, Floats]:
    """Return the ends of the expanded percentile interval of resampled values of ``n`` seeds.

    Args:
        values: ``[N_RESAMPLES, ...]``; NaN are left out.
        n: seeds that were resampled.
    """
    tail = _tail(n)
    quantile = np.nanquantile if np.isnan(values).any() else np.quantile  # the plain one is much faster
    low, high = quantile(values, [tail, 1 - tail], axis=0)
    return low, high


@functools.cache
def _tail(n: int) -> float:
    return expanded_tail(LEVEL, n - 1)


def _aligned(
    setting: str, method: str, members: pd.DataFrame, curves: dict[int, pd.DataFrame], *, finished: bool
) -> CurveGroup | None:
    members = members[members.index.isin(curves.keys())].sort_values("seed")
    if members.empty:
        return None
    of_cells = [curves[cell] for cell in members.index]
    common = of_cells[0]["n_labeled"].to_numpy()
    for curve in of_cells[1:]:
        common = np.intersect1d(common, curve["n_labeled"].to_numpy())
    if not len(common):
        return None
    accuracy = [c["accuracy"].to_numpy()[np.isin(c["n_labeled"].to_numpy(), common)] for c in of_cells]
    return CurveGroup(
        setting=setting,
        method=method,
        cells=members.index.to_numpy(dtype=np.int64),
        seeds=members["seed"].to_numpy(dtype=np.int64),
        n_labeled=np.sort(common).astype(np.int64),
        accuracy=np.stack(accuracy).astype(np.float64),
        finished=finished,
    )


def _curve_rows(group: CurveGroup) -> Iterator[tuple[str, str, int, float, float, float, int, bool]]:
    n_seeds = len(group.seeds)
    means = group.mean
    low = high = np.full(len(group.n_labeled), np.nan)
    if n_seeds >= MIN_SEEDS:
        low, high = resampled_interval(resampling_weights(n_seeds) @ group.accuracy, n_seeds)
    for at, n_labeled in enumerate(group.n_labeled):
        ends = float(low[at]), float(high[at])
        yield (group.setting, group.method, int(n_labeled), float(means[at]), *ends, n_seeds, group.finished)


RANDOMS_FINAL = "random's final accuracy"
SHARES_OF_BEST = (0.95, 0.9, 0.8, 0.7, 0.5)
MAX_UNREACHED = 0.05


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What one method needs to reach one level on one setting, on the mean curves over the seeds it shares with random.

    Attributes:
        label: what the level is called.
        level: the accuracy.
        n_labels: labels that the method needs, NaN where it never gets there.
        saved_of: labels that random needs, NaN likewise and where no seed is shared.
        saved: ``saved_of - n_labels``.
        low: lower end of the bootstrap interval of ``saved`` over seeds, NaN where there is none.
        high: upper end.
    """

    setting: str
    method: str
    label: str
    level: float
    n_labels: float
    saved_of: float
    saved: float
    low: float
    high: float


def savings_table(groups: Groups, reference: str | None) -> pd.DataFrame:
    """Return one row for every setting, method and level.

    Levels are random's own final accuracy and 95, 90, 80, 70 and 50 % of the best accuracy that any mean curve of the
    setting reaches. A level that every mean curve has at its first point already tells nothing and is left out.

    Args:
        groups: aligned curves; those of unfinished cells are ignored.
        reference: name of the method that stands for random queries, None where the study has none.
    """
    finished = {key: group for key, group in groups.items() if group.finished}
    settings = dict.fromkeys(setting for setting, _ in finished)
    rows = [asdict(row) for setting in settings for row in _of_setting(setting, finished, reference)]
    return pd.DataFrame(rows, columns=list(Saving.__dataclass_fields__))


def _of_setting(setting: str, groups: Groups, reference: str | None) -> Iterator[Saving]:
    members = [group for (name, _), group in groups.items() if name == setting]
    random = groups.get((setting, reference)) if reference else None
    best = max(float(group.mean.max()) for group in members)
    first = min(float(group.mean[0]) for group in members)
    levels = {f"{share:.0%} of the best accuracy".replace("%", " %"): share * best for share in SHARES_OF_BEST}
    informative = {label: level for label, level in levels.items() if level > first}
    for group in members:
        yield from _of_method(group, random, informative)


def _of_method(group: CurveGroup, random: CurveGroup | None, levels: Mapping[str, float]) -> Iterator[Saving]:
    if random is None:
        for label, level in levels.items():
            alone = labels_to_reach(group.n_labeled.tolist(), group.mean.tolist(), level)
            yield _saving(group, label, level, alone, np.nan, None)
        return
    seeds = np.intersect1d(group.seeds, random.seeds)
    if not len(seeds):
        return
    mine, theirs = group.of_seeds(seeds), random.of_seeds(seeds)
    final = float(theirs.mean(axis=0)[-1])
    for label, level in {RANDOMS_FINAL: final, **levels}.items():
        needed = [
            labels_to_reach(each.n_labeled.tolist(), curves.mean(axis=0).tolist(), level)
            for each, curves in ((group, mine), (random, theirs))
        ]
        interval = _interval(group, random, mine, theirs, None if label == RANDOMS_FINAL else level)
        yield _saving(group, label, level, needed[0], needed[1], interval)


def _saving(
    group: CurveGroup, label: str, level: float, mine: float, random: float, interval: tuple[float, float] | None
) -> Saving:
    low, high = interval or (np.nan, np.nan)
    return Saving(
        setting=group.setting,
        method=group.method,
        label=label,
        level=level,
        n_labels=mine,
        saved_of=random,
        saved=random - mine,
        low=low,
        high=high,
    )


def _interval(
    group: CurveGroup, random: CurveGroup, mine: Floats, theirs: Floats, level: float | None
) -> tuple[float, float] | None:
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
    return float(low), float(high)


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
