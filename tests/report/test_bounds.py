"""An upper bound saw all labels: no ranking, verdict or level counts it, and methods are measured by the way to it."""

from pathlib import Path

import pytest

from al_ray.report.analysis import analyse
from al_ray.report.analysis.results import StudyResults
from al_ray.report.page.render import render_page
from al_ray.report.read import read_study
from al_ray.report.verdict import make_verdict
from tests.report.study_samples import ENTROPY, MARGIN, RANDOM, SampleStudy, row

OPTIMAL = "softmax + optimal"
SETTING = "subj · minilm"


@pytest.fixture
def study(tmp_path: Path) -> SampleStudy:
    return SampleStudy(tmp_path)


def results_of(study: SampleStudy) -> StudyResults:
    return analyse(read_study(study.path))


def flat(study: SampleStudy, strategy: str, *accuracies: float) -> None:
    """Record one cell a seed whose curve is one accuracy throughout."""
    for seed, accuracy in enumerate(accuracies, start=42):
        study.cell((accuracy, accuracy), strategy=strategy, seed=seed)


def test_the_way_is_measured_on_the_seeds_that_all_three_have(study: SampleStudy) -> None:
    flat(study, "random", 0.5, 0.6, 0.1)
    flat(study, "margin", 0.6, 0.7, 0.9)
    flat(study, "optimal", 0.9, 0.8)
    found = row(results_of(study).gap, method=MARGIN)
    assert (found["bound"], found["n_seeds"]) == (OPTIMAL, 2)
    assert tuple(found[["random", "accuracy", "bound_accuracy"]]) == pytest.approx((0.55, 0.65, 0.85))
    assert found["share"] == pytest.approx(1 / 3)
    assert found[["low", "high"]].isna().all()


def test_five_seeds_give_the_share_an_interval_that_holds_it(study: SampleStudy) -> None:
    flat(study, "random", 0.50, 0.52, 0.48, 0.51, 0.49)
    flat(study, "margin", 0.58, 0.61, 0.59, 0.62, 0.60)
    flat(study, "optimal", 0.70, 0.72, 0.69, 0.71, 0.68)
    found = row(results_of(study).gap, method=MARGIN)
    assert found["share"] == pytest.approx(0.5)
    assert 0.3 < found["low"] < 0.5 < found["high"] < 0.7


def test_a_bound_is_in_no_ranking_and_sets_no_level(study: SampleStudy) -> None:
    flat(study, "random", 0.5, 0.6)
    flat(study, "margin", 0.6, 0.7)
    without = results_of(study)
    flat(study, "optimal", 0.9, 0.8)
    results = results_of(study)
    assert [score.method for score in results.rankings[0].rows] == [MARGIN, RANDOM]
    assert results.labels_saved.equals(without.labels_saved)
    assert make_verdict(results).headline == make_verdict(without).headline
    assert results.methods[OPTIMAL].role == "bound"
    assert [score.method for score in results.bounds[SETTING]] == [OPTIMAL]
    assert results.bounds[SETTING][0].aulc.mean == pytest.approx(0.85)
    assert OPTIMAL in {curve.method for curve in results.learning_curves}


def test_the_verdict_and_the_page_say_that_it_is_a_bound_and_how_far_the_methods_go(study: SampleStudy) -> None:
    flat(study, "random", 0.5, 0.6)
    flat(study, "margin", 0.6, 0.7)
    flat(study, "entropy", 0.45, 0.55)
    flat(study, "optimal", 0.9, 0.8)
    results = results_of(study)
    assert make_verdict(results).possible == (
        f"{OPTIMAL} is no method but a bound: it saw all labels and the test split. Accuracy averaged over the "
        f"learning curve: 55.0 % for random queries, 85.0 % for the bound. Of that way go: {MARGIN} 33 % and {ENTROPY} "
        "−17 %.",
    )
    page = render_page(results, made_at="now", tables={})
    assert "Way from random queries to an upper bound" in page
    assert '<td class="num">33 %</td>' in page


def test_a_bound_that_is_not_above_random_queries_leaves_no_way(study: SampleStudy) -> None:
    flat(study, "random", 0.5)
    flat(study, "margin", 0.6)
    flat(study, "optimal", 0.5)
    results = results_of(study)
    assert results.gaps[0].share is None
    assert make_verdict(results).possible[0].endswith("so there is no way to go.")


def test_without_random_queries_or_with_the_bound_alone_nothing_is_measured(study: SampleStudy) -> None:
    flat(study, "optimal", 0.9)
    results = results_of(study)
    assert results.gaps == ()
    assert make_verdict(results).headline.startswith("Only references are finished, which saw all labels")
    flat(study, "margin", 0.6)
    assert results_of(study).gaps == ()


@pytest.mark.parametrize("label", ["exclude_hardest", "exclude_hardest_0.9"])
def test_a_method_whose_filter_reads_every_answer_is_not_recommended(study: SampleStudy, label: str) -> None:
    options = {"name": "exclude_hardest", **({"keep": 0.9} if label.endswith("0.9") else {})}
    better = [0.61, 0.64, 0.60, 0.63, 0.66, 0.62, 0.65, 0.59]
    for seed, accuracy in enumerate(better, start=42):
        study.cell((accuracy, accuracy), strategy="margin", filters=(options,), seed=seed)
        study.cell((0.5, 0.5 + seed / 1000), strategy="random", seed=seed)
    verdict = make_verdict(results_of(study))
    assert verdict.headline == (
        f"{MARGIN} + {label} comes first, but nobody can use it: it reads every answer. It beats random queries by "
        "more than chance."
    )
    assert verdict.tone == "unclear"


def test_a_bound_is_named_once_and_without_random_queries_too(study: SampleStudy) -> None:
    flat(study, "margin", 0.6)
    flat(study, "optimal", 0.9)
    (said,) = make_verdict(results_of(study)).possible
    assert said.endswith("No method and random queries share a finished seed with it, so no way to it is measured.")
