"""Strategies that choose a diverse batch, and cold starts by clusters, against slower and plainer computations."""

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from al_ray.core import distances
from al_ray.core.clustering import k_means, representatives, typical_rows, typicality
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, PoolView, RowView, StartPool
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.initial import initial_queries
from al_ray.strategy import strategies
from al_ray.strategy.badge import _Gradients
from al_ray.strategy.drop_query import candidate_rows
from al_ray.strategy.prob_cover import distances_to_other_clusters, greedy_cover, largest_pure_delta

BATCHES = ["badge", "core_set", "embedding_kmeans", "typiclust", "prob_cover", "drop_query"]
STARTS = ["kmeans", "typiclust"]


def unit(points) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def pool_of(points, *, labeled=None, log_probs=None, predicted=None, n_draws: int = 3, n_classes: int = 3) -> PoolView:
    """Lay out points as features and embeddings alike; ids are 10, 13, 16, ... so that no row is an id."""
    points = np.asarray(points, dtype=np.float32)
    rng = np.random.default_rng(11)
    if labeled is None:
        labeled = rng.normal(size=(4, points.shape[1]))
    labeled = np.asarray(labeled, dtype=np.float32)
    if log_probs is None:
        log_probs = log_softmax(rng.normal(size=(len(points), n_draws, n_classes)))
    return PoolView(
        ids=10 + 3 * np.arange(len(points)),
        log_probs=log_probs,
        features=points,
        embeddings=RowView.of(points),
        predicted=log_probs.mean(axis=1).argmax(axis=1) if predicted is None else np.asarray(predicted),
        labeled=LabeledSet(ids=100_000 + np.arange(len(labeled)), labels=np.arange(len(labeled)) % n_classes),
        labeled_features=labeled,
        labeled_embeddings=labeled,
    )


def query(strategy, pool: PoolView, n: int, seed: int = 0) -> np.ndarray:
    strategy = strategies.build(strategy)
    ranking = rank(pool.ids, strategy.score(pool, stream(seed, "score")), seed)
    return strategy.pick(pool, ranking, n, stream(seed, "pick"))


def rows_of(ids) -> np.ndarray:
    return (np.asarray(ids) - 10) // 3


def planted(n_clusters: int, n_each: int, n_features: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tight clusters round orthogonal unit vectors."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters), n_each)
    centres = np.eye(n_clusters, n_features)
    return unit(centres[cluster] + rng.normal(size=(len(cluster), n_features)) * 0.02), cluster


# --- all of them -----------------------------------------------------------------------------------------------------


def degenerate_pools() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "random points": unit(rng.normal(size=(40, 6))),
        "one point forty times": np.tile(unit(rng.normal(size=(1, 6))), (40, 1)),
        "three distinct points": unit(rng.normal(size=(3, 6)))[rng.integers(3, size=40)],
        "all zero": np.zeros((40, 6)),
        "some zero": unit(rng.normal(size=(40, 6))) * (np.arange(40) % 3 > 0)[:, None],
        "one feature": rng.normal(size=(40, 1)),
        "large": rng.normal(size=(40, 6)) * 1e6,
    }


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("points", degenerate_pools().values(), ids=degenerate_pools().keys())
@pytest.mark.parametrize("n", [1, 7, 39, 40])
def test_a_batch_has_so_many_distinct_examples_of_the_pool_and_is_the_same_again(name, points, n) -> None:
    pool = pool_of(points)
    one, two = query(name, pool, n), query(name, pool, n)
    assert one.dtype == np.int64
    assert len(one) == len(set(one.tolist())) == n
    assert set(one.tolist()) <= set(pool.ids.tolist())
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", BATCHES)
def test_a_pool_of_one_is_asked_whole(name) -> None:
    assert query(name, pool_of([[0.6, 0.8]]), 1).tolist() == [10]


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_chosen_from_what_the_filters_left(name) -> None:
    pool = pool_of(unit(np.random.default_rng(0).normal(size=(60, 5))))
    strategy = strategies.build(name)
    ranking = rank(pool.ids, strategy.score(pool, stream(0, "score")), 0)
    kept = type(ranking)(ids=ranking.ids[20:], scores=ranking.scores[20:])
    chosen = strategy.pick(pool.take(kept.ids), kept, 15, stream(0, "pick"))
    assert set(chosen.tolist()) <= set(kept.ids.tolist())
    assert len(set(chosen.tolist())) == 15


@pytest.mark.parametrize("name", ["badge", "embedding_kmeans", "typiclust", "prob_cover", "drop_query"])
def test_the_stream_decides_where_chance_has_a_part(name) -> None:
    pool = pool_of(unit(np.random.default_rng(0).normal(size=(300, 8))))
    batches = {frozenset(query(name, pool, 10, seed).tolist()) for seed in range(4)}
    assert len(batches) > 1


@pytest.mark.parametrize("name", BATCHES)
def test_what_a_batch_strategy_needs_is_declared(name) -> None:
    strategy = strategies.build(name)
    pool = pool_of(unit(np.random.default_rng(0).normal(size=(30, 5))))
    hidden = {
        "features": strategy.needs_features,
        "labeled_features": strategy.needs_features and strategy.needs_labeled,
        "embeddings": strategy.needs_embeddings,
        "labeled_embeddings": strategy.needs_embeddings,
        "predicted": strategy.needs_predicted,
    }
    bare = {key: getattr(pool, key) if needed else None for key, needed in hidden.items()}
    log_probs = pool.log_probs if strategy.needs_scores else pool.log_probs[:, :0]
    view = PoolView(ids=pool.ids, log_probs=log_probs, labeled=pool.labeled, **bare)
    np.testing.assert_array_equal(query(name, view, 5), query(name, pool, 5))


# --- distances -------------------------------------------------------------------------------------------------------


def test_the_nearest_centre_is_that_of_scipy(monkeypatch) -> None:
    monkeypatch.setattr(distances, "BLOCK_VALUES", 50)
    rng = np.random.default_rng(0)
    points, centres = rng.normal(size=(101, 7)), rng.normal(size=(9, 7))
    at, squared = distances.nearest(points, centres)
    full = cdist(points, centres, "sqeuclidean")
    np.testing.assert_array_equal(at, full.argmin(axis=1))
    np.testing.assert_allclose(squared, full.min(axis=1), rtol=1e-4)


def test_equal_points_have_distance_zero_whatever_float32_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    points = np.repeat(rng.normal(size=(20, 768)) * 30 + 5, 2, axis=0).astype(np.float32)
    norms = distances.squared_norms(points)
    for row in range(40):
        squared = distances.squared_distances_to(points, norms, row)
        assert np.flatnonzero(squared == 0).tolist() == [row - row % 2, row - row % 2 + 1]
    np.testing.assert_array_equal(distances.nearest(points, points[::2])[1], 0)
    np.testing.assert_array_equal(distances.mean_distance_to_neighbors(points, 1), 0)


def test_rows_are_scaled_to_length_one_and_zeros_stay() -> None:
    np.testing.assert_allclose(distances.unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]], rtol=1e-6)


# --- BADGE -----------------------------------------------------------------------------------------------------------


def gradients(pool: PoolView) -> np.ndarray:
    """The gradient embeddings themselves, from the gradient of cross entropy for the predicted label."""
    probs = np.exp(pool.log_probs).mean(axis=1)
    onehot = np.eye(pool.n_classes)[probs.argmax(axis=1)]
    return np.einsum("nc,nd->ncd", probs - onehot, pool.features.astype(np.float64)).reshape(len(pool), -1)


def test_badge_distances_are_those_of_the_gradients_it_never_builds() -> None:
    pool = pool_of(np.random.default_rng(0).normal(size=(50, 9)), n_classes=5)
    explicit, factored = gradients(pool), _Gradients(pool)
    np.testing.assert_allclose(
        strategies.build("badge").score(pool, stream(0)), np.linalg.norm(explicit, axis=1), rtol=1e-6
    )
    for row in (0, 17, 49):
        expected = cdist(explicit, explicit[[row]], "sqeuclidean")[:, 0]
        np.testing.assert_allclose(factored.squared_distances_to(row), expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_loss_by_the_last_layers_weights() -> None:
    import torch

    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    logits = features @ weights.T
    pool = pool_of(features, log_probs=log_softmax(logits)[:, None])
    for row in range(6):
        w = torch.tensor(weights, requires_grad=True)
        z = w @ torch.tensor(features[row])
        torch.nn.functional.cross_entropy(z[None], z.argmax()[None]).backward()
        np.testing.assert_allclose(gradients(pool)[row], w.grad.numpy().ravel(), atol=1e-5)


def test_badge_starts_with_the_longest_gradient_and_draws_by_squared_distance() -> None:
    # One class is predicted everywhere with the same p: distances are those of the features, up to one factor.
    points = np.array([[10.0, 0.0], [9.0, 0.0], [10.0, 3.0], [0.0, 0.0]])
    pool = pool_of(points, log_probs=np.tile(np.log([0.6, 0.3, 0.1]), (4, 1, 1)))
    seconds = np.zeros(4)
    for seed in range(3000):
        batch = rows_of(query("badge", pool, 2, seed))
        # The third has 10^2 + 3^2 and is longest.
        assert batch[0] == 2
        seconds[batch[1]] += 1
    expected = np.array([9.0, 1.0 + 9.0, 0.0, 109.0])
    np.testing.assert_allclose(seconds / 3000, expected / expected.sum(), atol=0.025)


def test_badge_draws_no_copy_of_what_it_has_before_everything_else_is_drawn() -> None:
    rng = np.random.default_rng(1)
    rows = np.repeat(np.arange(10), 4)
    points = rng.normal(size=(10, 768))[rows]
    log_probs = log_softmax(rng.normal(size=(10, 1, 3)))[rows]
    for seed in range(20):
        first_ten = rows_of(query("badge", pool_of(points, log_probs=log_probs), 15, seed))[:10]
        assert sorted(rows[first_ten].tolist()) == list(range(10))


def test_badge_falls_back_on_the_ranking_where_the_model_is_certain_of_everything() -> None:
    certain = np.full((8, 1, 2), [0.0, -np.inf])
    pool = pool_of(np.random.default_rng(0).normal(size=(8, 3)), log_probs=certain, n_classes=2)
    np.testing.assert_array_equal(query("badge", pool, 5), rank(pool.ids, np.zeros(8), 0).ids[:5])


# --- core-set --------------------------------------------------------------------------------------------------------


def test_core_set_is_the_naive_greedy_one() -> None:
    rng = np.random.default_rng(3)
    points, labeled = rng.normal(size=(80, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    centres, chosen = [*labeled], []
    for _ in range(20):
        far = cdist(points, np.array(centres)).min(axis=1)
        chosen.append(int(far.argmax()))
        centres.append(points[chosen[-1]])
    pool = pool_of(points, labeled=labeled)
    assert rows_of(query("core_set", pool, 20)).tolist() == chosen
    scores = strategies.build("core_set").score(pool, stream(0))
    np.testing.assert_allclose(scores, cdist(points, labeled).min(axis=1), rtol=1e-4)


def test_core_set_covers_with_at_most_twice_the_best_radius() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        points, labeled = rng.normal(size=(14, 2)), rng.normal(size=(1, 2))

        def radius(rows, points=points, labeled=labeled) -> float:
            return float(cdist(points, np.concatenate([points[list(rows)], labeled])).min(axis=1).max())

        best = min(radius(rows) for rows in combinations(range(14), 3))
        assert radius(rows_of(query("core_set", pool_of(points, labeled=labeled), 3))) <= 2 * best + 1e-6


# --- k-means ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mini_batch", [False, True])
def test_k_means_finds_planted_clusters_and_leaves_its_points_alone(mini_batch) -> None:
    points, cluster = planted(4, 100)
    before = points.copy()
    centres = k_means(points, 4, stream(0), mini_batch)
    assert adjusted_rand_score(cluster, distances.nearest(points, centres)[0]) == 1.0
    np.testing.assert_array_equal(points, before)


@pytest.mark.parametrize("strategy", ["embedding_kmeans", "drop_query", "typiclust"])
def test_clustered_batches_hold_one_example_of_every_planted_cluster(strategy) -> None:
    points, cluster = planted(6, 30)
    pool = pool_of(points, labeled=np.empty((0, 16)))
    assert sorted(cluster[rows_of(query(strategy, pool, 6))].tolist()) == list(range(6))


def test_embedding_k_means_takes_the_point_nearest_to_the_mean_and_the_largest_cluster_first() -> None:
    points, cluster = planted(3, 40)
    keep = np.concatenate([np.arange(10), np.arange(40, 80), np.arange(80, 100)])
    points, cluster = points[keep], cluster[keep]
    chosen = rows_of(query("embedding_kmeans", pool_of(points), 3))
    assert cluster[chosen].tolist() == [1, 2, 0]
    for row in chosen:
        members = np.flatnonzero(cluster == cluster[row])
        mean = points[members].mean(axis=0)
        assert row == members[np.linalg.norm(points[members] - mean, axis=1).argmin()]


def test_where_points_coincide_every_distinct_one_is_chosen_before_copies() -> None:
    distinct = unit(np.random.default_rng(0).normal(size=(5, 8)))
    which = np.arange(50) % 5
    chosen = representatives(distinct[which], 12, stream(0))
    assert sorted(which[chosen[:5]].tolist()) == [0, 1, 2, 3, 4]
    assert len(set(chosen.tolist())) == 12


@pytest.mark.parametrize("name", STARTS)
def test_a_clustered_start_holds_one_example_of_every_planted_cluster_and_looks_at_no_label(name) -> None:
    points, cluster = planted(8, 25)
    start, ids = initial_queries.build(name), 7 + 2 * np.arange(200)
    one, two = (
        start.pick(StartPool(truth=LabeledSet(ids=ids, labels=labels), embeddings=points), 8, stream(1))
        for labels in (np.zeros(200, np.int64), np.arange(200) % 2)
    )
    np.testing.assert_array_equal(one, two)
    assert sorted(cluster[(one - 7) // 2].tolist()) == list(range(8))


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("points", degenerate_pools().values(), ids=degenerate_pools().keys())
@pytest.mark.parametrize("n", [1, 12, 40])
def test_a_clustered_start_has_so_many_distinct_examples(name, points, n) -> None:
    truth = LabeledSet(ids=7 + 2 * np.arange(40), labels=np.arange(40) % 2)
    chosen = initial_queries.build(name).pick(StartPool(truth=truth, embeddings=points), n, stream(1))
    assert len(set(chosen.tolist())) == n
    assert set(chosen.tolist()) <= set(truth.ids.tolist())


# --- TypiClust -------------------------------------------------------------------------------------------------------


def test_typicality_by_hand() -> None:
    # Five points: two neighbours each. Of 0: 1 and 3; of 1: 1 and 2; of 3: 2 and 3; of 6: 3 and 4; of 10: 4 and 7.
    means = np.array([2.0, 1.5, 2.5, 3.5, 5.5])
    np.testing.assert_allclose(typicality(np.array([[0.0], [1], [3], [6], [10]])), 1 / (means + 1e-5), rtol=1e-5)
    # Half of three is one neighbour; a pair has one each; a lone point none.
    np.testing.assert_allclose(typicality(np.array([[0.0], [1], [3]])), 1 / (np.array([1, 1, 2]) + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(typicality(np.array([[0.0], [4]])), 1 / (4 + 1e-5), rtol=1e-5)
    assert typicality(np.array([[3.0]])).tolist() == [0]
    np.testing.assert_allclose(typicality(np.zeros((4, 2))), 1e5)


def test_typicality_is_that_of_scikit_learns_neighbours() -> None:
    points = unit(np.random.default_rng(0).normal(size=(90, 12)))
    distance, _ = NearestNeighbors(n_neighbors=20).fit(points.astype(np.float64)).kneighbors()
    np.testing.assert_allclose(typicality(points), 1 / (distance.mean(axis=1) + 1e-5), rtol=1e-4)


def test_typiclust_visits_unlabelled_clusters_first_the_larger_before_the_smaller() -> None:
    sizes = [12, 20, 9, 15, 4]
    points, cluster = planted(5, 20)
    keep = np.concatenate([np.flatnonzero(cluster == c)[:size] for c, size in enumerate(sizes)])
    points, cluster = points[keep], cluster[keep]
    # Cluster 1 has one labelled example, cluster 3 has two; with two to ask for, there are five k-means clusters.
    labeled = points[[12, 41, 42]]
    left = np.setdiff1d(np.arange(60), [12, 41, 42])
    chosen = left[rows_of(query("typiclust", pool_of(points[left], labeled=labeled), 2))]
    assert cluster[chosen].tolist() == [0, 2]
    for row in chosen:
        members = np.flatnonzero(cluster == cluster[row])
        assert row == members[typicality(points[members]).argmax()]


def test_typiclust_goes_round_again_without_what_it_took_and_leaves_small_clusters_for_the_end() -> None:
    # Two clusters of seven and one of three, eight to ask for: clusters are told apart by hand below.
    points, cluster = planted(3, 7)
    points, cluster = points[:17], cluster[:17]
    rows = _typical_rows_with(points, [0, 1, 2], n=16)
    # Six more than the minimum were in both large ones; they are used up in turns before the small one's turn.
    assert cluster[rows].tolist() == [0, 1] * 7 + [2, 2]
    left = np.flatnonzero(cluster == 0)
    for row in rows[cluster[rows] == 0]:
        assert row == left[typicality(points[left]).argmax()]
        left = left[left != row]


def _typical_rows_with(points, clusters, n) -> np.ndarray:
    """Run the choice with centres that are known instead of found."""
    import al_ray.core.clustering as clustering

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering, "k_means", lambda *_, **__: np.eye(len(clusters), points.shape[1]))
        return clustering.typical_rows(points, 0, n, stream(0))


def test_typiclust_takes_small_clusters_where_there_are_no_others() -> None:
    points, cluster = planted(4, 3)
    rows = typical_rows(points, 0, 4, stream(0))
    assert sorted(cluster[rows].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(("n_labeled", "n", "n_clusters", "mini_batch"), [(3, 7, 10, False), (45, 6, 51, True)])
def test_typiclust_has_as_many_clusters_as_labels_after_the_round(
    monkeypatch, n_labeled, n, n_clusters, mini_batch
) -> None:
    import al_ray.core.clustering as clustering

    asked = []

    def spy(points, n_clusters, stream, mini_batch):
        asked.append((n_clusters, mini_batch))
        return k_means(points, n_clusters, stream, mini_batch)

    monkeypatch.setattr(clustering, "k_means", spy)
    points = unit(np.random.default_rng(0).normal(size=(n_labeled + 60, 5)))
    query("typiclust", pool_of(points[n_labeled:], labeled=points[:n_labeled]), n)
    assert asked == [(n_clusters, mini_batch)]


def test_typiclust_has_at_most_500_clusters() -> None:
    points = unit(np.random.default_rng(0).normal(size=(700, 3)))
    rows = typical_rows(points, 0, 600, stream(0))
    assert len(set(rows.tolist())) == 600


# --- ProbCover -------------------------------------------------------------------------------------------------------


def brute_cover(points, covered, delta: float, n: int) -> list[int]:
    near = cdist(points, points) < delta
    np.fill_diagonal(near, True)
    covered, chosen = covered.copy(), []
    while len(chosen) < n and not covered.all():
        gains = [int((near[row] & ~covered).sum()) for row in range(len(points))]
        chosen.append(gains.index(max(gains)))
        covered |= near[chosen[-1]]
    return chosen


@pytest.mark.parametrize("delta", [0.2, 0.5, 0.9, 1.5])
def test_prob_cover_is_greedy_set_cover(monkeypatch, delta) -> None:
    monkeypatch.setattr(distances, "BLOCK_VALUES", 700)
    rng = np.random.default_rng(2)
    points = unit(rng.normal(size=(93, 3)))
    covered = rng.random(93) < 0.2
    assert greedy_cover(points, covered, delta, 93).tolist() == brute_cover(points, covered, delta, 93)


def test_prob_cover_asks_where_most_is_not_covered_by_labelled_examples() -> None:
    points, cluster = planted(4, 30)
    keep = np.concatenate([np.flatnonzero(cluster == c)[:size] for c, size in enumerate([30, 25, 20, 15])])
    points, cluster = points[keep], cluster[keep]
    pool = pool_of(points, labeled=np.eye(4, 16)[[0]])
    chosen = rows_of(query({"name": "prob_cover", "delta": 0.5}, pool, 5))
    # Cluster 0 is covered by its labelled centre; once the other three are, two are drawn at random.
    assert cluster[chosen[:3]].tolist() == [1, 2, 3]
    assert len(set(chosen.tolist())) == 5


def test_prob_cover_subsamples_large_pools_and_fills_from_the_whole_pool() -> None:
    points = unit(np.random.default_rng(0).normal(size=(100, 3)))
    chosen = query({"name": "prob_cover", "delta": 1.9, "max_candidates": 10}, pool_of(points), 60)
    assert len(set(chosen.tolist())) == 60


def test_the_distance_to_other_clusters_says_which_balls_are_pure() -> None:
    rng = np.random.default_rng(0)
    points, cluster = unit(rng.normal(size=(60, 4))), rng.integers(3, size=60)
    far = cdist(points, points)
    strangers = distances_to_other_clusters(points, cluster)
    for delta in (0.1, 0.3, 0.6):
        pure = [len(set(cluster[far[row] < delta]) | {cluster[row]}) == 1 for row in range(60)]
        np.testing.assert_array_equal(strangers >= delta, pure)
    assert np.isinf(distances_to_other_clusters(points, np.zeros(60, np.int64))).all()


def test_delta_is_bisected_up_to_the_gap_between_clusters() -> None:
    # Two arcs, 0.6 of a radian apart: chord 2 sin(0.3) = 0.591, of which 37/64 = 0.578 is the largest 64th below.
    angles = np.concatenate([np.linspace(-0.1, 0, 50), np.linspace(0.6, 0.7, 50)])
    points = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    assert largest_pure_delta(points, 2, 1.0, stream(0)) == 37 / 64
    # One cluster is always pure: the largest value that six bisections of [0, 1] reach.
    assert largest_pure_delta(points, 1, 0.95, stream(0)) == 63 / 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, r"delta is 0.0, it must be above 0 and at most 2"),
        ({"delta": 2.5}, r"delta is 2.5, it must be above 0 and at most 2"),
        ({"delta": float("nan")}, r"delta is nan"),
        ({"purity": 0.0}, r"purity is 0.0, it must be above 0 and at most 1. 0.95 is the paper's"),
        ({"max_candidates": 1}, r"max_candidates is 1, it must be at least 2. 20000 takes 50 MB"),
    ],
)
def test_prob_cover_refuses_options_that_mean_nothing(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        strategies.build({"name": "prob_cover", **options})


# --- DropQuery -------------------------------------------------------------------------------------------------------


def draws_of(counts, n_draws: int) -> np.ndarray:
    """Log-probabilities whose first ``count`` draws predict class 1, and the others class 0."""
    votes = (np.arange(n_draws) < np.asarray(counts)[:, None]).astype(int)
    return np.log(np.where(np.eye(2, dtype=bool)[votes], 0.9, 0.1))


def test_candidates_disagree_in_more_than_half_of_the_draws() -> None:
    counts = np.repeat([3, 2, 1, 0], [10, 20, 30, 40])
    # One label needs 25 candidates: 30 have 2 or 3 of 3. Two need 50: 60 have 1 or more, and no more can be had.
    assert candidate_rows(counts, 3, 1).tolist() == list(range(30))
    assert candidate_rows(counts, 3, 2).tolist() == list(range(60))
    assert candidate_rows(counts, 3, 3).tolist() == list(range(60))
    # Of four draws two are not more than half.
    assert candidate_rows(np.repeat([2, 3, 4], [50, 20, 5]), 4, 1).tolist() == list(range(50, 75))


def test_drop_query_asks_for_disagreeing_examples_only_and_scores_their_share() -> None:
    counts = np.tile([0, 1, 2, 3], 50)
    points = unit(np.random.default_rng(0).normal(size=(200, 4)))
    pool = pool_of(points, log_probs=draws_of(counts, 3), predicted=np.zeros(200, np.int64), n_classes=2)
    np.testing.assert_allclose(strategies.build("drop_query").score(pool, stream(0)), counts / 3)
    assert set(counts[rows_of(query("drop_query", pool, 4))].tolist()) <= {2, 3}
    # The same draws against the other prediction: those that voted for class 1 agree now.
    pool = pool_of(points, log_probs=draws_of(counts, 3), predicted=np.ones(200, np.int64), n_classes=2)
    assert set(counts[rows_of(query("drop_query", pool, 4))].tolist()) <= {0, 1}


def test_where_few_examples_flip_only_those_are_clustered() -> None:
    # 100 of 2,000 flip in one draw of three, as on TREC-6; 25 labels would like 625 candidates.
    points, cluster = planted(20, 100)
    flips = np.arange(2000) % 100 < 5
    pool = pool_of(points, log_probs=draws_of(flips.astype(int), 3), predicted=np.zeros(2000, np.int64), n_classes=2)
    chosen = rows_of(query("drop_query", pool, 25))
    assert flips[chosen].all()
    # One start of k-means may leave a cluster out, on some processors; drawn at random, 25 would meet 14 of 20.
    assert len(set(cluster[chosen].tolist())) >= 18


def test_fewer_flips_than_labels_are_all_asked_and_the_others_drawn_from_all_the_rest() -> None:
    flips = np.isin(np.arange(400), [3, 77, 250])
    points = unit(np.random.default_rng(0).normal(size=(400, 4)))
    pool = pool_of(points, log_probs=draws_of(flips.astype(int), 3), predicted=np.zeros(400, np.int64), n_classes=2)
    batches = [rows_of(query("drop_query", pool, 10, seed)) for seed in range(40)]
    assert all(rows[:3].tolist() == [3, 77, 250] for rows in batches)
    assert all(len(set(rows.tolist())) == 10 for rows in batches)
    filled = np.concatenate([rows[3:] for rows in batches])
    assert len(set(filled.tolist())) > 150, "280 draws, by another stream each time"
    assert abs(filled.mean() - 199.5) < 25


def test_drop_query_clusters_directions_not_lengths() -> None:
    points, cluster = planted(5, 30)
    lengths = np.random.default_rng(0).uniform(0.1, 100, size=(150, 1))
    assert sorted(cluster[rows_of(query("drop_query", pool_of(points * lengths), 5))].tolist()) == list(range(5))
