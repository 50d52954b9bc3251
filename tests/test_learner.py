"""The loop against fakes: no torch, no Ray, no files."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from al_ray import learner
from al_ray.core.types import Annotation, IntArray, LabeledSet, RoundRecord, asked_ids
from al_ray.errors import RoundError
from al_ray.strategy import strategies
from tests.fakes import RecordsInMemory, make_classifier, make_loop, make_world


def what_was_computed(rounds: list[RoundRecord]) -> list[dict]:
    return [{**r.to_json(), "seconds": None} for r in rounds]


@pytest.mark.parametrize("strategy", strategies.names())
def test_n_rounds_spend_exactly_n_times_query_size_labels(strategy: str) -> None:
    world = make_world()
    rounds = learner.run(make_loop(world, strategy=strategy), make_classifier(world), RecordsInMemory())
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
    loop = make_loop(world, strategy=strategy, filters=[] if strategy == "passive" else ["uncertainty_clipping"])
    whole = learner.run(loop, make_classifier(world), RecordsInMemory())
    records = RecordsInMemory(fail_at=fail_at)
    if fail_at < len(whole):
        with pytest.raises(KeyboardInterrupt):
            learner.run(loop, make_classifier(world), records)
    records.fail_at = None
    assert what_was_computed(learner.run(loop, make_classifier(world), records)) == what_was_computed(whole)
    assert what_was_computed(records.rounds()) == what_was_computed(whole)


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
    np.testing.assert_array_equal(records.arrays[1]["train"]["id"], world["truth"].ids)
    assert set(records.arrays[1]) == {"test", "train"}


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

    def label(self, ids: IntArray, truth: LabeledSet) -> Annotation:
        labels = truth.labels[np.searchsorted(truth.ids, ids)].copy()
        abstained = np.arange(len(ids)) % 2 == 1
        labels[abstained] = -1
        return Annotation(ids=ids, labels=labels, abstained=abstained)


def with_oracle(loop: learner.Loop, oracle: object) -> learner.Loop:
    return learner.Loop(**{**vars(loop), "oracle": oracle})


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

    broken = learner.Loop(**{**vars(loop), "strategy": Broken()})
    with pytest.raises(RoundError, match=r"'margin' gave a NaN score for 1 examples \(ids \d+\)"):
        learner.run(broken, make_classifier(world), RecordsInMemory())
