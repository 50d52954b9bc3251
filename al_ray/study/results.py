"""What the finished cells of a study come to, method by method; read from the records alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from al_ray.core.metrics import area_under_curve, group_shares, labels_to_reach
from al_ray.core.types import RoundRecord
from al_ray.records.cell import CellStore
from al_ray.study.names import JOIN, CellNames
from al_ray.study.spec import CellSpec


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The learning curve of one finished cell.

    Attributes:
        method: confidence, strategy and filters, and what else tells its cells apart.
        variant: that last part of ``method`` alone; empty where nothing else varies.
        n_labeled: ``[n_points]``.
        accuracy: test accuracy at each of them ``[n_points]``.
        acquired: share of each data slice among all that was queried after the initial query; empty without slices.
    """

    dataset: str
    model: str
    method: str
    variant: str
    strategy: str
    filtered: bool
    seed: int
    n_labeled: tuple[int, ...]
    accuracy: tuple[float, ...]
    acquired: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One row of the closing table: a method on a data set and model, over its seeds.

    Attributes:
        final_std, area_std: sample standard deviation over seeds; NaN for one seed.
        labels_saved: labels that random queries need to reach their own final accuracy, minus the labels that this
            method needs for the same accuracy, on the mean curves; NaN where it never gets there, or where the study
            has no random cells to compare with.
        saved_of: labels that random needs; NaN likewise.
        acquired: mean over seeds of each slice's share among the queried; empty where the data have no slices.
    """

    dataset: str
    model: str
    method: str
    n_seeds: int
    n_labeled: int
    final: float
    final_std: float
    area: float
    area_std: float
    labels_saved: float
    saved_of: float
    acquired: Mapping[str, float]


def read_curves(cells: Iterable[tuple[CellSpec, CellNames, CellStore]]) -> list[Curve]:
    """Read the learning curves of finished cells."""
    return [_curve(spec, names, store) for spec, names, store in cells]


def summarize_methods(curves: Sequence[Curve]) -> list[MethodResult]:
    """Average over seeds and compare with unfiltered random queries on the same data set and model."""
    groups: dict[tuple[str, str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.dataset, curve.model, curve.method), []).append(curve)
    return [_result(group, _random_of(group[0], curves)) for group in groups.values()]


def _curve(spec: CellSpec, names: CellNames, store: CellStore) -> Curve:
    fitted = [record for record in store.rounds() if record.metrics]
    return Curve(
        dataset=names.dataset,
        model=names.model,
        method=names.method_and_variant,
        variant=JOIN.join(names.variant),
        strategy=spec.strategy.name,
        filtered=bool(spec.filters),
        seed=spec.seed,
        n_labeled=tuple(record.n_labeled for record in fitted),
        accuracy=tuple(record.metrics["accuracy"] for record in fitted),
        acquired=_acquired(fitted),
    )


def slice_shares(groups: Sequence[str]) -> dict[str, float]:
    """Return the share of every data slice, by the name that metrics have for it."""
    shares = group_shares(groups, sorted(set(groups)))
    return {name.removeprefix("acquired."): share for name, share in shares.items()}


def _acquired(fitted: Sequence[RoundRecord]) -> dict[str, float]:
    """Return the shares that the last query left behind."""
    for record in reversed(fitted):
        shares = {name: value for name, value in record.metrics.items() if name.startswith("acquired.")}
        if shares:
            return {name.removeprefix("acquired."): value for name, value in shares.items()}
    return {}


def _random_of(curve: Curve, curves: Sequence[Curve]) -> list[Curve]:
    return [
        other
        for other in curves
        if (other.dataset, other.model, other.variant) == (curve.dataset, curve.model, curve.variant)
        and other.strategy == "random"
        and not other.filtered
    ]


def _result(group: Sequence[Curve], random: Sequence[Curve]) -> MethodResult:
    final = [curve.accuracy[-1] for curve in group]
    area = [area_under_curve(curve.accuracy) for curve in group]
    saved, saved_of = _labels_saved(group, random)
    return MethodResult(
        dataset=group[0].dataset,
        model=group[0].model,
        method=group[0].method,
        n_seeds=len(group),
        n_labeled=group[0].n_labeled[-1],
        final=float(np.mean(final)),
        final_std=_std(final),
        area=float(np.mean(area)),
        area_std=_std(area),
        labels_saved=saved,
        saved_of=saved_of,
        acquired={name: float(np.mean([c.acquired[name] for c in group])) for name in group[0].acquired},
    )


def _labels_saved(group: Sequence[Curve], random: Sequence[Curve]) -> tuple[float, float]:
    nothing = float("nan"), float("nan")
    if not random or len({curve.n_labeled for curve in (*group, *random)}) > 1:
        return nothing
    seeds = {curve.seed for curve in group} & {curve.seed for curve in random}
    if not seeds:
        return nothing
    mine, baseline = (np.mean([c.accuracy for c in cs if c.seed in seeds], axis=0) for cs in (group, random))
    needed = labels_to_reach(random[0].n_labeled, baseline, float(baseline[-1]))
    return needed - labels_to_reach(group[0].n_labeled, mine, float(baseline[-1])), needed


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
