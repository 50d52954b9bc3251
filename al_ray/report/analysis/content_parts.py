"""The parts of a page's content, each from the tables of the analysis."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from al_ray.report.analysis import Analysis
from al_ray.report.analysis.calibration import N_BINS
from al_ray.report.analysis.queries import POOL, dataset_of, jaccard_by_chance
from al_ray.report.analysis.results import (
    Absence,
    Acquired,
    Calibration,
    CellState,
    ClassShares,
    Cost,
    Curve,
    Method,
    Queries,
    ReliabilityBin,
    Section,
    Setting,
)

_SECONDS = "seconds."


def settings(analysis: Analysis) -> tuple[Setting, ...]:
    """Return the settings in the order of the study."""
    cells = analysis.records.cells.drop_duplicates("setting")
    return tuple(_setting(analysis, row) for row in cells.itertuples())


def methods(analysis: Analysis) -> tuple[Method, ...]:
    """Return all methods, those without a finished cell too; one of them at most stands for random queries."""
    cells = analysis.records.cells.drop_duplicates("method")
    names = set(cells["method"])
    return tuple(
        Method(
            name=row.method,
            confidence=row.confidence,
            strategy=row.strategy,
            filters=row.filters,
            role="query" if row.role == "random" and row.method != analysis.reference else row.role,
            unclipped=row.base_method if row.clipping and row.base_method in names else None,
        )
        for row in cells.itertuples()
    )


def cell_states(analysis: Analysis) -> tuple[CellState, ...]:
    """Return every cell."""
    return tuple(
        CellState(
            setting=row.setting,
            method=row.method,
            seed=int(row.seed),
            status=row.status,
            n_rounds=int(row.n_rounds),
            n_rounds_planned=int(row.n_rounds_planned) or None,
            reason=row.reason,
            key=row.key,
        )
        for row in analysis.records.cells.itertuples()
    )


def curves(analysis: Analysis) -> tuple[Curve, ...]:
    """Return the mean learning curves."""
    return tuple(
        _curve(str(setting), str(method), rows)
        for (setting, method), rows in analysis.curves.groupby(["setting", "method"], sort=False)
    )


def calibrations(analysis: Analysis) -> tuple[Calibration, ...]:
    """Return calibration by setting, method and split."""
    return tuple(_calibration(row) for row in analysis.calibration.to_dict("records"))


def costs(analysis: Analysis) -> tuple[Cost, ...]:
    """Return the cost of every method on every setting."""
    return tuple(_cost(row) for row in analysis.costs.to_dict("records"))


def queries(analysis: Analysis) -> tuple[Queries, ...]:
    """Return what was queried, setting by setting."""
    names = analysis.records.cells["setting"].unique()
    asked = {str(name) for name in analysis.n_queried["setting"]}
    return tuple(_queries(analysis, str(name)) for name in names if name in asked)


def absences(analysis: Analysis) -> tuple[Absence, ...]:
    """Return why sections are missing, where more can be said than that they are."""
    cells, found = analysis.records.cells, []
    if not (cells["status"] == "done").any():
        said = _why_nothing_is_done(cells)
        missing: Sequence[Section] = ("ranking", "clipping", "calibration", "queries", "cost")
        found += [Absence(section=section, reason=said) for section in missing]
        if analysis.curves.empty:
            found.append(Absence(section="curves", reason=said))
    elif not analysis.clipping:
        found.append(Absence(section="clipping", reason=_why_no_clipping(cells)))
    return tuple(found)


def unequal_budgets(analysis: Analysis) -> tuple[str, ...]:
    """Return a sentence for every setting whose finished cells end at different numbers of labels."""
    scores = analysis.compared.queried
    found = scores.groupby("setting", sort=False)["n_labeled"].agg(["min", "max"]).astype(np.int64)
    return tuple(
        f"Finished cells of {setting} end at {low} to {high} labels, so their final accuracies and areas are not made "
        "with equal budgets."
        for setting, low, high in found.itertuples()
        if low != high
    )


def _setting(analysis: Analysis, row: Any) -> Setting:
    dataset, cells = dataset_of(analysis.records, row.setting), analysis.records.cells
    n_test = int(cells.loc[cells["setting"] == row.setting, "n_test"].max())
    counts = analysis.pools.get(row.setting)
    return Setting(
        dataset=row.dataset,
        model=row.model,
        variant=row.variant,
        n_pool=dataset.get("n_train") or (sum(counts) if counts else None),
        n_test=n_test or dataset.get("n_test"),
        n_classes=len(dataset.get("class_names", [])) or None,
        passive=analysis.compared.passives.get(row.setting),
    )


def _curve(setting: str, method: str, rows: pd.DataFrame) -> Curve:
    has_band = bool(rows["low"].notna().all())
    return Curve(
        setting=setting,
        method=method,
        n_labeled=tuple(rows["n_labeled"].tolist()),
        mean=tuple(rows["mean"].tolist()),
        low=tuple(rows["low"].tolist()) if has_band else (),
        high=tuple(rows["high"].tolist()) if has_band else (),
        n_seeds=int(rows["n_seeds"].iloc[0]),
    )


def _calibration(row: dict[str, Any]) -> Calibration:
    return Calibration(
        setting=row["setting"],
        method=row["method"],
        on=row["on"],
        n=int(row["n"]),
        ece=float(row["ece"]),
        brier=_known(row["brier"]),
        bins=tuple(
            ReliabilityBin(
                low=at / N_BINS,
                high=(at + 1) / N_BINS,
                n=int(row[f"n_{at}"]),
                confidence=_known(row[f"confidence_{at}"]),
                accuracy=_known(row[f"accuracy_{at}"]),
            )
            for at in range(N_BINS)
        ),
    )


def _cost(row: dict[str, Any]) -> Cost:
    seconds = {str(name).removeprefix(_SECONDS): value for name, value in row.items() if str(name).startswith(_SECONDS)}
    return Cost(
        method=row["method"],
        setting=row["setting"],
        n_cells=int(row["n_cells"]),
        seconds={phase: float(value) for phase, value in seconds.items() if value > 0},
        labels_saved=_known(row["labels_saved"]),
        seconds_per_label_saved=_known(row["seconds_per_label_saved"]),
    )


def _queries(analysis: Analysis, setting: str) -> Queries:
    dataset, counts = dataset_of(analysis.records, setting), analysis.pools.get(setting)
    classes = analysis.classes[analysis.classes["setting"] == setting]
    names = classes.sort_values("class_index")["class_name"].drop_duplicates().tolist()
    pool = tuple(count / sum(counts) for count in counts) if counts else ()
    overlap_methods, jaccard = _jaccard(analysis.overlap[analysis.overlap["setting"] == setting])
    n_queried = analysis.n_queried.loc[analysis.n_queried["setting"] == setting, "n_queried"].mean()
    n_pool = dataset.get("n_train") or (sum(counts) if counts else None)
    return Queries(
        setting=setting,
        class_names=tuple(names),
        pool=(*pool, *(0.0 for _ in range(len(names) - len(pool)))) if pool else (),
        classes=tuple(_class_shares(classes)),
        overlap_methods=overlap_methods,
        jaccard=jaccard,
        jaccard_by_chance=jaccard_by_chance(n_queried, int(n_pool)) if n_pool and pd.notna(n_queried) else None,
        acquired=_acquired(analysis, setting),
    )


def _class_shares(classes: pd.DataFrame) -> Iterator[ClassShares]:
    for method, rows in classes.groupby("method", sort=False):
        distance = (
            float((rows["share"] - rows["pool_share"]).abs().sum() / 2) if rows["pool_share"].notna().all() else 0
        )
        shares = tuple(rows.sort_values("class_index")["share"].tolist())
        yield ClassShares(method=str(method), shares=shares, n_queried=int(rows["n"].sum()), distance=distance)


def _jaccard(overlap: pd.DataFrame) -> tuple[tuple[str, ...], tuple[tuple[float | None, ...], ...]]:
    if overlap.empty:
        return (), ()
    names = overlap["method"].drop_duplicates().tolist()
    square = overlap.pivot(index="method", columns="other", values="jaccard").loc[names, names].to_numpy()
    return tuple(names), tuple(tuple(_known(value) for value in row) for row in square)


def _acquired(analysis: Analysis, setting: str) -> tuple[Acquired, ...]:
    outliers = analysis.outliers[analysis.outliers["setting"] == setting].set_index("method")["outliers"]
    kinds = analysis.kinds[analysis.kinds["setting"] == setting]
    by_method = {
        str(name): dict(zip(rows["kind"], rows["share"], strict=True)) for name, rows in kinds.groupby("method")
    }
    order = dict.fromkeys([*outliers.index, *kinds["method"]])
    order = {POOL: None, **order} if POOL in order else order
    return tuple(
        Acquired(method=str(name), outliers=_known(outliers.get(name, math.nan)), kinds=by_method.get(str(name), {}))
        for name in order
    )


def _why_nothing_is_done(cells: pd.DataFrame) -> str:
    counts = cells["status"].value_counts()
    failed = int(counts.get("failed", 0))
    if failed == len(cells):
        first = cells["reason"].iloc[0]
        what = "The only cell of this study failed" if failed == 1 else f"All {failed} cells of this study failed"
        why = f"The first says: {first.rstrip('.')}."
        return f"{what}, so there is nothing to report. {why} Mend that and run the study again."
    parts = [f"{int(counts[name])} {name}" for name in ("running", "waiting", "failed") if counts.get(name)]
    return f"No cell is finished yet ({', '.join(parts)}). Report again when the first ones are."


def _why_no_clipping(cells: pd.DataFrame) -> str:
    if not (cells["clipping"] != "").any():
        return "No method of this study clips. Add a filter such as uncertainty_clipping to its grid to compare."
    return "No clipped method has finished cells on the seeds on which the same method without clipping has some."


def _known(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
