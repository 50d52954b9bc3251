"""Labels saved against random queries at fixed accuracy levels."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.core.metrics import labels_to_reach
from al_ray.report.curves import MIN_SEEDS, CurveGroup, Floats, Groups, resampled_interval, resampling_weights

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
