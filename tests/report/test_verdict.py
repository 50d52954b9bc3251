import dataclasses
import re
from typing import Any

import pytest

from al_ray.report.analysis.results import ClippingEffect, LabelsSaved, MethodScore, StudyResults
from al_ray.report.verdict import Verdict, make_verdict
from tests.report import content_samples
from tests.report.content_samples import (
    SampleCell,
    comparison,
    estimate,
    friedman,
    interval,
    method,
    ranking,
    results,
    saving,
    setting,
    study,
    without,
)
from tests.report.content_samples import score as row

RANDOM, MARGIN, ENTROPY, BALD = "softmax + random", "softmax + margin", "softmax + entropy", "mc_dropout + bald"
METHODS = (
    method(RANDOM),
    method(MARGIN),
    method(ENTROPY),
    method(BALD),
    method("passive", strategy="passive", role="passive"),
)
SETTING = setting("trec6", passive=estimate(0.9, 1, None))


def cell(method: str = MARGIN, status: Any = "done", seed: int = 42, **more: Any) -> SampleCell:
    return content_samples.cell(SETTING.name, method, seed, status, **more)


def content(*rows: MethodScore, **more: Any) -> StudyResults:
    cells = tuple(cell(row.method, seed=seed) for row in rows for seed in (42, 43))
    shown = {row.method for row in rows}
    values: dict[str, Any] = {
        "settings": (SETTING,),
        "methods": tuple(method for method in METHODS if method.name in shown),
        "cells": cells,
        "rankings": (ranking(*rows), ranking(*rows, setting=SETTING.name)) if rows else (),
    }
    return results(**{**values, **more})


def everything(verdict: Verdict) -> list[str]:
    parts = (verdict.saves, verdict.sure, verdict.change, verdict.clipping, verdict.missing)
    return [verdict.headline, *(text for part in parts for text in part)]


LEADER = row(MARGIN, 0.85, versus_random=comparison(), passive_share=0.944)
BELOW = comparison(-0.02, 0.01, against=MARGIN, losses=9)
REFERENCE = row(RANDOM, 0.83, versus_best=dataclasses.replace(BELOW, method=RANDOM))


def test_a_clear_winner_is_recommended_with_its_numbers() -> None:
    worse = row(
        ENTROPY, versus_random=comparison(method=ENTROPY), versus_best=dataclasses.replace(BELOW, method=ENTROPY)
    )
    verdict = make_verdict(content(LEADER, worse, REFERENCE))
    assert verdict.headline == "Use softmax + margin. It beats random queries and 1 other method by more than chance."
    assert verdict.tone == "clear"
    assert not verdict.preliminary
    assert verdict.saves == (
        "Accuracy after the last round: 85.0 % against 83.0 % for random queries; that is 94.4 % of the passive "
        "model's.",
    )
    assert verdict.sure == (
        "softmax + margin against random queries: +1.2 points of accuracy averaged over the learning curve over 10 "
        "pairs "
        "(better on 9, equal on 0, worse on 1), 95 % interval +0.4 to +2.0; Wilcoxon signed-rank with Holm's "
        "correction: "
        "p = 0.012.",
    )
    assert verdict.change == ("All of this is one data set with one model; on others the order may be another.",)
    assert verdict.missing == ()


def test_a_winner_that_others_tie_with_names_them_and_what_would_separate_them() -> None:
    near = row(
        ENTROPY,
        versus_random=comparison(method=ENTROPY),
        versus_best=comparison(-0.001, 0.7, method=ENTROPY, against=MARGIN, more_seeds=40),
    )
    verdict = make_verdict(content(LEADER, near, REFERENCE))
    assert verdict.headline == (
        "Use softmax + margin. It beats random queries by more than chance; softmax + entropy cannot be told apart "
        "from it."
    )
    assert verdict.change[0] == (
        "To tell softmax + entropy from softmax + margin (0.1 points apart) about 40 further seeds on every "
        "setting would "
        "be needed (80 % power)."
    )


def test_many_that_tie_are_counted_and_not_listed() -> None:
    names = [f"m{at}" for at in range(6)]
    rows = [row(name, versus_best=comparison(-0.001, 0.7, method=name, against=MARGIN)) for name in names]
    methods = (*METHODS, *(method(name) for name in names))
    verdict = make_verdict(content(LEADER, *rows, REFERENCE, methods=methods))
    assert verdict.headline.endswith("by more than chance; 6 other methods cannot be told apart from it.")


def test_methods_that_are_equal_in_every_pair_are_called_equal() -> None:
    same = comparison(0.0, None, method=ENTROPY, against=MARGIN, n=10, wins=0, ties=10, losses=0)
    verdict = make_verdict(content(LEADER, row(ENTROPY, versus_best=same), REFERENCE))
    assert "softmax + entropy is equal to softmax + margin in every pair." in verdict.sure
    assert not any("from softmax + margin (0" in text for text in verdict.change)


def test_a_lead_that_can_be_chance_is_called_one() -> None:
    leader = row(MARGIN, 0.85, versus_random=comparison(p=0.31, more_seeds=7))
    verdict = make_verdict(content(leader, REFERENCE))
    assert verdict.headline == (
        "No method is shown to beat random queries. softmax + margin is first, 1.2 points ahead of random, which "
        "can be "
        "chance."
    )
    assert verdict.tone == "unclear"
    assert verdict.change[0] == (
        "To tell softmax + margin from random queries (1.2 points apart) about 7 further seeds on every setting "
        "would be "
        "needed (80 % power)."
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"more_seeds": 1}, r"about 1 further seed on every setting would be needed \(80 % power\)\.$"),
        ({"more_seeds": 900}, r"more than 200 further seeds on every setting would be needed\.$"),
        ({"more_seeds": None}, r"^How many more seeds would tell .* cannot be estimated from 10 pairs\.$"),
        (
            {"more_seeds": 0},
            r"^The seeds would usually be enough to tell .*, yet the test does not; more seeds would settle it\.$",
        ),
        (
            {"more_seeds": 0, "p_value": 0.01},
            r"^Taken alone the seeds would tell .*; corrected for the other comparisons they do not\.$",
        ),
    ],
)
def test_what_would_change_an_open_question(more: dict[str, Any], said: str) -> None:
    verdict = make_verdict(content(row(MARGIN, versus_random=comparison(p=0.31, **more)), REFERENCE))
    assert re.search(said, verdict.change[0]), verdict.change[0]


def test_an_interval_that_excludes_zero_without_significance_is_explained() -> None:
    said = make_verdict(content(row(MARGIN, versus_random=comparison(p=0.31)), REFERENCE)).sure[0]
    assert said.endswith(
        "p = 0.31. The interval is of this comparison alone, the p-value is corrected for all of them."
    )


def test_too_few_pairs_give_no_p_value_and_say_so() -> None:
    verdict = make_verdict(content(row(MARGIN, versus_random=comparison(p=None, n=2, losses=0)), REFERENCE))
    assert verdict.headline == (
        "Too little data for a verdict. softmax + margin is first, 1.2 points ahead of random queries on 2 pairs; "
        "that is "
        "too few to tell it from chance."
    )
    assert verdict.sure[0].endswith("No p-value: 2 pairs are too few for a test at 5 %.")
    assert not any("p =" in text or "p <" in text or "by more than chance" in text for text in everything(verdict))


def test_random_queries_that_come_first_are_said_to() -> None:
    behind = comparison(-0.01, 0.4, losses=8)
    verdict = make_verdict(content(row(RANDOM, 0.86), row(MARGIN, 0.85, versus_random=behind, versus_best=behind)))
    assert verdict.headline == (
        "Random queries come first: no method has a higher accuracy averaged over the learning curve."
    )
    assert verdict.saves == ("Accuracy after the last round: 86.0 % for random queries.",)
    assert verdict.sure[0].startswith("softmax + margin against random queries: −1.0 points")
    two = content(row(RANDOM), row(MARGIN, versus_random=behind), row(ENTROPY))
    assert make_verdict(two).headline == (
        "Random queries come first: none of the 2 methods has a higher accuracy averaged over the learning curve."
    )


def test_a_higher_mean_without_a_lead_in_the_pairs_is_no_lead() -> None:
    verdict = make_verdict(content(row(MARGIN, versus_random=comparison(-0.003, 0.01, losses=8)), REFERENCE))
    assert verdict.headline == (
        "No method is shown to beat random queries. softmax + margin has the highest accuracy averaged over the "
        "learning "
        "curve, but over the 10 pairs that it shares with random queries it is −0.3 points."
    )
    assert verdict.tone == "unclear"


def test_no_shared_pairs_cannot_be_compared() -> None:
    assert make_verdict(content(row(MARGIN), REFERENCE)).headline == (
        "softmax + margin has the highest accuracy averaged over the learning curve, but it shares no data set, "
        "model and "
        "seed with a finished random cell, so the two cannot be compared."
    )


def test_a_study_without_random_queries_says_what_to_add() -> None:
    verdict = make_verdict(content(row(MARGIN), row(ENTROPY, versus_best=comparison(-0.01, 0.3, losses=6))))
    assert verdict.headline == (
        "softmax + margin has the highest accuracy averaged over the learning curve of 2 methods (softmax + "
        "entropy cannot "
        "be told apart from it), but without finished random queries nobody can say whether it is worth its effort."
    )
    assert verdict.change[0] == (
        "The study has no random queries: add strategy: random to its grid, with the same seeds."
    )


def test_random_cells_that_are_not_finished_are_waited_for() -> None:
    waiting = content(row(MARGIN), row(ENTROPY), methods=METHODS[:3])
    assert make_verdict(waiting).change[0] == (
        "The random cells of this study are not finished; with them the question can be answered."
    )


def test_one_method_alone_has_nothing_to_be_compared_with() -> None:
    verdict = make_verdict(content(row(MARGIN)))
    assert verdict.headline == "Only softmax + margin has finished cells, so there is nothing to compare it with."
    assert verdict.tone == "nothing"
    assert make_verdict(content(row(RANDOM))).headline == (
        "Only random queries have finished cells, so there is nothing to compare them with."
    )


def test_one_seed_is_said_aloud() -> None:
    one = content(LEADER, REFERENCE, cells=(cell(MARGIN), cell(RANDOM)))
    said = "Every setting has one seed only, so nobody knows how much of a difference is the seed's."
    assert said in make_verdict(one).sure
    assert said not in make_verdict(content(LEADER, REFERENCE)).sure


def test_all_failed_says_why_and_recommends_nothing() -> None:
    reasons = ("out of memory", "out of memory", "disk full")
    cells = tuple(cell(status="failed", seed=at, reason=reason) for at, reason in enumerate(reasons))
    verdict = make_verdict(content(cells=cells, methods=METHODS))
    assert verdict.headline == (
        "All 3 cells failed, so there is nothing to compare. The commonest reason (of 2 cells): out of memory"
    )
    assert verdict.tone == "nothing"
    only = make_verdict(content(cells=cells[:1], methods=METHODS))
    assert only.headline == "The only cell failed, so there is nothing to compare. The commonest reason: out of memory"


def test_nothing_finished_and_nothing_there() -> None:
    cells = (cell(status="running"), cell(status="waiting", seed=43), cell(status="waiting", seed=44))
    assert make_verdict(content(cells=cells, methods=METHODS)).headline == (
        "No cell is finished yet, so there is nothing to say: of 3 cells 1 running and 2 waiting."
    )
    assert make_verdict(content()).headline == "This study has no cells yet, so there is nothing to say."


def test_the_passive_model_alone_is_no_comparison() -> None:
    verdict = make_verdict(content(cells=(cell("passive"),), methods=METHODS))
    assert verdict.headline == "Only the passive model is finished, so there is no query method to compare."


def test_a_half_finished_study_is_preliminary_and_counts_what_is_missing() -> None:
    cells = (
        cell(MARGIN),
        cell(RANDOM),
        cell(MARGIN, "running", 43),
        cell(RANDOM, "waiting", 43),
        cell(ENTROPY, "failed"),
    )
    verdict = make_verdict(content(LEADER, REFERENCE, cells=cells, methods=METHODS[:3]))
    assert verdict.preliminary
    assert verdict.missing == (
        "The study is not finished: 2 of 5 cells are done, 1 running and 1 waiting. The verdict may change.",
        "1 cell failed and is in no number: softmax + entropy.",
        "Without a finished cell, so in no ranking: softmax + entropy.",
    )


def test_a_missing_passive_model_and_an_unknown_plan_are_said() -> None:
    bare = content(LEADER, REFERENCE, settings=(setting("trec6"),), plan_known=False)
    assert make_verdict(bare).missing == (
        "The records do not say how many cells the study plans, so cells that were never begun are not counted.",
        "No passive model is finished on trec6 · minilm, so shares of it are not known there.",
    )


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (
            saving("random's final accuracy", level=0.83, n_labels=210, labels_saved=315, saved_of=525),
            "Labels: to reach random's final accuracy (83.0 %) it saves 315 of the 525 labels that random queries "
            "need (60 %).",
        ),
        (
            saving("80 %", level=0.8, n_labels=400, labels_saved=125, saved_of=525, interval=interval(-5, 260)),
            "Labels: to reach 80 % it saves 125 of the 525 labels that random queries need (24 %, interval −5 to 260).",
        ),
        (
            saving("90 % of passive", n_labels=551, labels_saved=-26, saved_of=525),
            "Labels: to reach 90 % of passive it needs 26 labels more than the 525 of random queries (5 %).",
        ),
        (
            saving("random's final accuracy", n_labels=525, labels_saved=0.2, saved_of=525),
            "Labels: to reach random's final accuracy it needs as many as random queries (525).",
        ),
        (
            saving("90 % of passive"),
            "softmax + margin does not reach 90 % of passive, so it saves no labels there.",
        ),
    ],
)
def test_labels_saved_are_said_as_they_are(level: LabelsSaved, said: str) -> None:
    leader = dataclasses.replace(LEADER, levels=(level,))
    assert make_verdict(content(leader, REFERENCE)).saves[0] == said


def test_friedmans_test_is_quoted_with_what_was_ranked() -> None:
    test = friedman({MARGIN: 1.2, RANDOM: 1.8}, n_units=7, statistic=1.3, p_value=0.26, unit="data set")
    tested = ranking(LEADER, REFERENCE, critical_difference=test)
    verdict = make_verdict(content(LEADER, REFERENCE, rankings=(tested,)))
    assert "Friedman's test finds no difference between 2 methods over 7 data sets (p = 0.26)." in verdict.sure


def test_the_effect_of_a_filter_is_said_for_all_methods_at_once() -> None:
    def effect(method: str, difference: float, p: float | None) -> ClippingEffect:
        found = comparison(difference, p, method=f"{method} + clip", against=method, losses=5)
        return ClippingEffect(method=method, filters="clip", setting=None, comparison=found)

    def said(*effects: ClippingEffect) -> tuple[str, ...]:
        return make_verdict(content(LEADER, REFERENCE, clipping=effects)).clipping

    up, down, flat = effect(MARGIN, 0.02, 0.01), effect(ENTROPY, -0.02, 0.01), effect(BALD, 0.001, 0.9)
    assert said(up, down, flat) == (
        "clip: helps softmax + margin and hurts softmax + entropy by more than chance; for 1 other no difference "
        "is shown.",
    )
    assert said(flat) == ("clip: no difference is shown for 1 method.",)
    assert said(flat, flat) == ("clip: no difference is shown for any of 2 methods.",)
    assert said(effect(MARGIN, 0.02, None)) == (
        "clip: too little data to say what it changes for 1 method. 10 pairs are too few for a test at 5 %.",
    )


def test_settings_that_disagree_with_the_whole_are_named() -> None:
    other = setting("subj", passive=estimate(0.95, 1, None))
    loses = row(MARGIN, versus_random=comparison(-0.02, 0.01, losses=9))
    rankings = (
        ranking(LEADER, REFERENCE),
        ranking(LEADER, REFERENCE, setting=SETTING.name),
        ranking(row(RANDOM), loses, setting=other.name),
    )
    verdict = make_verdict(content(LEADER, REFERENCE, settings=(SETTING, other), rankings=rankings))
    assert verdict.change == (
        "softmax + margin is first on 1 of 2 settings.",
        "It is below random queries by more than chance on subj · minilm.",
    )
    assert [(each.ranking.setting, each.best.method, each.case.value) for each in verdict.settings] == [
        ("trec6 · minilm", MARGIN, "better than random"),
        ("subj · minilm", RANDOM, "random is first"),
    ]


def test_many_notices_are_counted_once() -> None:
    notices = tuple(f"round {at} is cut short." for at in range(5))
    assert make_verdict(content(LEADER, REFERENCE, notices=notices)).missing == (
        "5 notices on damaged or odd records: see the state of the study.",
    )


@pytest.mark.parametrize("n_seeds", [1, 2, 5])
def test_a_refused_p_value_never_becomes_a_claim(n_seeds: int) -> None:
    whole = study(n_datasets=1, n_seeds=n_seeds)
    verdict = make_verdict(without(whole, rankings=whole.rankings[1:]))
    assert verdict.tone != "clear"
    claims = [text for text in everything(verdict) if "by more than chance" in text or "Holm" in text]
    assert set(claims) <= set(verdict.clipping)
