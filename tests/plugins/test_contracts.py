"""Every registered plug-in keeps the contract of its family; a new one is tested the moment its file exists."""

import dataclasses

import numpy as np
import pytest

from al_ray.confidence import confidences
from al_ray.confidence.mc_dropout import MCDropout
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import (
    Hindsight,
    History,
    LabeledSet,
    ModelOutputs,
    PoolView,
    Ranking,
    RowView,
    StartPool,
    UnscoredPool,
)
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.filtering import filters
from al_ray.filtering.uncertainty_clipping import UncertaintyClipping
from al_ray.initial import initial_queries
from al_ray.initial.stratified import apportion
from al_ray.oracle import oracles
from al_ray.registry import option_of
from al_ray.stopping import stopping_rules
from al_ray.strategy import strategies
from tests.fakes import QUICK

FAMILIES = [confidences, strategies, filters, oracles, stopping_rules, initial_queries]
PLUGINS = [(family, name) for family in FAMILIES for name in family.names()]
NEEDED = {"label_budget": {"n_labels": 100}, "target_accuracy": {"target": 0.9}, **QUICK}


def build(family, name):
    return family.build({"name": name, **NEEDED.get(name, {})})


def pool_view(n: int = 50, n_classes: int = 4, n_draws: int = 3, seed: int = 0) -> PoolView:
    rng = np.random.default_rng(seed)

    def unit(rows: int) -> np.ndarray:
        values = rng.normal(size=(rows, 6)).astype(np.float32)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    return PoolView(
        ids=np.sort(rng.choice(10_000, size=n, replace=False)).astype(np.int64),
        log_probs=log_softmax(rng.normal(size=(n, n_draws, n_classes)) * 3),
        logits=np.random.default_rng(seed + 1).normal(size=(n, n_draws, n_classes)).astype(np.float32) * 3,
        features=rng.normal(size=(n, 8)).astype(np.float32),
        embeddings=RowView.of(unit(n)),
        predicted=rng.integers(n_classes, size=n),
        uncertainty=rng.normal(size=n),
        dynamics=log_softmax(rng.normal(size=(n, 5, n_classes))),
        truth=rng.integers(n_classes, size=n),
        last_scores=np.full(n, np.nan),
        hindsight=Hindsight(
            test_features=rng.normal(size=(30, 8)).astype(np.float32),
            test_labels=rng.integers(n_classes, size=30),
            query_size=4,
            n_queries=3,
        ),
        labeled=LabeledSet(ids=np.arange(20_000, 20_010), labels=np.arange(10) % n_classes),
        labeled_log_probs=log_softmax(rng.normal(size=(10, n_draws, n_classes)) * 3),
        labeled_features=rng.normal(size=(10, 8)).astype(np.float32),
        labeled_embeddings=unit(10),
        labeled_uncertainty=rng.normal(size=10),
        history=History(
            ids=np.arange(20_004, 20_010),
            labels=np.array([0, 1, -1, 1, 0, 1]),
            arms=np.array([0, 1, 1, 0, 1, 1]),
            round_index=np.array([1, 1, 1, 2, 2, 2]),
        ),
        labeled_dynamics=log_softmax(np.random.default_rng(seed + 2).normal(size=(10, 5, n_classes))),
        rejected=np.arange(30_000, 30_006),
        rejected_features=rng.normal(size=(6, 8)).astype(np.float32),
        rejected_embeddings=unit(6),
    )


def unscored(pool: PoolView) -> UnscoredPool:
    return UnscoredPool(
        ids=pool.ids,
        embeddings=pool.embeddings,
        last_scores=np.where(pool.ids % 3 == 0, np.nan, pool.uncertainty),
        hardness=np.random.default_rng(5).permutation(np.arange(1, len(pool) + 1) / len(pool)),
        labeled=pool.labeled,
        labeled_embeddings=pool.labeled_embeddings,
        n_classes=4,
        round_index=3,
        query_size=10,
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


@pytest.mark.parametrize(("family", "name"), [(f, n) for f, n in PLUGINS if f is not oracles])
def test_a_plugin_names_its_source_and_says_in_one_line_what_it_is(family, name) -> None:
    cls = family.get(name)
    assert cls.source
    first = (cls.__doc__ or "").strip().split("\n")[0]
    assert first.endswith(".")
    assert len(first) > 20


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


def test_options_are_checked_in_python_as_in_a_study_file() -> None:
    assert filters.build("uncertainty_clipping", fraction=0.1) == UncertaintyClipping(fraction=0.1)
    for wrong, message in (
        (1.0, r"^fraction is 1.0, it must be at least 0 and below 1. 0.05 clips 5 %.$"),
        ("0.1", r"^option 'fraction' is '0.1': input should be a valid number. It takes float.$"),
        (16**5000, "fraction'? is a number of thousands of digits"),
    ):
        with pytest.raises(ConfigError, match=message):
            UncertaintyClipping(fraction=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^option 'rate' is 'x': .* It takes float \| None.$"):
        MCDropout(rate="x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_passes is a number of thousands of digits, it must be at least 2"):
        MCDropout(n_passes=-(16**5000))


@pytest.mark.parametrize("name", confidences.names())
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_confidence_gives_normalised_log_probabilities(name: str, scale: float) -> None:
    method = confidences.build(name)
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(20, 1, 5)) * scale).astype(np.float32)
    logits = np.repeat(logits, method.sampling.n_draws, axis=1)
    features = rng.normal(size=(20, 7)).astype(np.float32)
    outputs = ModelOutputs(ids=np.arange(20), logits=logits, features=features)
    labels = np.arange(20) % 5
    state = method.calibrate(outputs, labels) if method.n_folds or method.needs_labeled else None
    log_probs = method.log_probs(outputs, state)
    assert log_probs.shape == (20, method.n_draws, 5)
    assert not np.isnan(log_probs).any()
    total = np.exp(log_probs).sum(axis=2)
    if getattr(method, "sums_to_one", True):
        np.testing.assert_allclose(total, 1.0, atol=1e-9)
    else:
        assert np.all(total <= 1 + 1e-9)
    if method.has_uncertainty:
        assert np.isfinite(method.uncertainty(outputs, state)).all()


@pytest.mark.parametrize("name", confidences.names())
def test_calibration_needs_no_held_out_example(name: str) -> None:
    method = confidences.build(name)
    if method.n_folds:
        nothing = ModelOutputs(ids=np.empty(0, np.int64), logits=np.empty((0, 1, 5), np.float32))
        state = method.calibrate(nothing, np.empty(0, np.int64))
        outputs = ModelOutputs(ids=np.arange(4), logits=np.eye(4, 5, dtype=np.float32)[:, None])
        np.testing.assert_allclose(method.log_probs(outputs, state), log_softmax(outputs.logits), atol=1e-9)


@pytest.mark.parametrize("name", confidences.names())
def test_a_loss_is_one_finite_number_an_example_with_a_finite_gradient(name: str) -> None:
    import torch

    loss = confidences.build(name).new_loss()
    if loss is None:
        return
    for scale in (1.0, 1e4):
        for n_classes in (2, 5):
            generator = torch.Generator().manual_seed(0)
            logits = (torch.randn(6, n_classes, generator=generator) * scale).requires_grad_()
            features = (torch.zeros(6, 8),) if getattr(loss, "needs_features", False) else ()
            losses = loss(logits, torch.arange(6) % n_classes, 3, *features)
            assert losses.shape == (6,)
            assert torch.isfinite(losses).all()
            losses.mean().backward()
            assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", strategies.names())
@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_strategy_gives_one_finite_score_an_example_and_picks_distinct_candidates(name: str, n_classes: int) -> None:
    strategy, pool = build(strategies, name), pool_view(n_classes=n_classes)
    scores = strategy.score(pool, stream(1, "round", 1))
    assert scores.shape == (50,)
    assert np.isfinite(scores).all()
    ranking = rank(pool.ids, scores, 1)
    left = Ranking(ids=ranking.ids[5:], scores=ranking.scores[5:])
    one, two = (strategy.pick(pool.take(left.ids), left, 8, stream(1, "pick")) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(set(one.tolist())) == 8
    assert set(one.tolist()) <= set(left.ids.tolist())


@pytest.mark.parametrize("name", strategies.names())
def test_a_strategy_can_pick_all_that_is_left(name: str) -> None:
    strategy, pool = build(strategies, name), pool_view(n=6)
    ranking = rank(pool.ids, strategy.score(pool, stream(1, "round", 1)), 1)
    assert sorted(strategy.pick(pool, ranking, 6, stream(1, "pick")).tolist()) == pool.ids.tolist()


@pytest.mark.parametrize("name", strategies.names())
def test_a_strategy_reads_only_what_it_says_it_needs(name: str) -> None:
    strategy, pool = build(strategies, name), pool_view()
    needs_labels = strategy.needs_labeled
    withheld = {
        "log_probs": pool.log_probs if strategy.needs_scores else pool.log_probs[:, :0],
        "logits": pool.logits if strategy.needs_logits else None,
        "features": pool.features if strategy.needs_features else None,
        "embeddings": pool.embeddings if strategy.needs_embeddings else None,
        "predicted": pool.predicted if strategy.needs_predicted else None,
        "uncertainty": pool.uncertainty if strategy.needs_uncertainty else None,
        "dynamics": pool.dynamics if strategy.n_watched else None,
        "truth": pool.truth if strategy.needs_hindsight else None,
        "last_scores": pool.last_scores if strategy.needs_hindsight else None,
        "hindsight": pool.hindsight if strategy.needs_hindsight else None,
        "labeled_log_probs": pool.labeled_log_probs if needs_labels else None,
        "labeled_features": pool.labeled_features if needs_labels and strategy.needs_features else None,
        "labeled_embeddings": pool.labeled_embeddings if strategy.needs_embeddings else None,
        "labeled_uncertainty": pool.labeled_uncertainty if needs_labels and strategy.needs_uncertainty else None,
        "history": pool.history if strategy.needs_history else None,
        "labeled_dynamics": pool.labeled_dynamics if strategy.needs_labeled_dynamics else None,
        "rejected": pool.rejected if strategy.needs_rejected else pool.rejected[:0],
        "rejected_features": pool.rejected_features if strategy.needs_rejected and strategy.needs_features else None,
        "rejected_embeddings": pool.rejected_embeddings
        if strategy.needs_rejected and strategy.needs_embeddings
        else None,
    }
    bare = dataclasses.replace(pool, **withheld)
    picks = []
    for view in (pool, bare):
        ranking = rank(view.ids, strategy.score(view, stream(1, "round", 1)), 1)
        picks.append(strategy.pick(view, ranking, 8, stream(1, "pick")).tolist())
    assert picks[0] == picks[1]


def test_random_scores_are_uniform_and_new_every_round() -> None:
    pool = pool_view(n=4000)
    one = strategies.build("random").score(pool, stream(1, "round", 1))
    two = strategies.build("random").score(pool, stream(1, "round", 2))
    assert abs(one.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
    assert abs(np.corrcoef(one, pool.ids)[0, 1]) < 0.05


@pytest.mark.parametrize("name", filters.names())
def test_a_filter_keeps_the_order_and_invents_nothing(name: str) -> None:
    pool = pool_view()
    ranking = rank(pool.ids, np.random.default_rng(2).normal(size=50), 1)
    candidate_filter = filters.build(name)
    kept = candidate_filter.apply(ranking, pool, 10)
    at = np.flatnonzero(np.isin(ranking.ids, kept.ids))
    np.testing.assert_array_equal(ranking.ids[at], kept.ids)
    assert len(ranking) - len(kept) <= candidate_filter.n_removed(len(ranking), 10)


@pytest.mark.parametrize("name", filters.names())
def test_a_filter_selects_a_subset_large_enough_for_the_query(name: str) -> None:
    pool = unscored(pool_view())
    one, two = (filters.build(name).select(pool, stream(1, "filter")) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(set(one.tolist())) == len(one) >= 10
    assert set(one.tolist()) <= set(pool.ids.tolist())


@pytest.mark.parametrize("name", filters.names())
def test_a_filter_reads_only_what_it_says_it_needs(name: str) -> None:
    candidate_filter, pool = filters.build(name), pool_view()
    ranking = rank(pool.ids, np.random.default_rng(2).normal(size=50), 1)
    bare = dataclasses.replace(
        pool,
        log_probs=pool.log_probs if candidate_filter.needs_probs else pool.log_probs[:, :0],
        features=None,
        embeddings=pool.embeddings if candidate_filter.needs_embeddings else None,
        labeled_embeddings=pool.labeled_embeddings if candidate_filter.needs_embeddings else None,
        **dict.fromkeys(("logits", "predicted", "uncertainty", "dynamics", "truth", "last_scores", "hindsight")),
        **dict.fromkeys(("labeled_log_probs", "labeled_features", "labeled_dynamics")),
    )
    one, two = (candidate_filter.apply(ranking, view, 10) for view in (pool, bare))
    np.testing.assert_array_equal(one.ids, two.ids)
    whole = unscored(pool)
    nothing = dataclasses.replace(
        whole,
        embeddings=whole.embeddings if candidate_filter.needs_embeddings else None,
        labeled_embeddings=whole.labeled_embeddings if candidate_filter.needs_embeddings else None,
        last_scores=whole.last_scores if candidate_filter.needs_last_scores else None,
        hardness=whole.hardness if candidate_filter.needs_hardness else None,
    )
    picks = [sorted(candidate_filter.select(view, stream(1, "filter")).tolist()) for view in (whole, nothing)]
    assert picks[0] == picks[1]


@pytest.mark.parametrize(("fraction", "n_kept"), [(0.0, 90), (0.05, 86), (0.1, 81), (0.999, 1)])
def test_clipping_leaves_out_the_floor_of_its_share_from_the_uncertain_end(fraction: float, n_kept: int) -> None:
    ranking = Ranking(ids=np.arange(90), scores=-np.arange(90.0))
    kept = filters.build({"name": "uncertainty_clipping", "fraction": fraction}).apply(ranking, pool_view(), 1)
    np.testing.assert_array_equal(kept.ids, np.arange(90 - n_kept, 90))


@pytest.mark.parametrize("name", [name for name in oracles.names() if not oracles.get(name).is_outside])
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
    found = pool_view(n=100).embeddings
    assert found is not None
    pool = StartPool(truth=truth, embeddings=found.read(), class_embeddings=found.read()[:3])
    one = start.pick(pool, 12, stream(1, "initial"))
    assert len(set(one.tolist())) == 12
    assert set(one.tolist()) <= set(truth.ids.tolist())
    np.testing.assert_array_equal(one, start.pick(pool, 12, stream(1, "initial")))
    others = [start.pick(pool, 12, stream(seed, "initial")).tolist() for seed in range(2, 6)]
    assert start.needs_embeddings or all(set(one.tolist()) != set(other) for other in others)


@pytest.mark.parametrize(
    ("counts", "size", "seats"),
    [([70, 25, 5], 10, [7, 2, 1]), ([98, 1, 1], 10, [8, 1, 1]), ([50, 50, 0], 5, [3, 2, 0]), ([3, 3, 3], 9, [3, 3, 3])],
)
def test_seats_follow_class_shares_with_at_least_one_each(counts: list[int], size: int, seats: list[int]) -> None:
    assert apportion(np.array(counts), size).tolist() == seats


def test_a_stratified_start_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"initial_size is 2, .* at least one example of each of the 3 classes"):
        apportion(np.array([5, 5, 5]), 2)
