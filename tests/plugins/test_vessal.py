"""One pass over a stream: against explicit inverses and running means, and what it accepts over many draws."""

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from al_ray.core.one_pass import GradientEmbedding, OnePassSelector
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream, tie_keys
from al_ray.core.types import LabeledSet, PoolView
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError, RoundError
from al_ray.strategy import strategies

C, D = 3, 4


def points_of(n: int, width: int = 6, seed: int = 0) -> np.ndarray:
    """Lengths differ a lot, and so do the directions' variances."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) * np.linspace(0.2, 2, width) * rng.gamma(1.0, size=(n, 1))


def plain_pass(points: np.ndarray, n: int, n_stream: int, draws: np.ndarray) -> list[int]:
    """The rule as it is written down: explicit inverses, a running mean of g g^T, one example after the other."""
    accepted: list[int] = []
    a, sigma = np.eye(points.shape[1]) / 100, np.zeros((points.shape[1],) * 2)
    for t, g in enumerate(points, start=1):
        sigma = sigma * (t - 1) / t + np.outer(g, g) / t
        inverse = np.linalg.inv(a)
        trace = np.trace(sigma @ inverse)
        z = (n - len(accepted)) / ((n_stream - t + 1) * trace) if trace > 0 else 0.0
        if draws[t - 1] < z * (g @ inverse @ g):
            accepted.append(t - 1)
            a = a + np.outer(g, g)
    return accepted


def selector_of(n: int, n_stream: int, width: int = 6, seed: int = 0) -> OnePassSelector:
    return OnePassSelector(n, n_stream, width, np.random.default_rng(seed))


def pool_of(logits, features, n_draws: int = 1) -> PoolView:
    """Ids are 10, 13, 16, ... so that no row is an id."""
    log_probs = log_softmax(np.repeat(np.asarray(logits, dtype=np.float64)[:, None], n_draws, axis=1))
    return PoolView(
        ids=10 + 3 * np.arange(len(logits)),
        log_probs=log_probs,
        features=np.asarray(features),
        labeled=LabeledSet(ids=np.empty(0, np.int64), labels=np.empty(0, np.int64)),
    )


def random_pool(n: int = 60, seed: int = 3, dtype: type = np.float32) -> PoolView:
    rng = np.random.default_rng(seed)
    return pool_of(rng.normal(size=(n, C)) * 2, rng.normal(size=(n, D)).astype(dtype))


def query(pool: PoolView, n: int, seed: int = 0, **options) -> np.ndarray:
    strategy = strategies.build({"name": "vessal", **options})
    ranking = rank(pool.ids, strategy.score(pool, stream(seed, "score")), seed)
    return strategy.pick(pool, ranking, n, stream(seed, "pick"))


# --- the pass --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [1, 7, 40])
def test_one_pass_accepts_what_the_written_rule_accepts(n: int, seed: int) -> None:
    points = points_of(3000, seed=seed)
    draws = np.random.default_rng(seed).random((len(points), 2))
    selector = selector_of(n, len(points), seed=seed)
    found = selector.offer(points, 100 + np.arange(len(points)))
    expected = plain_pass(points, n, len(points), draws[:, 0])
    assert expected
    assert found.tolist() == [100 + row for row in expected]
    assert selector.accepted.tolist() == found.tolist()


@pytest.mark.parametrize("size", [1, 7, 333, 3000])
def test_the_blocks_in_which_a_stream_comes_change_nothing(size: int) -> None:
    points, ids = points_of(3000), np.arange(3000)
    whole, cut = selector_of(40, 3000), selector_of(40, 3000)
    whole.offer(points, ids)
    for start in range(0, 3000, size):
        cut.offer(points[start : start + size], ids[start : start + size])
    assert cut.query.tolist() == whole.query.tolist()


def test_no_more_than_asked_for_and_what_lacks_comes_from_what_was_passed_over() -> None:
    n_filled = []
    for seed in range(200):
        selector = selector_of(20, 100, seed=seed)
        selector.offer(points_of(100, seed=seed), np.arange(100))
        assert len(selector.accepted) <= 20
        assert len(np.unique(selector.query)) == len(selector.query) == 20
        assert selector.query[: len(selector.accepted)].tolist() == selector.accepted.tolist()
        assert np.all(np.diff(selector.accepted) > 0), "accepted in the order of the stream"
        n_filled.append(20 - len(selector.accepted))
    assert 0 < np.mean(n_filled) < 5


def test_equal_examples_in_orthogonal_directions_are_accepted_at_the_rate_of_the_budget() -> None:
    """Each g spans a direction of its own, so that every g^T A^-1 g is 100, and z_t g^T A^-1 g the rate up to then.

    Those accepted are 100 / 101 afterwards, which the mean up to t feels; so the first is accepted with exactly n / N.
    """
    n, n_stream, repeats = 5, 40, 2000
    firsts, counts = 0, np.zeros(n_stream)
    for seed in range(repeats):
        selector = selector_of(n, n_stream, width=n_stream, seed=seed)
        found = selector.offer(np.eye(n_stream), np.arange(n_stream))
        firsts += bool(len(found)) and found[0] == 0
        counts[selector.query] += 1
    assert binomtest(firsts, repeats, n / n_stream).pvalue > 1e-3
    assert counts.sum() == n * repeats
    # Every other share is above a half and below twice the rate: nobody is left out, and nobody certain.
    assert counts.min() > n * repeats / n_stream / 2
    assert counts.max() < n * repeats / n_stream * 2


def test_acceptance_over_many_draws_is_that_of_the_written_rule_with_draws_of_its_own() -> None:
    points, n, repeats = points_of(60, seed=5), 6, 1000
    ours, theirs = np.zeros(60), np.zeros(60)
    other = np.random.default_rng(99)
    for seed in range(repeats):
        ours[selector_of(n, 60, seed=seed).offer(points, np.arange(60))] += 1
        theirs[plain_pass(points, n, 60, other.random(60))] += 1
    seen = (ours + theirs) >= 20
    expected = (ours + theirs)[seen] / 2
    statistic = ((ours[seen] - theirs[seen]) ** 2 / (2 * expected)).sum()
    assert statistic < 2.0 * seen.sum(), "two samples of one law differ by about one a cell"
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95


def test_a_direction_that_is_accepted_once_is_hardly_accepted_again() -> None:
    """Nine in ten lie on one line, and the tenth on each of nine others: 100 I makes the first of a line enough."""
    points = np.repeat(np.eye(10), [910, *[10] * 9], axis=0) * 10
    order = np.random.default_rng(0).permutation(1000)
    lines = np.argmax(points[order], axis=1)
    n_lines = []
    for seed in range(100):
        selector = selector_of(10, 1000, width=10, seed=seed)
        accepted = selector.offer(points[order], np.arange(1000))
        n_lines.append(len(np.unique(lines[accepted])))
    of_random = [len(np.unique(np.random.default_rng(seed).choice(lines, 10))) for seed in range(100)]
    assert np.mean(n_lines) > np.mean(of_random) + 1.5


def test_what_fills_up_is_a_fair_sample_of_what_was_passed_over() -> None:
    counts = np.zeros(30)
    for seed in range(3000):
        selector = selector_of(4, 30, width=2, seed=seed)
        selector.offer(np.zeros((30, 2)), np.arange(30))
        assert not len(selector.accepted)
        counts[selector.query] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_skipped_examples_count_as_past_and_not_as_seen() -> None:
    """Of a stream of 50 of which 40 are no candidates, the ten others face the rate of what is left."""
    points = points_of(10)
    draws = np.random.default_rng(1).random((10, 2))[:, 0]
    selector = selector_of(5, 50, seed=1)
    selector.skip(40)
    found = selector.offer(points, np.arange(10))
    assert found.tolist() == plain_pass(points, 5, 10, draws)
    with pytest.raises(AssertionError, match="longer than was said"):
        selector.skip(1)


def test_everything_is_asked_for_where_the_stream_is_as_long_as_the_budget_or_shorter() -> None:
    for n in (30, 31, 500):
        selector = selector_of(n, 30)
        selector.offer(points_of(30), np.arange(30))
        assert sorted(selector.query.tolist()) == list(range(30))


def test_long_and_parallel_gradients_leave_the_inverse_a_positive_matrix() -> None:
    points = np.repeat(points_of(10, seed=2) * 1e4, 50, axis=0)
    selector = selector_of(100, 500)
    selector.offer(points, np.arange(500))
    exact = np.linalg.inv(np.eye(6) / 100 + points[selector.accepted].T @ points[selector.accepted])
    np.testing.assert_allclose(selector._inverse, exact, atol=1e-9)
    assert len(np.unique(selector.query)) == 100


def test_an_embedding_that_is_not_finite_is_told_with_its_id() -> None:
    points = points_of(5)
    points[3, 1] = np.nan
    with pytest.raises(RoundError, match=r"gradient embeddings of 1 examples are not finite \(ids 13\)"):
        selector_of(2, 5).offer(points, 10 + np.arange(5))


# --- gradient embeddings ---------------------------------------------------------------------------------------------


def gradients(probs: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Build each gradient as an outer product."""
    rows = []
    for p, h in zip(probs, features, strict=True):
        error = p.copy()
        error[np.argmax(p)] -= 1
        rows.append(np.outer(error, h).ravel())
    return np.array(rows)


def test_wide_enough_embeddings_are_the_gradients() -> None:
    rng = np.random.default_rng(0)
    probs, features = rng.dirichlet(np.ones(C), size=20), rng.normal(size=(20, D))
    for width in (C * D, 1000):
        embed = GradientEmbedding.draw(C, D, width, stream(0))
        assert embed.n_dimensions == C * D
        np.testing.assert_allclose(embed(probs, features), gradients(probs, features), atol=1e-6)


def test_projected_embeddings_keep_inner_products_on_average_and_better_the_wider_they_are() -> None:
    rng = np.random.default_rng(0)
    probs, features = rng.dirichlet(np.ones(C), size=8), rng.normal(size=(8, 40))
    exact = gradients(probs, features)
    exact = exact @ exact.T
    errors = {}
    for width in (8, 64):
        grams = []
        for seed in range(400):
            found = GradientEmbedding.draw(C, 40, width, stream(seed))(probs, features).astype(np.float64)
            assert found.shape == (8, width)
            grams.append(found @ found.T)
        spread = np.std(grams, axis=0) / np.sqrt(len(grams))
        assert np.all(np.abs(np.mean(grams, axis=0) - exact) < 4.5 * spread)
        errors[width] = np.mean(np.square(np.array(grams) - exact))
    # The variance falls as one over the width.
    assert errors[8] / errors[64] == pytest.approx(8, rel=0.3)


# --- the strategy ----------------------------------------------------------------------------------------------------


def test_the_query_is_that_of_a_pass_over_exact_gradients_in_the_order_of_a_hash() -> None:
    pool, n = random_pool(), 9
    found = query(pool, n, n_dimensions=C * D)
    draws = stream(0, "pick")
    order = np.argsort(tie_keys(pool.ids, int(draws.integers(2**62))))
    exact = gradients(pool.probs(), pool.features)[order]
    expected = plain_pass(exact, n, len(pool), draws.random((len(pool), 2))[:, 0])
    assert 0 < len(expected) <= n
    assert found[: len(expected)].tolist() == pool.ids[order][expected].tolist()


@pytest.mark.parametrize("n_dimensions", [5, 512])
def test_the_order_of_the_pool_does_not_matter(n_dimensions: int) -> None:
    """Texts keep their ids and come in another order: the view sorts them, and the stream is ordered by a hash."""
    rng = np.random.default_rng(1)
    logits, features = rng.normal(size=(50, C)), rng.normal(size=(50, D))
    ids = rng.choice(1000, size=50, replace=False)
    queries = []
    for order in (np.arange(50), rng.permutation(50)):
        by_id = order[np.argsort(ids[order])]
        pool = PoolView(
            ids=ids[by_id],
            log_probs=log_softmax(logits[by_id][:, None]),
            features=features[by_id],
            labeled=LabeledSet(ids=np.empty(0, np.int64), labels=np.empty(0, np.int64)),
        )
        queries.append(query(pool, 8, n_dimensions=n_dimensions).tolist())
    assert queries[0] == queries[1]


def test_rounds_go_through_the_pool_in_other_orders() -> None:
    pool = pool_of(np.zeros((300, C)), np.ones((300, D)))
    assert len({tuple(query(pool, 5, seed).tolist()) for seed in range(5)}) == 5


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 20, 60])
def test_a_query_has_its_size_and_no_example_twice(scale: float, dtype: type, n: int) -> None:
    rng = np.random.default_rng(2)
    pool = pool_of(rng.normal(size=(60, C)) * scale, (rng.normal(size=(60, D)) * scale).astype(dtype))
    for width in (3, 512):
        found = query(pool, n, n_dimensions=width)
        assert len(np.unique(found)) == n
        assert np.isin(found, pool.ids).all()


def test_a_model_that_is_certain_of_all_gives_a_random_query() -> None:
    """Logits of 1e4 leave no gradient at all; so does a model that names one class alone."""
    pool = pool_of(np.tile([1e4, 0.0, -1e4], (40, 1)), np.random.default_rng(0).normal(size=(40, D)))
    counts = np.zeros(40)
    for seed in range(1500):
        counts[(query(pool, 4, seed) - 10) // 3] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_unsure_examples_are_preferred_to_sure_ones() -> None:
    logits = np.tile([4.0, 0.0, 0.0], (200, 1))
    logits[:20] = [0.1, 0.0, 0.0]
    pool = pool_of(logits, np.random.default_rng(0).normal(size=(200, 30)))
    n_unsure = [int(((query(pool, 10, seed) - 10) // 3 < 20).sum()) for seed in range(40)]
    assert np.mean(n_unsure) > 5, "one in ten are unsure"


def test_classes_that_nobody_labelled_and_several_draws_change_nothing_of_the_rule() -> None:
    pool = random_pool()
    doubled = PoolView(
        ids=pool.ids, log_probs=np.repeat(pool.log_probs, 4, axis=1), features=pool.features, labeled=pool.labeled
    )
    assert query(doubled, 9).tolist() == query(pool, 9).tolist()


def test_its_option_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"n_dimensions is 0, it must be between 1 and 8192"):
        strategies.build({"name": "vessal", "n_dimensions": 0})
