"""The loop over a pool that holds texts of no class, against fakes: they cost, and nothing learns from them."""

from typing import Any

import numpy as np
import pytest

from al_ray.confidence import confidences
from al_ray.core.types import LabeledSet, RoundRecord, asked_ids, evaluated_after, labeled_after, rejected_after
from al_ray.errors import RoundError
from al_ray.evaluation import evaluations
from al_ray.filtering import filters
from al_ray.initial import initial_queries
from al_ray.loop import learner
from al_ray.strategy import strategies
from tests.fakes import NearestCentroid, RecordsInMemory, make_classifier, make_loop, make_world

EVERY = 4  # not a multiple of the number of classes, which take turns


def open_world(every: int = EVERY) -> dict[str, Any]:
    """Return blobs of which every fourth pool example lies elsewhere and is of no class."""
    world = make_world(n_train=150)
    labels = world["truth"].labels.copy()
    labels[::every] = -1
    draws = np.random.default_rng(5)
    for id_ in world["truth"].ids[::every].tolist():
        world["pool"][id_] = draws.normal(size=2) + 12
    return {**world, "truth": LabeledSet(ids=world["truth"].ids, labels=labels)}


def run(world: dict[str, Any], **changes: Any) -> tuple[list[RoundRecord], RecordsInMemory]:
    loop, records = make_loop(world, **changes), RecordsInMemory()
    return learner.run(loop, make_classifier(world, loop), records), records


def no_class(world: dict[str, Any]) -> set[int]:
    return set(world["truth"].ids[world["truth"].labels == -1].tolist())


@pytest.mark.parametrize("strategy", strategies.names())
def test_every_strategy_pays_for_texts_of_no_class_and_learns_from_none(strategy: str) -> None:
    world = open_world()
    rounds, records = run(world, strategy=strategy)
    odd, asked = no_class(world), asked_ids(rounds)
    passive = strategies.get(strategy).labels_everything
    assert len(np.unique(asked)) == len(asked) == (150 if passive else 26)
    labeled = labeled_after(rounds)
    assert odd.isdisjoint(labeled.ids.tolist())
    assert rejected_after(rounds).tolist() == sorted(odd & set(asked.tolist()))
    for record in rounds[1:]:
        before = rounds[: record.round_index]
        assert record.metrics["n_rejected"] == len(odd & set(asked_ids(before).tolist()))
        assert record.n_labeled + record.metrics["n_rejected"] == len(asked_ids(before))
        assert record.metrics["accuracy"] > 0.5
    if passive:
        assert odd.isdisjoint(records.tables[1]["train"]["id"].tolist())
        assert records.tables[1]["train"]["label"].min() == 0


@pytest.mark.parametrize("initial", initial_queries.names())
def test_every_initial_query_copes_and_one_that_knows_labels_takes_none_of_no_class(initial: str) -> None:
    world = open_world()
    rounds, _ = run(world, initial=initial, initial_size=20, strategy="random")
    first = rounds[0].query.ids
    assert len(np.unique(first)) == 20
    if initial_queries.get(initial).needs_truth:
        assert no_class(world).isdisjoint(first.tolist())
        assert rounds[1].n_labeled == 20


def test_a_pool_in_which_everything_has_a_class_gets_no_new_metric() -> None:
    rounds, _ = run(make_world())
    assert all("n_rejected" not in record.metrics for record in rounds)


def test_validation_examples_all_have_a_class() -> None:
    world = open_world()
    stopping = [{"name": "target_accuracy", "target": 1.0, "n_examples": 40}]
    cell = learner._Cell(make_loop(world, stopping=stopping), make_classifier(world), RecordsInMemory(), None)
    assert len(cell.validation) == 40
    assert cell.validation.labels.min() == 0
    assert len(cell.truth) == 110
    assert no_class(world) <= set(cell.truth.ids.tolist())
    rounds, _ = run(world, stopping=stopping)
    assert 0 < rounds[1].metrics["validation_accuracy"] <= 1


@pytest.mark.parametrize("stopping", ["classification_change", "kappa_agreement", "overall_uncertainty"])
def test_stopping_rules_without_labels_run(stopping: str) -> None:
    rounds, _ = run(open_world(), stopping=[stopping])
    assert rounds[-1].stop_reason is not None


def test_a_label_budget_counts_what_was_asked_for() -> None:
    rounds, _ = run(open_world(), stopping=[{"name": "label_budget", "n_labels": 18}], initial="random")
    assert len(asked_ids(rounds)) == 16


def test_nothing_is_ever_fitted_on_a_label_that_is_none() -> None:
    world = open_world()
    loop = make_loop(world, strategy="margin", initial="random", initial_size=12)

    class Checked(NearestCentroid):
        def finetune(self, labeled, **options):  # type: ignore[no-untyped-def]
            assert labeled.labels.min() >= 0
            return super().finetune(labeled, **options)

    model = Checked(world["pool"], world["test_points"], world["n_classes"])
    rounds = learner.run(loop, model, RecordsInMemory())
    assert model.fitted_on == [record.n_labeled for record in rounds[1:]]


def test_a_start_without_any_label_says_what_to_do() -> None:
    with pytest.raises(RoundError, match=r"abstained on every query. Raise initial_size, or use 'initial: stratified'"):
        run(open_world(every=1), initial="random")


@pytest.mark.parametrize("name", filters.names())
def test_every_filter_copes_and_what_was_of_no_class_is_not_asked_again(name: str) -> None:
    sized: dict[str, Any] = {
        "random_subsample": {"size": 60},
        "anchor_subpool": {"size": 60},
        "unsure_subsample": {"full_rounds": (1,)},
    }
    filtered = [{"name": name, **sized.get(name, {})}]
    rounds, _ = run(open_world(), filters=filtered, initial="random", initial_size=20, strategy="least_confidence")
    assert len(np.unique(asked_ids(rounds))) == len(asked_ids(rounds)) == 40


@pytest.mark.parametrize("name", confidences.names())
@pytest.mark.parametrize("evaluation", ["own", "plain"])
def test_every_confidence_method_copes(name: str, evaluation: str) -> None:
    rounds, _ = run(open_world(), confidence=name, evaluation=evaluation, initial="random", initial_size=20)
    assert rounds[-1].metrics["accuracy"] > 0.5
    assert rounds[-1].metrics["n_rejected"] == 40 - rounds[-1].n_labeled


@pytest.mark.parametrize("name", evaluations.names())
def test_an_estimate_without_a_test_split_leaves_texts_of_no_class_out_of_its_answers(name: str) -> None:
    world = open_world()
    estimation = evaluations.build({"name": name, "n": 60})
    rounds, _ = run(world, estimation=estimation, rounds=12, initial="random", initial_size=20, query_size=5)
    drawn = evaluated_after(rounds)
    odd = np.isin(drawn.ids, list(no_class(world)))
    assert odd.any()
    np.testing.assert_array_equal(drawn.labels == -1, odd)
    last = rounds[-1].metrics
    assert last["n_evaluated"] <= (~odd).sum()
    assert last["estimated_accuracy_low"] <= last["estimated_accuracy"] <= last["estimated_accuracy_high"]
    assert abs(last["estimated_accuracy"] - last["accuracy"]) < 0.2


def test_the_upper_bound_asks_for_no_text_of_no_class() -> None:
    world = open_world()
    rounds, _ = run(world, strategy={"name": "optimal", "n_annealed": 20, "n_greedy": 5})
    assert not no_class(world) & set(np.concatenate([each.query.ids for each in rounds[1:]]).tolist())


def test_texts_of_no_class_are_the_hardest() -> None:
    world = open_world()
    hard = len(no_class(world)) / len(world["truth"])
    rounds, _ = run(world, filters=[{"name": "exclude_hardest", "keep": 1 - hard}])
    assert not no_class(world) & set(np.concatenate([each.query.ids for each in rounds[1:]]).tolist())
