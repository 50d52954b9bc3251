"""Everything that a report says about a study, worked out from its records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from al_ray.core.metrics import RISE_OF_RAMP_UP
from al_ray.report.analysis.bounds import gaps_to_bounds
from al_ray.report.analysis.calibration import calibrations
from al_ray.report.analysis.comparing import (
    ALPHA,
    Finished,
    clipping_effects,
    clips_a_choice,
    rank_all,
    reference_scores,
)
from al_ray.report.analysis.curves import (
    LAST,
    MAX_UNREACHED,
    MIN_SEEDS,
    N_CURVE_RESAMPLES,
    RANDOMS_FINAL,
    SHARES_OF_BEST,
    cell_curves,
    group_curves,
    labels_saved,
    mean_curves,
    ramp_up_ends,
    score_cells,
)
from al_ray.report.analysis.queries import PassiveModels, pool_class_counts, queries_of
from al_ray.report.analysis.results import Cost, LabelsSaved, MethodRanking, Section, Setting, StudyResults
from al_ray.report.analysis.survey import ENOUGH, N_HALVES, agreements, crossings
from al_ray.report.read import StudyRecords
from al_ray.report.stats import bootstrap
from al_ray.report.stats.wilcoxon import MAX_EXACT
from al_ray.study.names import Method

_SECONDS = "seconds."
_PLAIN = "softmax"


def analyse(records: StudyRecords, *, description: str = "", with_arrays: bool = True) -> StudyResults:
    """Analyse a study that was read.

    Args:
        records: of the study.
        description: one paragraph for people, which the records do not hold.
        with_arrays: whether predictions are to be read, one file a finished cell. If not, calibration on the test
            split and shares of outliers are left out, and so are class shares of the pool where the plan has none.

    Raises:
        StorageError: the arrays of a round are missing or damaged; the message names the file.
    """
    curves, reference = cell_curves(records), reference_method(records)
    groups = group_curves(records, curves)
    ramp_up = ramp_up_ends(groups, reference)
    found = score_cells(records, curves, ramp_up)
    cells = records.cells.join(found)
    scores = cells.loc[found.index]
    is_passive, is_bound = scores["role"] == "passive", scores["role"] == "bound"
    methods = _methods(records, reference)
    rivals = {key: group for key, group in groups.items() if methods[group.method].role != "bound"}
    savings = labels_saved(rivals, reference)
    finished = Finished(
        cells=cells,
        scores=scores[~is_passive & ~is_bound],
        passive=scores[is_passive],
        savings=savings,
        reference=reference,
    )
    passive = PassiveModels(records, finished.passive if with_arrays else finished.passive.iloc[:0])
    rankings, clipping = rank_all(finished), clipping_effects(finished, methods)
    # These read arrays, which may add to the notices of the records.
    reliability = calibrations(records, scores, with_arrays=with_arrays)
    queries, settings = queries_of(records, scores, passive), _settings(records, finished, passive, ramp_up)
    return StudyResults(
        study=records.store.study,
        description=description,
        alpha=ALPHA,
        cells=cells,
        plan_known=records.plan_known,
        settings=settings,
        methods=methods,
        learning_curves=mean_curves(groups),
        savings=savings,
        rankings=rankings,
        passive=reference_scores(finished, finished.passive),
        bounds=reference_scores(finished, scores[is_bound]),
        gaps=gaps_to_bounds(finished.scores, scores[is_bound], reference),
        clipping=clipping,
        calibrations=reliability,
        queries=queries,
        agreements=agreements(records.axes, finished.scores),
        crossing_points=crossings(records.axes, finished.scores, rivals),
        method_costs=_costs(records, scores, savings, reference),
        notes=_notes(reference, rankings, has_bounds=bool(is_bound.any())),
        versions=records.versions,
        notices=(*records.notices, *_unequal_budgets(rankings)),
        absences=_absences(cells, methods, has_curves=bool(groups), has_clipping=bool(clipping)),
    )


def reference_method(records: StudyRecords) -> str | None:
    """Return the method of a study that stands for random queries, None without one."""
    return reference_of(records.methods[name] for name in records.cells["method"].unique())


def reference_of(methods: Iterable[Method]) -> str | None:
    """Return the one of some methods that stands for random queries: unfiltered, with plain softmax where several are.

    The confidence method of random cells decides nothing but how the model is fitted and read, so one is enough.
    """
    randoms = [method for method in methods if method.role == "random"]
    plain = [method for method in randoms if method.confidence == _PLAIN]
    return next((method.name for method in [*plain, *randoms]), None)


def _methods(records: StudyRecords, reference: str | None) -> dict[str, Method]:
    methods = [records.methods[name] for name in records.cells["method"].unique()]
    return {
        one.name: replace(one, role="query") if one.role == "random" and one.name != reference else one
        for one in methods
    }


def _settings(
    records: StudyRecords, finished: Finished, passive: PassiveModels, ramp_up: Mapping[str, int]
) -> tuple[Setting, ...]:
    n_test = records.cells.groupby("setting")["n_test"].max()
    found = []
    for row in records.cells.drop_duplicates("setting").itertuples():
        dataset = records.datasets.get(row.dataset, {})
        found.append(
            Setting(
                name=row.setting,
                dataset=row.dataset,
                model=row.model,
                variant=row.variant,
                n_pool=dataset.get("n_train") or sum(pool_class_counts(dataset, row.setting, passive)) or None,
                n_test=int(n_test[row.setting]) or dataset.get("n_test"),
                n_classes=len(dataset.get("class_names", [])) or None,
                passive=finished.passive_accuracy(row.setting),
                ramp_up_end=ramp_up.get(row.setting),
                axes=records.axes.get(row.setting, {}),
            )
        )
    return tuple(found)


def _costs(
    records: StudyRecords, scores: pd.DataFrame, savings: Sequence[LabelsSaved], reference: str | None
) -> tuple[Cost, ...]:
    """Return mean wall seconds a cell, all its rounds together, and what they buy against random."""
    phases = [name for name in records.rounds if name.startswith(_SECONDS)]
    joined = scores[["setting", "method"]].join(records.rounds.groupby("cell")[phases].sum())
    grouped = joined.groupby(["setting", "method"], sort=False)
    means, n_cells = grouped[phases].mean(), grouped.size()
    saved: dict[tuple[str | None, str], float | None] = {}
    for one in savings:
        saved.setdefault((one.setting, one.method), one.labels_saved)
    costs = {
        (setting, method): Cost(
            method=method,
            setting=setting,
            n_cells=int(n_cells[setting, method]),
            seconds={name.removeprefix(_SECONDS): float(means.at[(setting, method), name]) for name in phases},
            labels_saved=saved.get((setting, method)),
            seconds_per_label_saved=None,
        )
        for setting, method in n_cells.index
    }
    return tuple(
        replace(cost, seconds_per_label_saved=_seconds_per_label_saved(cost, costs.get((cost.setting, reference))))
        for cost in costs.values()
    )


def _seconds_per_label_saved(mine: Cost, random: Cost | None) -> float | None:
    if random is None or mine.labels_saved is None or mine.labels_saved <= 0:
        return None
    return (mine.total_s - random.total_s) / mine.labels_saved


def _unequal_budgets(rankings: Sequence[MethodRanking]) -> list[str]:
    """Return a sentence for every setting whose finished cells end at different numbers of labels."""
    said = []
    for ranking in rankings[1:]:
        low, high = (end(n for row in ranking.rows for n in row.n_labeled) for end in (min, max))
        if low != high:
            said.append(
                f"Finished cells of {ranking.setting} end at {low} to {high} labels, so their final accuracies and "
                "areas are not made with equal budgets."
            )
    return said


def _absences(
    cells: pd.DataFrame, methods: Mapping[str, Method], *, has_curves: bool, has_clipping: bool
) -> dict[Section, str]:
    """Return why sections are missing, where more can be said than that they are."""
    if not (cells["status"] == "done").any():
        missing: list[Section] = ["ranking", "clipping", "calibration", "queries", "survey", "cost"]
        missing += [] if has_curves else ["curves"]
        return dict.fromkeys(missing, _why_nothing_is_done(cells))
    return {} if has_clipping else {"clipping": _why_no_clipping(methods)}


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


def _why_no_clipping(methods: Mapping[str, Method]) -> str:
    if any(map(clips_a_choice, methods.values())):
        return "No clipped method has finished cells on the seeds on which the same method without clipping has some."
    if any(method.clipping for method in methods.values()):
        return "Only random queries are clipped in this study, for which clipping changes nothing but the draws."
    return "No method of this study clips. Add a filter such as uncertainty_clipping to its grid to compare."


_NOTE_ON_BOUNDS = {
    "Upper bounds": "Share of the way: what the mean accuracy of all points is above that of random queries, over "
    "what the bound's is, on the seeds that all three have. A bound saw all labels and the test split; a search finds "
    "it, so that the best that is possible may lie higher. It is in no ranking and sets no level."
}


def _notes(reference: str | None, rankings: Sequence[MethodRanking], *, has_bounds: bool) -> dict[str, str]:
    """Return how the numbers were made, one note for every kind of number."""
    test = rankings[0].critical_difference if rankings else None
    random = f" Random queries are the cells of {reference}." if reference else ""
    shares = ", ".join(f"{share:.0%}".rstrip("%") for share in SHARES_OF_BEST)
    return {
        "What is counted": "Finished cells only. Learning curves of a method without any show its running cells, as "
        f"far as all of them are. Cells are paired by data set, model and seed.{random}",
        "Learning curves": "Mean over seeds at the numbers of labels that all of them have; an answer that a text is "
        "of no class counts as a label, since it was asked for. Bands: "
        f"{bootstrap.LEVEL:.0%} bootstrap interval of the mean over seeds ({N_CURVE_RESAMPLES:,} resamples, stretched "
        f"and expanded for few seeds), point by point, from {MIN_SEEDS} seeds on.",
        "Area under the learning curve": f"The mean accuracy of all points, and of the last {LAST}, of each cell "
        "(Gonsior et al. 2022, arXiv 2210.03005). Over all settings: the mean over settings of the mean over seeds, "
        "for methods with a finished cell on each of them. Ramp-up and plateau: the mean accuracy of the points before "
        f"and from the number of labels on at which the mean curve of random queries has made {RISE_OF_RAMP_UP:.0%} "
        "of its rise (a split as in Gonsior et al. 2025, arXiv 2506.03817, by a rule that is ours).",
        "Tests": "Two-sided Wilcoxon signed-rank test on paired differences (zeros by Pratt; exact up to "
        f"{MAX_EXACT} non-zero pairs, normal above). Holm's correction runs over the methods that are compared with "
        "random, with the best, or with themselves unclipped, in one ranking. Intervals of differences: "
        f"{bootstrap.LEVEL:.0%}, {bootstrap.N_RESAMPLES:,} resamples of seeds within data set and model. They speak "
        "about these data sets over new seeds, not about other data sets. The best method is chosen and compared on "
        "the same cells, which flatters it.",
        "Ranks": "Friedman's test and Nemenyi's critical difference (Demsar 2006). "
        f"{test.unit_note if test else ''}".rstrip(),
        "Labels saved": "Labels that random queries need minus labels that the method needs, on the mean curves over "
        f"the seeds that both have, linear between points. Levels: {RANDOMS_FINAL}, and {shares} % of the best "
        "accuracy that any mean curve of the setting reaches; a level that all curves start above is left out. No "
        f"interval where more than {100 * MAX_UNREACHED:g} % of the resamples never get there.",
        **(_NOTE_ON_BOUNDS if has_bounds else {}),
        "Calibration": "Ten equal bins of the predicted class's probability. On the test split: of the model after the "
        "last round, read by the cell's own confidence method. On the queried: what the model believed of each example "
        "when it asked, all rounds together; a method that asks for doubtful examples has a hard set there. Errors are "
        "means over cells, bins are summed over them.",
        "Queries": "The initial query is left out everywhere. Overlap: intersection over union of what two methods "
        "asked for on one seed, mean over seeds. Outliers: training examples that the model trained on all labels gets "
        "wrong, averaged over the passive seeds. Of no class: what was asked for and got no label.",
        "Survey": "Kendall's tau-b between the orders of the methods in two settings that differ in one axis, by their "
        "means over the seeds that both have (Gonsior et al. 2025, arXiv 2506.03817, who fill missing cells with 0; "
        "here methods and seeds that one side lacks are left out). With another size of a query come other rounds. "
        f"What other seeds alone do: tau-b between {N_HALVES} random halves of the seeds, in one setting and across "
        "the two. P-values are against two orders that have nothing to do with each other, not corrected for their "
        "number. A crossing is the cut that best parts the leads of one method from those of the other, said where "
        f"{ENOUGH:.0%} of the resamples of seeds have it in this direction.",
        "Cost": "Wall seconds by phase, added over the rounds of a cell and averaged over cells, as recorded: other "
        "work on the same machine is in them. Per label saved: seconds more than random, by labels saved at "
        f"{RANDOMS_FINAL}.",
    }
