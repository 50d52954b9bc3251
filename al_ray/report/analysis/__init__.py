"""Everything that a report says about a study, from its records to tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from al_ray.report.analysis.calibration import calibration_table
from al_ray.report.analysis.curves import Groups, curve_table, group_curves, savings_table, score_cells
from al_ray.report.analysis.queries import (
    PassiveModels,
    class_table,
    kind_table,
    outlier_table,
    overlap_table,
    pool_class_counts,
    queried_by_method,
)
from al_ray.report.analysis.ranking import Compared, clipping_effects, rank_all
from al_ray.report.analysis.results import ClippingEffect, Ranking
from al_ray.report.read import StudyRecords

_SECONDS = "seconds."
_PLAIN = "softmax"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A study analysed. Tables are long: one row a setting, method and what the table is about.

    Attributes:
        records: what was read.
        reference: name of the method that stands for random queries, None without one.
        scores: what every finished cell comes to.
        groups: learning curves by setting and method.
        curves: mean curves with bands.
        savings: labels saved against random at fixed accuracy levels.
        compared: what the rankings are made from.
        rankings: over all settings, then one a setting.
        unit_note: what was ranked for the test over all settings, a sentence; empty without a test.
        clipping: what filters that clip change.
        calibration: ECE, Brier and reliability, on the test split and on the queried.
        classes: class shares of the queried.
        pools: setting -> examples of each class in its training split.
        overlap: Jaccard overlap of what methods queried.
        n_queried: mean examples that a cell queried after its initial query, by setting and method.
        outliers: share of outliers among the queried.
        kinds: share of each data slice among the queried.
        costs: mean seconds a cell by phase.
    """

    records: StudyRecords
    reference: str | None
    scores: pd.DataFrame
    groups: Groups
    curves: pd.DataFrame
    savings: pd.DataFrame
    compared: Compared
    rankings: Sequence[Ranking]
    unit_note: str
    clipping: Sequence[ClippingEffect]
    calibration: pd.DataFrame
    classes: pd.DataFrame
    pools: dict[str, list[int]]
    overlap: pd.DataFrame
    n_queried: pd.DataFrame
    outliers: pd.DataFrame
    kinds: pd.DataFrame
    costs: pd.DataFrame


def analyze(records: StudyRecords) -> Analysis:
    """Analyse a study that was read.

    Raises:
        StorageError: the arrays of a round are missing or damaged; the message names the file.
    """
    scores = score_cells(records)
    groups = group_curves(records)
    reference = reference_method(records.cells)
    savings = savings_table(groups, reference)
    compared = Compared(scores=scores, cells=records.cells, savings=savings, reference=reference)
    asked, passive = queried_by_method(records, scores), PassiveModels(records, scores)
    counts = {name: pool_class_counts(records, name, passive) for name in scores["setting"].unique()}
    rankings, unit_note = rank_all(compared)
    return Analysis(
        records=records,
        reference=reference,
        scores=scores,
        groups=groups,
        curves=curve_table(groups),
        savings=savings,
        compared=compared,
        rankings=rankings,
        unit_note=unit_note,
        clipping=clipping_effects(compared),
        calibration=calibration_table(records, scores),
        classes=class_table(records, asked, passive),
        pools={name: found for name, found in counts.items() if found},
        overlap=overlap_table(asked),
        n_queried=_n_queried(asked),
        outliers=outlier_table(asked, passive),
        kinds=kind_table(records, scores),
        costs=cost_table(records, scores, savings, reference),
    )


def reference_method(cells: pd.DataFrame) -> str | None:
    """Return the method that stands for random queries: unfiltered, with plain softmax where several are planned.

    The confidence method of random cells decides nothing but how the model is fitted and read, so one is enough.
    """
    names = cells.loc[cells["role"] == "random", ["method", "confidence"]].drop_duplicates()
    if names.empty:
        return None
    plain = names[names["confidence"] == _PLAIN]
    return str((names if plain.empty else plain)["method"].iloc[0])


def cost_table(
    records: StudyRecords, scores: pd.DataFrame, savings: pd.DataFrame, reference: str | None
) -> pd.DataFrame:
    """Return mean wall seconds a cell, all its rounds together.

    Returns:
        ``setting, method, n_cells``, ``seconds.PHASE``, ``seconds``, and against random at the first level of
        ``savings``: ``labels_saved``, ``seconds_per_label_saved`` (extra seconds for each label saved; NaN where none
        is saved or nothing is known).
    """
    phases = [name for name in records.rounds if name.startswith(_SECONDS)]
    by_cell = records.rounds.groupby("cell")[phases].sum()
    joined = scores[["setting", "method"]].join(by_cell)
    grouped = joined.groupby(["setting", "method"], sort=False)
    costs = grouped[phases].mean()
    costs["seconds"] = costs[phases].sum(axis=1)
    costs.insert(0, "n_cells", grouped.size())
    first = savings.drop_duplicates(["setting", "method"]).set_index(["setting", "method"])["saved"]
    costs["labels_saved"] = first
    costs = costs.reset_index()
    random = costs[costs["method"] == reference].set_index("setting")["seconds"]
    extra = costs["seconds"] - costs["setting"].map(random).astype("float64")
    costs["seconds_per_label_saved"] = (extra / costs["labels_saved"]).where(costs["labels_saved"] > 0)
    return costs


def _n_queried(asked: pd.DataFrame) -> pd.DataFrame:
    by_cell = asked.groupby(["setting", "method", "cell"], sort=False).size().rename("n_queried")
    return by_cell.groupby(level=[0, 1], sort=False).mean().reset_index()
