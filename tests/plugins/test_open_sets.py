"""Open sets: the strategy that steers clear of texts of no class, against a slower computation and in a loop."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, PoolView, asked_ids, rejected_after
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.loop import learner
from al_ray.strategy import strategies
from al_ray.strategy.open_set_margin import OpenSetMargin
from tests.fakes import RecordsInMemory, make_classifier, make_loop
from tests.loop.test_open_set import no_class, open_world

N_CLASSES = 3


def view(n: int = 200, n_rejected: int = 9, *, scale: float = 1.0, dtype: type = np.float32, n_classes=3) -> PoolView:
    """Draw three classes in a plane of five dimensions, and texts of no class off it."""
    draws = np.random.default_rng(4)
    centers = draws.normal(size=(n_classes + 1, 5)) * 2

    def points(kinds: np.ndarray) -> np.ndarray:
        return (centers[kinds] + draws.normal(size=(len(kinds), 5))).astype(dtype) * np.array(
            [1, 10, 1e-3, 1, 1], dtype
        )

    labels = np.arange(12) % n_classes
    return PoolView(
        ids=10 + 3 * np.arange(n),
        log_probs=log_softmax(draws.normal(size=(n, 2, n_classes)) * scale),
        features=points(draws.integers(n_classes + 1, size=n)),
        labeled=LabeledSet(ids=5000 + np.arange(12), labels=labels),
        labeled_features=points(labels),
        rejected=9000 + np.arange(n_rejected),
        rejected_features=points(np.full(n_rejected, n_classes)),
    )


def scores(pool: PoolView, **options) -> np.ndarray:
    return strategies.build({"name": "open_set_margin", **options}).score(pool, stream(0, "score"))


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
def test_the_score_is_margin_weighed_by_scikit_learn_s_auxiliary_classifier(l2: float) -> None:
    pool = view()
    scaler = StandardScaler().fit(pool.features.astype(np.float64))
    answered = scaler.transform(np.concatenate([pool.labeled_features, pool.rejected_features]).astype(np.float64))
    answered = np.concatenate([answered, np.ones((len(answered), 1))], axis=1)
    labels = np.concatenate([pool.labeled.labels, np.full(9, N_CLASSES)])
    other = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(answered, labels)
    candidates = scaler.transform(pool.features.astype(np.float64))
    w = other.predict_proba(np.concatenate([candidates, np.ones((len(pool), 1))], axis=1))[:, -1]
    top = np.sort(pool.probs(), axis=1)
    r = 12 / 21
    expected = 1 - (w + r * (1 - w) * (top[:, -1] - top[:, -2]))
    np.testing.assert_allclose(scores(pool, l2=l2), expected, atol=2e-4)


def test_before_anything_was_of_no_class_it_is_margin() -> None:
    pool = view(n_rejected=0)
    margin = strategies.build("margin").score(pool, stream(0, "score"))
    np.testing.assert_array_equal(scores(pool), margin)


def test_of_equally_doubtful_texts_those_like_what_was_of_no_class_come_last() -> None:
    pool = view(n=40)
    flat = dataclasses.replace(pool, log_probs=np.full((40, 1, N_CLASSES), -np.log(N_CLASSES)))
    np.testing.assert_allclose(scores(flat), -np.expm1(OpenSetMargin().log_no_class(flat)))
    near = np.linalg.norm((pool.features - pool.rejected_features.mean(axis=0)) / pool.features.std(axis=0), axis=1)
    last = np.argsort(scores(flat))[:8]
    assert near[last].max() < np.median(near)


@pytest.mark.parametrize("n_rejected", [0, 9])
def test_extreme_logits_ties_and_one_class_everywhere(n_rejected: int) -> None:
    for scale in (0.0, 1e4):
        found = scores(view(n_rejected=n_rejected, scale=scale))
        assert np.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1
    sure = np.tile([1e4, 0.0, 0.0], (200, 1, 1))
    pool = dataclasses.replace(view(n_rejected=n_rejected), log_probs=log_softmax(sure))
    assert np.isfinite(scores(pool)).all()


def test_float32_and_float64_features_ask_alike() -> None:
    one, two = (scores(view(dtype=dtype)) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_fewer_classes_labelled_than_exist_and_features_that_never_vary() -> None:
    pool = view()
    one = dataclasses.replace(pool, labeled=LabeledSet(ids=pool.labeled.ids, labels=np.ones(12, np.int64)))
    assert np.isfinite(scores(one)).all()
    constant = {name: getattr(pool, name) * 0 + np.float32(0.1)
                for name in ("features", "labeled_features", "rejected_features")}  # fmt: skip
    found = scores(dataclasses.replace(pool, **constant))
    assert np.isfinite(found).all()
    doubt = strategies.build("margin").score(pool, stream(0, "score"))
    assert np.corrcoef(found, doubt)[0, 1] > 0.999, "a classifier that cannot tell changes nothing of the order"


def test_an_example_scores_the_same_whatever_its_place_in_the_pool() -> None:
    pool = view()
    draws = np.random.default_rng(8)
    shuffled = draws.permutation(200)
    moved = dataclasses.replace(pool, features=pool.features[shuffled], log_probs=pool.log_probs[shuffled])
    np.testing.assert_allclose(scores(moved), scores(pool)[shuffled], atol=1e-9)


def test_all_of_a_pool_can_be_asked_for() -> None:
    pool, strategy = view(n=7), strategies.build("open_set_margin")
    ranking = rank(pool.ids, strategy.score(pool, stream(0, "score")), 0)
    assert sorted(strategy.pick(pool, ranking, 7, stream(0, "pick")).tolist()) == pool.ids.tolist()


def test_the_penalty_is_above_zero() -> None:
    with pytest.raises(ConfigError, match=r"l2 is 0.0, it must be above 0"):
        OpenSetMargin(l2=0.0)


def test_the_loop_shows_what_was_of_no_class_and_the_strategy_asks_for_less_of_it_than_chance() -> None:
    world = open_world()
    seen: list[PoolView] = []

    class Watched(OpenSetMargin):
        def score(self, pool, stream):  # type: ignore[no-untyped-def]
            seen.append(pool)
            return super().score(pool, stream)

    loop = make_loop(world, strategy="open_set_margin", initial="random", initial_size=20, rounds=6)
    loop = dataclasses.replace(loop, strategy=Watched())
    rounds = learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    for index, pool in enumerate(seen, start=1):
        expected = rejected_after(rounds[:index])
        np.testing.assert_array_equal(pool.rejected, expected)
        points = np.array([world["pool"][id_] for id_ in expected.tolist()], dtype=np.float32).reshape(-1, 2)
        np.testing.assert_array_equal(pool.rejected_features, points)
        assert pool.rejected_embeddings is None
    assert len(rejected_after(rounds[:1])) > 0
    later = set(asked_ids(rounds).tolist()) - set(rounds[0].query.ids.tolist())
    assert len(later & no_class(world)) < 0.1 * len(later), "a quarter of the pool is of no class"


def test_embeddings_of_what_was_of_no_class_are_shown_where_they_are_read() -> None:
    world = open_world()
    seen: list[PoolView] = []

    class Reads(OpenSetMargin):
        needs_embeddings = True

        def score(self, pool, stream):  # type: ignore[no-untyped-def]
            seen.append(pool)
            return super().score(pool, stream)

    loop = dataclasses.replace(make_loop(world, initial="random", initial_size=20), strategy=Reads())
    classifier = make_classifier(world, loop)
    learner.run(loop, classifier, RecordsInMemory())
    rows = np.searchsorted(world["truth"].ids, seen[-1].rejected)
    np.testing.assert_array_equal(seen[-1].rejected_embeddings, classifier.embeddings("pool")[rows])
    assert len(rows) > 0


def test_a_strategy_that_does_not_read_it_is_shown_nothing_of_no_class() -> None:
    world = open_world()
    seen: list[PoolView] = []

    class Plain(type(strategies.build("margin"))):  # type: ignore[misc]
        def score(self, pool, stream):  # type: ignore[no-untyped-def]
            seen.append(pool)
            return super().score(pool, stream)

    loop = dataclasses.replace(make_loop(world, initial="random", initial_size=20), strategy=Plain())
    learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    assert {len(pool.rejected) for pool in seen} == {0}
