"""Every registered plug-in keeps the contract of its family; a new one is tested the moment its file exists."""

import dataclasses

import numpy as np
import pytest

from al_ray.confidence import confidences
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, ModelOutputs, PoolView, Ranking
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.filtering import filters
from al_ray.initial import initial_queries
from al_ray.initial.stratified import apportion
from al_ray.oracle import oracles
from al_ray.registry import option_of
from al_ray.stopping import stopping_rules
from al_ray.strategy import strategies

FAMILIES = [confidences, strategies, filters, oracles, stopping_rules, initial_queries]
PLUGINS = [(family, name) for family in FAMILIES for name in family.names()]
NEEDED = {"label_budget": {"n_labels": 100}}


def build(family, name):
    return family.build({"name": name, **NEEDED.get(name, {})})


def pool_view(n: int = 50, n_classes: int = 4, n_draws: int = 3, seed: int = 0) -> PoolView:
    rng = np.random.default_rng(seed)
    return PoolView(
        ids=np.sort(rng.choice(10_000, size=n, replace=False)).astype(np.int64),
        log_probs=log_softmax(rng.normal(size=(n, n_draws, n_classes)) * 3),
        features=rng.normal(size=(n, 8)).astype(np.float32),
        dynamics=rng.integers(n_classes, size=(n, 5)),
        labeled=LabeledSet(ids=np.arange(20_000, 20_010), labels=np.arange(10) % n_classes),
    )


@pytest.mark.parametrize(("family", "name"), PLUGINS)
def test_a_plugin_is_a_frozen_dataclass_whose_options_read_back(family, name) -> None:
    plugin = build(family, name)
    assert dataclasses.is_dataclass(plugin)
    assert family.build(option_of(plugin)) == plugin
    field = next(iter(dataclasses.fields(plugin)), None)
    if field is not None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(plugin, field.name, 1)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_a_misspelt_name_gets_the_nearest_one(family) -> None:
    known = family.names()[0]
    with pytest.raises(ConfigError, match=rf"unknown {family.family} '{known}x'. Did you mean '{known}'\? Known: "):
        family.build(known + "x")


def test_options_are_strict() -> None:
    with pytest.raises(ConfigError, match=r"unknown option of filter 'uncertainty_clipping': 'fracton'. Did you mean"):
        filters.build({"name": "uncertainty_clipping", "fracton": 0.1})
    with pytest.raises(ConfigError, match=r"option 'fraction' of filter 'uncertainty_clipping' is '0.1'.*takes float"):
        filters.build({"name": "uncertainty_clipping", "fraction": "0.1"})
    with pytest.raises(ConfigError, match=r"fraction is 1.0, it must be at least 0 and below 1"):
        filters.build({"name": "uncertainty_clipping", "fraction": 1.0})
    with pytest.raises(ConfigError, match=r"stopping rule 'label_budget' needs the option 'n_labels' \(int\)"):
        stopping_rules.build("label_budget")
    with pytest.raises(ConfigError, match=r"a filter is a name or a mapping with a 'name', found 3"):
        filters.build(3)


@pytest.mark.parametrize("name", confidences.names())
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_confidence_gives_normalised_log_probabilities(name: str, scale: float) -> None:
    method = confidences.build(name)
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(20, 1, 5)) * scale).astype(np.float32)
    log_probs = method.log_probs(ModelOutputs(ids=np.arange(20), logits=logits))
    assert log_probs.shape == (20, method.n_draws, 5)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=2), 1.0, atol=1e-9)


@pytest.mark.parametrize("name", strategies.names())
def test_a_strategy_gives_one_finite_score_an_example_whatever_the_pool_order(name: str) -> None:
    strategy, pool = strategies.build(name), pool_view()
    scores = strategy.score(pool, stream(1, "round", 1))
    assert scores.shape == (50,)
    assert np.isfinite(scores).all()
    order = np.random.default_rng(5).permutation(50)
    assert pool.features is not None
    assert pool.dynamics is not None
    shuffled = PoolView(
        ids=pool.ids[order],
        log_probs=pool.log_probs[order],
        features=pool.features[order],
        dynamics=pool.dynamics[order],
        labeled=pool.labeled,
    )
    again = strategy.score(shuffled, stream(1, "round", 1))
    one, two = rank(pool.ids, scores, 1), rank(shuffled.ids, again, 1)
    np.testing.assert_array_equal(one.ids, two.ids)


def test_random_scores_are_uniform_and_new_every_round() -> None:
    pool = pool_view(n=4000)
    one = strategies.build("random").score(pool, stream(1, "round", 1))
    two = strategies.build("random").score(pool, stream(1, "round", 2))
    assert abs(one.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
    assert abs(np.corrcoef(one, pool.ids)[0, 1]) < 0.05


@pytest.mark.parametrize("name", filters.names())
def test_a_filter_keeps_the_order_and_invents_nothing(name: str) -> None:
    ranking = Ranking(ids=np.arange(100)[::-1].copy(), scores=np.linspace(1, 0, 100))
    candidate_filter = filters.build(name)
    kept = candidate_filter.apply(ranking)
    at = np.flatnonzero(np.isin(ranking.ids, kept.ids))
    np.testing.assert_array_equal(ranking.ids[at], kept.ids)
    assert len(ranking) - len(kept) <= candidate_filter.n_removed(len(ranking))


@pytest.mark.parametrize(("fraction", "n_kept"), [(0.0, 90), (0.05, 86), (0.1, 81), (0.999, 1)])
def test_clipping_leaves_out_the_floor_of_its_share_from_the_uncertain_end(fraction: float, n_kept: int) -> None:
    ranking = Ranking(ids=np.arange(90), scores=-np.arange(90.0))
    kept = filters.build({"name": "uncertainty_clipping", "fraction": fraction}).apply(ranking)
    np.testing.assert_array_equal(kept.ids, np.arange(90 - n_kept, 90))


@pytest.mark.parametrize("name", oracles.names())
def test_an_oracle_answers_the_same_ids_in_the_same_order(name: str) -> None:
    truth = LabeledSet(ids=np.array([2, 5, 7]), labels=np.array([1, 0, 2]))
    annotation = oracles.build(name).label(np.array([7, 2]), truth)
    assert annotation.ids.tolist() == [7, 2]
    if name == "ground_truth":
        assert annotation.labels.tolist() == [2, 1]
        assert not annotation.abstained.any()


@pytest.mark.parametrize("name", initial_queries.names())
def test_an_initial_query_picks_so_many_distinct_examples_and_hangs_on_the_seed(name: str) -> None:
    labels = np.repeat([0, 1, 2], [70, 25, 5])
    truth = LabeledSet(ids=np.arange(100) * 2, labels=labels)
    start = initial_queries.build(name)
    one = start.pick(truth, 3, 12, stream(1, "initial"))
    assert len(set(one.tolist())) == 12
    assert set(one.tolist()) <= set(truth.ids.tolist())
    np.testing.assert_array_equal(one, start.pick(truth, 3, 12, stream(1, "initial")))
    assert set(one.tolist()) != set(start.pick(truth, 3, 12, stream(2, "initial")).tolist())


@pytest.mark.parametrize(
    ("counts", "size", "seats"),
    [([70, 25, 5], 10, [7, 2, 1]), ([98, 1, 1], 10, [8, 1, 1]), ([50, 50, 0], 5, [3, 2, 0]), ([3, 3, 3], 9, [3, 3, 3])],
)
def test_seats_follow_class_shares_with_at_least_one_each(counts: list[int], size: int, seats: list[int]) -> None:
    assert apportion(np.array(counts), size).tolist() == seats


def test_a_stratified_start_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"initial_size is 2, .* at least one example of each of the 3 classes"):
        apportion(np.array([5, 5, 5]), 2)
