"""The loop with people outside it: pending queries, labels given beforehand, changed minds, and a pool that ends."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from al_ray.core.seeding import tie_keys
from al_ray.core.types import (
    Draws,
    Float64Array,
    FloatArray,
    IntArray,
    LabeledSet,
    RoundRecord,
    asked_ids,
    evaluated_after,
    labeled_after,
)
from al_ray.evaluation import Estimate, Evaluation
from al_ray.loop import learner
from al_ray.loop.learner import POOL_ASKED
from al_ray.strategy import strategies
from tests.fakes import PeopleInMemory, RecordsInMemory, make_classifier, make_loop, make_world

SIMULATED = ("labels_everything", "needs_hindsight")
ASKING = [name for name in strategies.names() if not any(getattr(strategies.get(name), flag) for flag in SIMULATED)]


def what_was_computed(rounds: list[RoundRecord]) -> list[dict]:
    return [{**r.to_json(), "seconds": None} for r in rounds]


def hidden_labels(world: dict) -> dict[int, int]:
    return dict(zip(world["truth"].ids.tolist(), world["truth"].labels.tolist(), strict=True))


@dataclass(frozen=True)
class HashedSample(Evaluation):
    """A third of the pool, four texts a round, in the order of a hash; the estimate is the plain mean."""

    name: ClassVar[str] = "hashed"
    source: ClassVar[str] = "the tests"

    def n_held_out(self, n_pool: int) -> int:
        return n_pool // 3

    def n_per_round(self, query_size: int) -> int:
        return 4

    def draw(self, ids: IntArray, probs: FloatArray | None, drawn: Draws, n: int, stream: np.random.Generator) -> Draws:
        left = np.setdiff1d(ids, drawn.ids)
        new = left[np.argsort(tie_keys(left, 7))[:n]]
        return Draws(ids=new, proposals=1 / (len(ids) - len(drawn) - np.arange(len(new), dtype=np.float64)))

    def estimate(self, drawn: Draws, losses: Float64Array, n_test_pool: int) -> Estimate | None:
        known = losses[~np.isnan(losses)]
        return Estimate(value=float(known.mean()), low=0.0, high=1.0, n=len(known)) if len(known) else None


def answer_in_parts(world: dict, loop, n_rounds: int, seed: int = 0) -> list[RoundRecord]:
    """Answer what is asked in another order and in parts, with a fresh process in between; the last query stays out."""
    rng, labels = np.random.default_rng(seed), hidden_labels(world)
    people, records = PeopleInMemory(), RecordsInMemory()
    while True:
        rounds = learner.run(loop, make_classifier(world, loop), records, people)
        pending = people.pending()
        if pending is None or len(rounds) == n_rounds:
            return rounds
        evaluation = pending[0].evaluation
        asked = [*pending[0].query.ids.tolist(), *([] if evaluation is None else evaluation.ids.tolist())]
        missing = [id_ for id_ in asked if id_ not in people.answers]
        for id_ in rng.permutation(missing)[: rng.integers(1, len(missing) + 1)].tolist():
            people.answers[id_] = labels[id_]


@pytest.mark.parametrize("strategy", ASKING)
def test_answers_in_any_order_and_in_parts_give_the_rounds_of_the_ground_truth(strategy: str) -> None:
    world = make_world()
    truth = make_loop(world, strategy=strategy, initial="random")
    whole = learner.run(truth, make_classifier(world, truth), RecordsInMemory())
    loop = make_loop(world, strategy=strategy, initial="random", oracle="people")
    rounds = answer_in_parts(world, loop, 99)
    assert what_was_computed(rounds) == what_was_computed(whole)


def test_a_query_is_asked_once_however_often_the_loop_is_started() -> None:
    world, people, records = make_world(), PeopleInMemory(), RecordsInMemory()
    loop = make_loop(world, initial="random", oracle="people")
    for _ in range(3):
        assert learner.run(loop, make_classifier(world, loop), records, people) == []
    assert people.n_asked == 1
    people.answers = hidden_labels(world)
    assert learner.run(loop, make_classifier(world, loop), records, people)[-1].stop_reason == "all 4 rounds done"


def test_labels_that_were_there_come_first_and_save_the_initial_query() -> None:
    world = make_world()
    given = world["truth"].ids[5:9]
    some = make_loop(world, initial="random", oracle="people", given=given)
    people, records = PeopleInMemory(dict(list(hidden_labels(world).items()))), RecordsInMemory()
    first = learner.run(some, make_classifier(world, some), records, people)[0]
    assert first.query.ids[:4].tolist() == given.tolist()
    assert len(set(first.query.ids.tolist())) == 6
    many = make_loop(world, initial="random", oracle="people", given=world["truth"].ids[:50])
    first = learner.run(many, make_classifier(world, many), RecordsInMemory(), people)[0]
    assert first.query.ids.tolist() == world["truth"].ids[:50].tolist()


def test_people_who_are_sure_of_nothing_are_asked_for_other_examples() -> None:
    world, records = make_world(), RecordsInMemory()
    loop = make_loop(world, initial="random", oracle="people")
    people = PeopleInMemory()
    learner.run(loop, make_classifier(world, loop), records, people)
    refused = people.pending()[0].query.ids.tolist()
    people.answers = {**hidden_labels(world), **dict.fromkeys(refused, -1)}
    rounds = learner.run(loop, make_classifier(world, loop), records, people)
    assert rounds[1].n_labeled == 0
    assert len(rounds[1].query) == 6
    assert rounds[2].n_labeled == 6
    assert not set(refused) & {*labeled_after(rounds).ids.tolist()}


@pytest.mark.parametrize("n_refused", [1, 2])
def test_rules_that_compare_models_begin_with_the_first_model(n_refused: int) -> None:
    world, records, people = make_world(), RecordsInMemory(), PeopleInMemory()
    loop = make_loop(world, initial="random", oracle="people", stopping=["classification_change", "kappa_agreement"])
    for _ in range(n_refused):
        learner.run(loop, make_classifier(world, loop), records, people)
        people.answers |= dict.fromkeys(people.pending()[0].query.ids.tolist(), -1)
    people.answers = hidden_labels(world) | people.answers
    rounds = learner.run(loop, make_classifier(world, loop), records, people)
    fitted = [record for record in rounds if record.n_labeled]
    assert fitted[0].round_index == n_refused + 1
    assert "stop_set_changed" not in fitted[0].metrics
    assert all("stop_set_changed" in record.metrics for record in fitted[1:])


def test_features_of_the_first_model_are_those_of_the_first_that_had_labels() -> None:
    world, records, people = make_world(), RecordsInMemory(), PeopleInMemory()
    loop = make_loop(world, initial="random", oracle="people", confidence="gonsior2022/trust_score")
    learner.run(loop, make_classifier(world, loop), records, people)
    refused = people.pending()[0].query.ids.tolist()
    people.answers = hidden_labels(world) | dict.fromkeys(refused, -1)
    classifier = make_classifier(world, loop)
    learner.run(loop, classifier, records, people)
    assert 0 not in classifier.fitted_on


def test_people_are_asked_for_what_is_left_and_then_it_ends() -> None:
    world = make_world(n_train=30)
    loop = make_loop(world, initial="random", oracle="people", rounds=99, query_size=7)
    people, records = PeopleInMemory(hidden_labels(world)), RecordsInMemory()
    rounds = learner.run(loop, make_classifier(world, loop), records, people)
    assert [len(record.query) for record in rounds] == [6, 7, 7, 7, 3, 0]
    assert rounds[-1].stop_reason == POOL_ASKED
    assert rounds[-1].n_labeled == 30


def test_a_stopping_rule_advises_and_does_not_end_it() -> None:
    world = make_world()
    loop = make_loop(world, initial="random", oracle="people", stopping=[{"name": "label_budget", "n_labels": 8}])
    rounds = learner.run(loop, make_classifier(world, loop), RecordsInMemory(), PeopleInMemory(hidden_labels(world)))
    assert rounds[-1].stop_reason == "all 4 rounds done"


def test_a_mind_that_is_changed_changes_what_the_next_model_is_fitted_on() -> None:
    world = make_world()
    loop = make_loop(world, initial="random", oracle="people")
    people, records = PeopleInMemory(hidden_labels(world)), RecordsInMemory()
    learner.run(loop, make_classifier(world, loop), records, people)
    rounds = records.rounds()
    first = int(rounds[0].query.ids[0])
    revised = [*rounds[:2], RoundRecord.from_json({**rounds[2].to_json(), "revised": {"ids": [first], "labels": [2]}})]
    labels = dict(zip(labeled_after(revised).ids.tolist(), labeled_after(revised).labels.tolist(), strict=True))
    assert labels[first] == 2
    before = labeled_after(rounds[:3])
    assert labels == dict(zip(before.ids.tolist(), before.labels.tolist(), strict=True)) | {first: 2}
    gone = RoundRecord.from_json({**rounds[2].to_json(), "revised": {"ids": [first], "labels": [-1]}})
    assert len(labeled_after([*rounds[:2], gone])) == len(labeled_after(rounds[:3])) - 1


def test_what_measures_the_model_is_held_out_asked_beside_and_estimated_from() -> None:
    world = make_world()
    loop = make_loop(world, initial="random", estimation=HashedSample())
    rounds = learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    drawn = evaluated_after(rounds)
    held = set(learner.held_out(loop).tolist())
    assert len(held) == 40
    assert not held & set(asked_ids(rounds).tolist())
    assert set(drawn.ids.tolist()) <= held
    assert [0 if r.evaluation is None else len(r.evaluation.ids) for r in rounds] == [4, 4, 4, 4, 4, 0]
    labels = hidden_labels(world)
    assert drawn.labels.tolist() == [labels[id_] for id_ in drawn.ids.tolist()]
    assert [r.metrics.get("n_evaluated") for r in rounds] == [None, 4, 8, 12, 16, 20]
    classifier = make_classifier(world, loop)
    classifier.finetune(labeled_after(rounds[:-1]), round_index=5)
    ids = np.sort(drawn.ids)
    predicted = classifier.predict("pool", ids).logits[:, 0].argmax(axis=1)
    share = np.mean([p == labels[i] for i, p in zip(ids.tolist(), predicted.tolist(), strict=True)])
    assert rounds[-1].metrics["estimated_accuracy"] == pytest.approx(share)


def test_people_measure_the_model_as_the_ground_truth_does() -> None:
    world = make_world()
    truth = make_loop(world, initial="random", estimation=HashedSample())
    whole = learner.run(truth, make_classifier(world, truth), RecordsInMemory())
    loop = make_loop(world, initial="random", oracle="people", estimation=HashedSample())
    assert what_was_computed(answer_in_parts(world, loop, 99, seed=3)) == what_was_computed(whole)


def test_without_a_test_split_a_round_holds_what_was_estimated_alone() -> None:
    world = make_world()
    world["test"] = LabeledSet(ids=np.empty(0, np.int64), labels=np.empty(0, np.int64))
    loop = make_loop(world, initial="random", estimation=HashedSample())
    rounds = learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    names = {"estimated_accuracy", "estimated_accuracy_low", "estimated_accuracy_high", "n_evaluated"}
    assert set(rounds[-1].metrics) == names
