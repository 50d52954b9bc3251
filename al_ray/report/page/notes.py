"""How the numbers of a report were made, in sentences for its last section."""

from al_ray.report.analysis.curves import LAST, LEVEL, MIN_SEEDS, N_RESAMPLES, RANDOMS_FINAL, SHARES_OF_BEST
from al_ray.report.analysis.ranking import SETTINGS
from al_ray.report.analysis.results import Note
from al_ray.report.stats.wilcoxon import MAX_EXACT


def notes_on_method(reference: str | None, unit_note: str) -> tuple[Note, ...]:
    """Return one note for every kind of number.

    Args:
        reference: name of the method that stands for random queries.
        unit_note: what was ranked over all settings; empty where nothing was.
    """
    texts = {
        "What is counted": _counted(reference),
        "Learning curves": f"Mean over seeds at the numbers of labels that all of them have. Bands: {LEVEL:.0%} "
        f"bootstrap interval of the mean over seeds ({N_RESAMPLES:,} resamples, stretched and expanded for few seeds), "
        f"point by point, from {MIN_SEEDS} seeds on.",
        "Area under the learning curve": f"The mean accuracy of all points, and of the last {LAST}, of each cell "
        "(Gonsior et al. 2022, arXiv 2210.03005). Over all settings: the mean over settings of the mean over seeds, "
        "for methods with a finished cell on each of them.",
        "Tests": _tests(),
        "Ranks": f"Friedman's test and Nemenyi's critical difference (Demsar 2006). {unit_note}".rstrip(),
        "Labels saved": _saved(),
        "Calibration": "Ten equal bins of the predicted class's probability. On the test split: of the model after the "
        "last round, read by the cell's own confidence method. On the queried: what the model believed of each example "
        "when it asked, all rounds together; a method that asks for doubtful examples has a hard set there. Errors are "
        "means over cells, bins are summed over them.",
        "Queries": "The initial query is left out everywhere. Overlap: intersection over union of what two methods "
        "asked for on one seed, mean over seeds. Outliers: training examples that the model trained on all labels gets "
        "wrong, averaged over the passive seeds.",
        "Cost": "Wall seconds by phase, added over the rounds of a cell and averaged over cells, as recorded: other "
        "work on the same machine is in them. Per label saved: seconds more than random, by labels saved at "
        f"{RANDOMS_FINAL}.",
    }
    return tuple(Note(title=title, text=text) for title, text in texts.items())


def _counted(reference: str | None) -> str:
    random = f" Random queries are the cells of {reference}." if reference else ""
    return (
        "Finished cells only. Learning curves of a method without any show its running cells, as far as all of them "
        f"are. Cells are paired by data set, model and seed.{random}"
    )


def _tests() -> str:
    return (
        f"Two-sided Wilcoxon signed-rank test on paired differences (zeros by Pratt; exact up to {MAX_EXACT} non-zero "
        "pairs, normal above). Holm's correction runs over the methods that are compared with random, with the best, "
        f"or with themselves unclipped, in one ranking. Intervals of differences: {SETTINGS.level:.0%}, "
        f"{SETTINGS.n_resamples:,} resamples of seeds within data set and model. They speak about these data sets over "
        "new seeds, not about other data sets. The best method is chosen and compared on the same cells, which "
        "flatters it."
    )


def _saved() -> str:
    shares = ", ".join(f"{share:.0%}".rstrip("%") for share in SHARES_OF_BEST)
    return (
        "Labels that random queries need minus labels that the method needs, on the mean curves over the seeds that "
        f"both have, linear between points. Levels: {RANDOMS_FINAL}, and {shares} % of the best accuracy that any mean "
        "curve of the setting reaches; a level that all curves start above is left out. No interval where more than "
        "5 % of the resamples never get there."
    )
