"""The loop against fakes: no torch, no Ray, no files."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from al_ray.confidence import confidences
from al_ray.core.types import Annotation, IntArray, LabeledSet, RoundRecord, asked_ids
from al_ray.errors import RoundError
from al_ray.filtering import filters
from al_ray.initial import initial_queries
from al_ray.loop import learner
from al_ray.loop.ports import Loop
from al_ray.strategy import strategies
from tests.fakes import RecordsInMemory, make_classifier, make_loop, make_world


def what_was_computed(rounds: list[RoundRecord]) -> list[dict]:
    return [{**r.to_json(), "seconds": None} for r in rounds]


@pytest.mark.parametrize("strategy", strategies.names())
def test_n_rounds_spend_exactly_n_times_query_size_labels(strategy: str) -> None:
    world = make_world()
    loop = make_loop(world, strategy=strategy)
    rounds = learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    asked = asked_ids(rounds)
    assert len(np.unique(asked)) == len(asked)
    assert set(asked.tolist()) <= set(world["truth"].ids.tolist())
    expected = len(world["truth"]) if strategies.get(strategy).labels_everything else 6 + 4 * 5
    assert rounds[-1].n_labeled == len(asked) == expected


def test_the_learning_curve_has_one_point_more_than_there_are_queries() -> None:
    world = make_world()
    rounds = learner.run(make_loop(world), make_classifier(world), RecordsInMemory())
    assert [r.n_labeled for r in rounds] == [0, 6, 11, 16, 21, 26]
    assert rounds[0].metrics == {}
    assert all(0 <= r.metrics["accuracy"] <= 1 for r in rounds[1:])
    assert rounds[-1].stop_reason == "all 4 rounds done"
    assert len(rounds[-1].query) == 0
    assert all(r.stop_reason is None for r in rounds[:-1])


@pytest.mark.parametrize("strategy", strategies.names())
@pytest.mark.parametrize("fail_at", [0, 1, 3, 5])
def test_resuming_equals_never_stopping(strategy: str, fail_at: int) -> None:
    world = make_world()
    can_clip = strategies.build(strategy).ranks and strategy != "passive"
    loop = make_loop(world, strategy=strategy, filters=["uncertainty_clipping"] if can_clip else [])
    resume_and_compare(world, loop, fail_at)


def resume_and_compare(world: dict, loop: Loop, fail_at: int) -> list[RoundRecord]:
    whole = learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    records = RecordsInMemory(fail_at=fail_at)
    if fail_at < len(whole):
        with pytest.raises(KeyboardInterrupt):
            learner.run(loop, make_classifier(world, loop), records)
    records.fail_at = None
    assert what_was_computed(learner.run(loop, make_classifier(world, loop), records)) == what_was_computed(whole)
    assert what_was_computed(records.rounds()) == what_was_computed(whole)
    return whole


@pytest.mark.parametrize("confidence", confidences.names())
@pytest.mark.parametrize("evaluation", ["own", "plain", "gonsior2022/plain"])
def test_resuming_equals_never_stopping_with_every_confidence_method(confidence: str, evaluation: str) -> None:
    world = make_world()
    has_uncertainty = confidences.get(confidence).has_uncertainty
    strategy = "own_uncertainty" if has_uncertainty else "least_confidence"
    loop = make_loop(world, strategy=strategy, confidence=confidence, evaluation=evaluation)
    rounds = resume_and_compare(world, loop, 3)
    assert rounds[-1].metrics["accuracy"] > 0.5
    assert ("own.accuracy" in rounds[-1].metrics) == (evaluation != "own")


@pytest.mark.parametrize("name", filters.names())
@pytest.mark.parametrize("fail_at", [2, 4])
def test_resuming_equals_never_stopping_with_every_filter(name: str, fail_at: int) -> None:
    world = make_world()
    sized = {
        "random_subsample": {"size": 40},
        "anchor_subpool": {"size": 30},
        "unsure_subsample": {"full_rounds": (1,)},
    }
    loop = make_loop(world, strategy="margin", filters=[{"name": name, **sized.get(name, {})}])
    rounds = resume_and_compare(world, loop, fail_at)
    assert rounds[-1].n_labeled == 26


@pytest.mark.parametrize("name", initial_queries.names())
def test_every_cold_start_starts_a_cell(name: str) -> None:
    world = make_world()
    rounds = resume_and_compare(world, make_loop(world, initial=name, strategy="random"), 2)
    assert len(rounds[0].query) == 6


def test_two_filters_that_select_see_each_other() -> None:
    world = make_world()
    loop = make_loop(world, filters=[{"name": "random_subsample", "size": 20}, {"name": "anchor_subpool", "size": 15}])
    classifier = make_classifier(world, loop)
    learner.run(loop, classifier, RecordsInMemory())
    assert classifier.n_predicted == 5 * len(world["test"]) + 4 * 15


def test_a_strategy_that_watches_fine_tuning_sees_so_many_candidates_and_no_more() -> None:
    world = make_world()
    loop = make_loop(world, strategy={"name": "label_dispersion", "n_watched": 30})
    records = RecordsInMemory()
    rounds = learner.run(loop, make_classifier(world, loop), records)
    # Four epochs: the least that the most frequent class can have of four predictions over three classes is two.
    assert all(set(np.unique(r.query.scores)) <= {0.0, 0.25, 0.5} for r in rounds[1:-1])


def test_a_strategy_that_chooses_among_others_records_which_chose_and_learns_from_it() -> None:
    world = make_world()
    loop = make_loop(world, strategy={"name": "tailor", "arms": ["margin", "random"]})
    rounds = learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    asked = [record.query.arms for record in rounds[1:-1]]
    assert rounds[0].query.arms is None
    assert rounds[-1].query.arms is None
    for n, record in enumerate(rounds[1:-1], start=1):
        arms = np.concatenate(asked[:n])
        shares = (np.mean(arms == 0), np.mean(arms == 1))
        assert (record.metrics["chosen_by.margin"], record.metrics["chosen_by.random"]) == shares
    assert len(np.unique(np.concatenate(asked))) == 2


def test_the_plain_evaluation_measures_a_second_model_only_where_training_differs() -> None:
    world = make_world()
    textbook = [("softmax", 0), ("ensemble", 0), ("label_smoothing", 5), ("gonsior2022/softmax", 5)]
    reference = [("gonsior2022/softmax", 0), ("gonsior2022/ensemble", 0), ("gonsior2022/evidential", 5), ("softmax", 5)]
    cases = [("plain", *case) for case in textbook] + [("gonsior2022/plain", *case) for case in reference]
    for evaluation, confidence, n_plain in cases:
        loop = make_loop(world, strategy="margin", confidence=confidence, evaluation=evaluation)
        classifier = make_classifier(world, loop)
        rounds = learner.run(loop, classifier, RecordsInMemory())
        assert classifier.plain_fits == n_plain
        assert {"accuracy", "own.accuracy", "own.ece"} <= set(rounds[1].metrics)


def test_plain_and_own_metrics_of_softmax_are_the_same_numbers() -> None:
    world = make_world()
    loop = make_loop(world, evaluation="plain")
    rounds = learner.run(loop, make_classifier(world), RecordsInMemory())
    assert all(r.metrics["accuracy"] == r.metrics["own.accuracy"] for r in rounds[1:])
    assert all(r.metrics["loss"] == r.metrics["own.loss"] for r in rounds[1:])


def test_the_temperature_that_was_fitted_is_recorded() -> None:
    world = make_world()
    loop = make_loop(world, confidence="temperature_scaling")
    rounds = learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    assert all(r.metrics["calibration.temperature"] > 0 for r in rounds[1:])
    assert "calibrate" in rounds[1].seconds


def test_slices_are_measured_on_the_test_set_and_counted_among_the_queried() -> None:
    world = make_world()
    groups = tuple([["common", "rare case"][int(i % 5 == 0)] for i in world[k].ids.tolist()] for k in ("truth", "test"))
    loop = make_loop(world, groups=groups)
    records = RecordsInMemory()
    rounds = learner.run(loop, make_classifier(world), records)
    last, table = rounds[-2].metrics, records.tables[-2]["test"]
    rare = np.array(groups[1]) == "rare case"
    correct = table["log_probs"].argmax(axis=1) == table["label"]
    assert last["accuracy.rare case"] == pytest.approx(correct[rare].mean())
    assert last["worst_group_accuracy"] == min(last["accuracy.rare case"], last["accuracy.common"])
    asked = np.concatenate([r.query.ids for r in rounds[1:]])
    assert last["acquired.rare case"] == pytest.approx((asked % 5 == 0).mean())
    assert last["acquired.rare case"] + last["acquired.common"] == pytest.approx(1)
    assert "acquired.common" not in rounds[-1].metrics


def test_stopping_rules_judge_the_round_that_has_just_been_fitted() -> None:
    world = make_world()
    stopping = [{"name": "classification_change", "threshold": 0.999, "patience": 1}]
    loop = make_loop(world, stopping=stopping)
    records = RecordsInMemory()
    rounds = learner.run(loop, make_classifier(world), records)
    assert len(rounds) == 3
    before, after = (records.tables[i]["stop_set"]["predicted"] for i in (1, 2))
    assert rounds[2].metrics["stop_set_changed"] == pytest.approx((before != after).mean())
    assert "stop_set_changed" not in rounds[1].metrics
    assert rounds[2].stop_reason


def test_resuming_does_not_change_what_stopping_rules_see() -> None:
    world = make_world()
    loop = make_loop(world, stopping=[{"name": "kappa_agreement", "threshold": 0.9999, "window": 2}])
    resume_and_compare(world, loop, 3)


def test_validation_examples_are_never_queried_nor_learned_from() -> None:
    world = make_world()
    loop = make_loop(world, rounds=9, stopping=[{"name": "target_accuracy", "target": 0.99, "n_examples": 30}])
    rounds = learner.run(loop, make_classifier(world), RecordsInMemory())
    others = learner.run(make_loop(world, rounds=21), make_classifier(world), RecordsInMemory())
    assert {"validation_accuracy"} <= set(rounds[1].metrics)
    cell = learner._Cell(loop, make_classifier(world), RecordsInMemory(), None)
    held = set(cell.validation.ids.tolist())
    assert len(held) == 30
    assert not held & set(asked_ids(rounds).tolist())
    assert held & set(asked_ids(others).tolist())


def test_a_finished_cell_does_nothing() -> None:
    world = make_world()
    records = RecordsInMemory()
    learner.run(make_loop(world), make_classifier(world), records)
    again = make_classifier(world)
    learner.run(make_loop(world), again, records)
    assert again.fitted_on == []
    assert again.n_predicted == 0


def test_random_does_not_score_the_pool_but_knows_what_the_model_believed_of_its_query() -> None:
    world = make_world()
    classifier = make_classifier(world)
    rounds = learner.run(make_loop(world, strategy="random"), classifier, RecordsInMemory())
    assert classifier.n_predicted == 5 * len(world["test"]) + 4 * 5
    probs = rounds[2].query.probs
    assert probs is not None
    assert probs.shape == (5, 3)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0)


def test_passive_records_its_predictions_on_every_training_example() -> None:
    world = make_world()
    records = RecordsInMemory()
    rounds = learner.run(make_loop(world, strategy="passive"), make_classifier(world), records)
    assert len(rounds) == 2
    assert rounds[-1].stop_reason == "everything is labelled"
    np.testing.assert_array_equal(records.tables[1]["train"]["id"], world["truth"].ids)
    assert set(records.tables[1]) == {"test", "train"}
    train = records.tables[1]["train"]
    assert set(train) == {"id", "label", "log_probs", "confidence", "variability", "correctness"}
    # The fake moves from the mean of all centroids to its own in four epochs.
    points = np.array([world["pool"][id_] for id_ in train["id"].tolist()])
    means = np.stack([points[train["label"] == c].mean(axis=0) for c in range(3)])
    of_label = []
    for share in (0.2, 0.2 + 0.8 / 3, 0.2 + 1.6 / 3, 1):
        centres = means.mean(axis=0) + (means - means.mean(axis=0)) * share
        odds = np.exp(-np.linalg.norm(points[:, None] - centres, axis=2))
        of_label.append((odds / odds.sum(axis=1, keepdims=True))[np.arange(120), train["label"]])
    np.testing.assert_allclose(train["confidence"], np.mean(of_label, axis=0), atol=1e-5)
    np.testing.assert_allclose(train["variability"], np.std(of_label, axis=0), atol=1e-5)
    assert set(np.unique(train["correctness"])) <= {0, 0.25, 0.5, 0.75, 1}


def test_of_a_large_training_split_some_examples_are_followed_the_same_for_every_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learner, "MAX_CHARTED", 50)
    world, followed = make_world(), []
    for seed in (1, 2):
        records = RecordsInMemory()
        learner.run(make_loop(world, strategy="passive", seed=seed), make_classifier(world), records)
        train = records.tables[1]["train"]
        known = ~np.isnan(train["confidence"])
        np.testing.assert_array_equal(known, ~np.isnan(train["correctness"]))
        followed.append(train["id"][known].tolist())
    assert followed[0] == followed[1]
    assert len(followed[0]) == 50


def test_clipping_leaves_out_what_the_plain_strategy_asks_first() -> None:
    world = make_world()
    plain = learner.run(make_loop(world, rounds=1), make_classifier(world), RecordsInMemory())
    clip = [{"name": "uncertainty_clipping", "fraction": 0.05}]
    clipped = learner.run(make_loop(world, rounds=1, filters=clip), make_classifier(world), RecordsInMemory())
    n_clipped = int(0.05 * (120 - 6))
    assert n_clipped == 5
    assert not set(plain[1].query.ids.tolist()) & set(clipped[1].query.ids.tolist())
    assert clipped[1].query.scores.max() <= plain[1].query.scores.min()


def test_the_order_of_the_training_split_does_not_change_the_query() -> None:
    world = make_world()
    one = learner.run(make_loop(world), make_classifier(world), RecordsInMemory())
    backwards = dict(reversed(list(world["pool"].items())))
    two = learner.run(make_loop(world), make_classifier({**world, "pool": backwards}), RecordsInMemory())
    assert what_was_computed(one) == what_was_computed(two)


def test_a_query_larger_than_the_pool_stops_the_cell_with_the_numbers() -> None:
    world = make_world(n_train=20)
    loop = make_loop(world, rounds=9)
    with pytest.raises(
        RoundError, match=r"pool exhausted in round 3: 4 candidates left after filters, query_size is 5"
    ):
        learner.run(loop, make_classifier(world), RecordsInMemory())


def test_the_pool_exhausted_rule_ends_the_cell_in_peace() -> None:
    world = make_world(n_train=20)
    rounds = learner.run(
        make_loop(world, rounds=9, stopping=["pool_exhausted"]), make_classifier(world), RecordsInMemory()
    )
    assert rounds[-1].stop_reason == "pool exhausted: 4 examples left, query_size is 5"
    assert rounds[-1].n_labeled == 16


def test_a_label_budget_is_never_overspent() -> None:
    world = make_world()
    stopping = [{"name": "label_budget", "n_labels": 18}]
    rounds = learner.run(make_loop(world, stopping=stopping), make_classifier(world), RecordsInMemory())
    assert rounds[-1].n_labeled == 16
    assert rounds[-1].stop_reason == "label budget: 16 of 18 labels asked"


@dataclass(frozen=True)
class Half:
    """Abstains on every second question."""

    name: ClassVar[str] = "half"
    may_abstain: ClassVar[bool] = True
    is_outside: ClassVar[bool] = False

    def label(self, ids: IntArray, truth: LabeledSet) -> Annotation:
        labels = truth.labels[np.searchsorted(truth.ids, ids)].copy()
        abstained = np.arange(len(ids)) % 2 == 1
        labels[abstained] = -1
        return Annotation(ids=ids, labels=labels, abstained=abstained)


def with_oracle(loop: Loop, oracle: object) -> Loop:
    return Loop(**{**vars(loop), "oracle": oracle})


def test_an_abstained_example_is_not_asked_again_and_not_learned_from() -> None:
    world = make_world()
    rounds = learner.run(with_oracle(make_loop(world), Half()), make_classifier(world), RecordsInMemory())
    assert [r.n_labeled for r in rounds] == [0, 3, 6, 9, 12, 15]
    assert len(np.unique(asked_ids(rounds))) == 26


def test_an_answer_outside_the_classes_is_refused() -> None:
    class Wrong(Half):
        def label(self, ids: IntArray, truth: LabeledSet) -> Annotation:
            return Annotation(ids=ids, labels=np.full(len(ids), 7), abstained=np.zeros(len(ids), bool))

    world = make_world()
    with pytest.raises(RoundError, match=r"oracle 'half' answered class 7, the classes are 0 to 2"):
        learner.run(with_oracle(make_loop(world), Wrong()), make_classifier(world), RecordsInMemory())


def test_an_answer_to_another_question_is_refused() -> None:
    class Swapped(Half):
        def label(self, ids: IntArray, truth: LabeledSet) -> Annotation:
            return super().label(ids[::-1].copy(), truth)

    world = make_world()
    with pytest.raises(RoundError, match="answered other examples than were asked"):
        learner.run(with_oracle(make_loop(world), Swapped()), make_classifier(world), RecordsInMemory())


def test_a_non_finite_score_stops_the_cell_and_names_the_ids() -> None:
    world = make_world()
    loop = make_loop(world)

    class Broken(type(loop.strategy)):  # type: ignore[misc]
        def score(self, pool, stream):  # type: ignore[no-untyped-def]
            scores = super().score(pool, stream)
            scores[pool.ids == pool.ids[3]] = np.nan
            return scores

    broken = Loop(**{**vars(loop), "strategy": Broken()})
    with pytest.raises(RoundError, match=r"'margin' gave a NaN score for 1 examples \(ids \d+\)"):
        learner.run(broken, make_classifier(world), RecordsInMemory())
