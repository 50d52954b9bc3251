"""Strategies by the geometry of features, embeddings, predictions and weights, against plainer computations."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, PoolView, Ranking, RowView
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.strategy import ical, max_herding, strategies
from al_ray.strategy.ical import dependence_on, sampled_labels
from al_ray.strategy.ldm_s import closeness, least_disagreement

GEOMETRIES = ["pcoreset", "lcmd", "max_herding", "ldm_s", {"name": "ldm_s", "head": "refitted"}, "ical"]


def unit(points) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def pool_of(points, *, labeled=None, log_probs=None, labeled_log_probs=None, ids=None, n_draws=3, n_classes=3):
    """Lay out points as features and embeddings alike, with the predictions of linear classifiers on them."""
    points, rng = np.asarray(points), np.random.default_rng(11)
    weights = rng.normal(size=(n_draws, n_classes, points.shape[1]))

    def predict(rows):
        return log_softmax(np.einsum("kcd,nd->nkc", weights, np.asarray(rows, dtype=np.float64)))

    labeled = rng.normal(size=(4, points.shape[1])) if labeled is None else np.asarray(labeled)
    labeled = labeled.astype(points.dtype)
    return PoolView(
        ids=10 + 3 * np.arange(len(points)) if ids is None else ids,
        log_probs=predict(points) if log_probs is None else log_probs,
        features=points,
        embeddings=RowView.of(points),
        labeled=LabeledSet(ids=100_000 + np.arange(len(labeled)), labels=np.arange(len(labeled)) % n_classes),
        labeled_log_probs=predict(labeled) if labeled_log_probs is None else labeled_log_probs,
        labeled_features=labeled,
        labeled_embeddings=labeled,
    )


def query(strategy, pool: PoolView, n: int, seed: int = 0) -> np.ndarray:
    if isinstance(strategy, (str, dict)):
        strategy = strategies.build(strategy)
    ranking = rank(pool.ids, strategy.score(pool, stream(seed, "score")), seed)
    return strategy.pick(pool, ranking, n, stream(seed, "pick"))


def rows_of(ids) -> np.ndarray:
    return (np.asarray(ids) - 10) // 3


def ranked_rows(pool: PoolView, scores, seed: int = 0) -> list[int]:
    return np.searchsorted(pool.ids, rank(pool.ids, scores, seed).ids).tolist()


# --- all of them -----------------------------------------------------------------------------------------------------


def odd_pools() -> dict[str, PoolView]:
    rng = np.random.default_rng(5)
    points = unit(rng.normal(size=(40, 6)))
    extreme = log_softmax(rng.normal(size=(40, 3, 3)) * 1e4)
    impossible = np.full((40, 3, 3), -np.inf)
    impossible[..., 1] = 0.0
    return {
        "random points": pool_of(points),
        "float64": pool_of(points.astype(np.float64)),
        "one point forty times": pool_of(np.tile(points[:1], (40, 1))),
        "three distinct points": pool_of(points[:3][rng.integers(3, size=40)]),
        "all zero": pool_of(np.zeros((40, 6), np.float32)),
        "one feature": pool_of(rng.normal(size=(40, 1)).astype(np.float32)),
        "large": pool_of((rng.normal(size=(40, 6)) * 1e6).astype(np.float32)),
        "extreme logits": pool_of(points, log_probs=extreme, labeled_log_probs=extreme[:4]),
        "one class, certain": pool_of(points, log_probs=impossible, labeled_log_probs=impossible[:4]),
        "all classes alike": pool_of(points, log_probs=np.full((40, 3, 3), -np.log(3))),
        "one labelled": pool_of(points, labeled=points[:1]),
        "none labelled": pool_of(points, labeled=points[:0]),
    }


@pytest.mark.parametrize("name", GEOMETRIES, ids=str)
@pytest.mark.parametrize("which", odd_pools())
@pytest.mark.parametrize("n", [1, 7, 39, 40])
def test_a_batch_has_so_many_distinct_examples_of_the_pool_and_is_the_same_again(name, which, n) -> None:
    pool = odd_pools()[which]
    one, two = query(name, pool, n), query(name, pool, n)
    assert one.dtype == np.int64
    assert len(one) == len(set(one.tolist())) == n
    assert set(one.tolist()) <= set(pool.ids.tolist())
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["pcoreset", "lcmd", "max_herding"])
def test_who_comes_first_in_the_pool_has_no_part_in_the_choice(name) -> None:
    rng = np.random.default_rng(3)
    points, labeled = rng.normal(size=(70, 5)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    order = rng.permutation(70)
    straight = rows_of(query(name, pool_of(points, labeled=labeled), 20))
    shuffled = rows_of(query(name, pool_of(points[order], labeled=labeled), 20))
    assert order[shuffled].tolist() == straight.tolist()


# --- PCoreSet --------------------------------------------------------------------------------------------------------


def test_pcoreset_is_the_naive_greedy_choice_by_mean_probabilities() -> None:
    rng = np.random.default_rng(3)
    log_probs, labeled = log_softmax(rng.normal(size=(80, 4, 5)) * 2), log_softmax(rng.normal(size=(6, 4, 5)) * 2)
    probs, centres = np.exp(log_probs).mean(axis=1), [*np.exp(labeled).mean(axis=1)]
    points = rng.normal(size=(80, 2)).astype(np.float32)
    pool = pool_of(points, labeled=points[:6], log_probs=log_probs, labeled_log_probs=labeled, n_classes=5)
    distances = [min(np.sqrt(((p - c) ** 2).sum()) for c in centres) for p in probs]
    np.testing.assert_allclose(strategies.build("pcoreset").score(pool, stream(0)), distances, rtol=1e-12)
    chosen = []
    for _ in range(25):
        far = [min(np.sqrt(((p - c) ** 2).sum()) for c in centres) for p in probs]
        chosen.append(int(np.argmax(far)))
        centres.append(probs[chosen[-1]])
    assert rows_of(query("pcoreset", pool, 25)).tolist() == chosen


def test_pcoreset_tells_very_sure_predictions_apart_and_leaves_equal_ones_to_the_ranking() -> None:
    # Distances of 1e-5 and 2e-5 from the labelled prediction, far below what float32 products of probabilities hold.
    second = np.array([0.0, 1e-5, 0.0, 2e-5, 1e-5])
    log_probs = np.log(np.stack([1 - second, np.maximum(second, 1e-300)], axis=1))[:, None]
    pool = pool_of(np.zeros((5, 2)), labeled=np.zeros((1, 2)), log_probs=log_probs, labeled_log_probs=log_probs[:1])
    for seed in range(8):
        ranked = ranked_rows(pool, second, seed)
        rows = rows_of(query("pcoreset", pool, 5, seed)).tolist()
        assert rows[0] == 3
        assert rows[1:] == [row for row in ranked if row in (1, 4)] + [row for row in ranked if row in (0, 2)]


def test_pcoreset_without_labels_begins_anywhere_and_goes_on_to_what_is_farthest() -> None:
    log_probs = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])[:, None]
    pool = pool_of(np.zeros((3, 2)), labeled=np.zeros((0, 2)), log_probs=log_probs, labeled_log_probs=log_probs[:0])
    far = {0: [2, 1], 1: [2, 0], 2: [0, 1]}
    begun = set()
    for seed in range(20):
        rows = rows_of(query("pcoreset", pool, 3, seed)).tolist()
        begun.add(rows[0])
        assert rows[1:] == far[rows[0]]
    assert begun == {0, 1, 2}


# --- LCMD ------------------------------------------------------------------------------------------------------------


def naive_lcmd(points, labeled, n: int) -> list[int]:
    """Assign everything anew before every choice."""
    centres, chosen = [*labeled], []
    for _ in range(n):
        if not centres:
            chosen.append(int((points**2).sum(axis=1).argmax()))
        else:
            squared = cdist(points, np.array(centres), "sqeuclidean")
            cluster = squared.argmin(axis=1)
            weights = [squared[cluster == c, c].sum() for c in range(len(centres))]
            heaviest = int(np.argmax(weights))
            chosen.append(max(np.flatnonzero(cluster == heaviest), key=lambda row: squared[row, heaviest]))
        centres.append(points[chosen[-1]])
    return chosen


@pytest.mark.parametrize("n_labeled", [0, 1, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lcmd_is_the_naive_choice_that_assigns_all_anew(n_labeled, dtype) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        points = (rng.normal(size=(90, 4)) + 3 * rng.integers(2, size=(90, 1))).astype(dtype)
        labeled = rng.normal(size=(n_labeled, 4)).astype(dtype)
        chosen = rows_of(query("lcmd", pool_of(points, labeled=labeled), 30)).tolist()
        assert chosen == naive_lcmd(points.astype(np.float64), labeled.astype(np.float64), 30)


def test_lcmd_asks_where_the_pool_is_and_core_set_for_the_outlier() -> None:
    # 20 candidates at distance 1 to 1.19 of the first centre weigh 20 or more, the lone one at distance 4 only 16.
    near = 1 + 0.01 * np.arange(20)
    points = np.concatenate([near, [104.0]])[:, None].astype(np.float32)
    pool = pool_of(points, labeled=np.array([[0.0], [100.0]], np.float32))
    assert rows_of(query("lcmd", pool, 2)).tolist() == [19, 20]
    assert rows_of(query("core_set", pool, 1)).tolist() == [20]


def test_lcmd_leaves_a_candidate_that_is_as_near_to_a_new_centre_with_the_earlier_one() -> None:
    # (2, 0) is the farthest. (0, 0) is then as near to it as to the labelled (-2, 0): with the latter they weigh 4 + 5.
    pool = pool_of([[0.0, 0.0], [2.0, 0.0], [-3.0, 2.0], [1.0, 1.0]], labeled=[[-2.0, 0.0]])
    assert rows_of(query("lcmd", pool, 2)).tolist() == [1, 2]


def test_lcmd_leaves_equal_distances_to_the_ranking() -> None:
    pool = pool_of(np.repeat([[3.0, 0.0]], 6, axis=0), labeled=[[0.0, 0.0]])
    for seed in range(5):
        assert rows_of(query("lcmd", pool, 6, seed)).tolist() == ranked_rows(pool, np.full(6, 3.0), seed)


# --- MaxHerding ------------------------------------------------------------------------------------------------------


def naive_herding(points, labeled, sigma: float, n: int) -> list[int]:
    """Compute the coverage of every larger batch from scratch, in float64."""
    kernel = np.exp(-cdist(points, points, "sqeuclidean") / sigma**2)
    covered = np.exp(-cdist(labeled, points, "sqeuclidean") / sigma**2).max(axis=0, initial=0.0)
    chosen: list[int] = []
    while len(chosen) < n:
        coverage = [np.maximum(covered, kernel[[*chosen, row]].max(axis=0)).mean() for row in range(len(points))]
        chosen.append(max(set(range(len(points))) - set(chosen), key=coverage.__getitem__))
    return chosen


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("n_labeled", [0, 7])
def test_max_herding_is_plain_greedy_though_it_looks_again_at_few(monkeypatch, sigma, n_labeled) -> None:
    monkeypatch.setattr(max_herding, "BLOCK_ROWS", 4)
    rng = np.random.default_rng(2)
    points, labeled = unit(rng.normal(size=(150, 5))), unit(rng.normal(size=(7, 5)))[:n_labeled]
    looked: list[int] = []
    rows_of_kernel = max_herding._Kernel.rows
    monkeypatch.setattr(
        max_herding._Kernel, "rows", lambda self, rows: looked.append(len(rows)) or rows_of_kernel(self, rows)
    )
    pool = pool_of(points, labeled=labeled)
    chosen = rows_of(query({"name": "max_herding", "sigma": sigma}, pool, 20)).tolist()
    assert chosen == naive_herding(points.astype(np.float64), labeled.astype(np.float64), sigma, 20)
    # Plain greedy looks at 150 candidates twenty times.
    assert sum(looked) < 150 * 20 / 2


def test_max_herding_asks_in_the_middle_of_the_largest_cluster_that_no_label_is_near() -> None:
    rng = np.random.default_rng(0)
    cluster = np.repeat([0, 1, 2], [60, 40, 20])
    points = unit(np.eye(3, 8)[cluster] + rng.normal(size=(120, 8)) * 0.05)
    chosen = rows_of(query("max_herding", pool_of(points, labeled=np.eye(3, 8, dtype=np.float32)[:1]), 2))
    assert cluster[chosen].tolist() == [1, 2]
    mean = points[cluster == 1].mean(axis=0)
    assert np.linalg.norm(points[chosen[0]] - mean) < np.median(np.linalg.norm(points[cluster == 1] - mean, axis=1))


def test_max_herding_takes_every_distinct_example_before_a_copy() -> None:
    distinct = unit(np.random.default_rng(0).normal(size=(8, 384)))
    which = np.arange(80) % 8
    for seed in range(5):
        chosen = rows_of(query("max_herding", pool_of(distinct[which], labeled=distinct[:2]), 20, seed))
        assert sorted(which[chosen[:6]].tolist()) == [2, 3, 4, 5, 6, 7]
        # The rest adds nothing: any of them may follow.
        assert len(set(which[chosen[6:]].tolist())) > 3


def test_max_herding_subsamples_large_pools_and_fills_from_the_whole_pool() -> None:
    points = unit(np.random.default_rng(0).normal(size=(100, 3)))
    firsts = {query({"name": "max_herding", "max_candidates": 10}, pool_of(points), 1, seed)[0] for seed in range(30)}
    assert len(firsts) > 5
    assert len(set(query({"name": "max_herding", "max_candidates": 10}, pool_of(points), 60).tolist())) == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, r"sigma is 0.0, it must be between 0.01 and 100"),
        ({"max_candidates": 1}, r"max_candidates is 1, it must be at least 2"),
    ],
)
def test_max_herding_refuses_options_that_mean_nothing(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        strategies.build({"name": "max_herding", **options})


# --- LDM-S -----------------------------------------------------------------------------------------------------------


def linear_pool(n: int = 60, n_features: int = 3, n_classes: int = 3, seed: int = 0):
    """Features, and the weights and biases of a linear head on them."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_features)).astype(np.float32), rng.normal(size=(n_classes, n_features + 1))


def naive_ldm(features, weights, n_idle: int, draws: np.random.Generator) -> np.ndarray:
    """Change the weights themselves, one change at a time, and predict anew, in float64."""
    inputs = np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)
    before, ldm = (inputs @ weights.T).argmax(axis=1), np.ones(len(features))
    for exponent in range(-50, 1):
        idle = 0
        while idle < n_idle:
            change = draws.standard_normal(weights.shape, dtype=np.float32)
            flips = (inputs @ (weights + 10 ** (exponent / 10) * change).T).argmax(axis=1) != before
            smaller = np.where(flips, np.minimum(ldm, flips.mean()), ldm)
            idle = 0 if (smaller < ldm).any() else idle + 1
            ldm = smaller
    return ldm


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n_idle", [1, 10])
def test_the_least_disagree_metric_is_that_of_weights_which_are_changed_themselves(n_classes, n_idle) -> None:
    features, weights = linear_pool(n_classes=n_classes)
    log_probs = log_softmax(features.astype(np.float64) @ weights[:, :-1].T + weights[:, -1])
    ldm = least_disagreement(features, log_probs, n_idle, stream(3))
    np.testing.assert_allclose(ldm, naive_ldm(features, weights, n_idle, stream(3)))
    assert len(set(ldm.tolist())) > 15


def test_large_logits_flip_only_once_the_weights_change_as_much() -> None:
    features, weights = linear_pool()
    # Multiplied by 1e9 no margin of these sixty is within the reach of weights that change by some units.
    logits = 1e9 * (features.astype(np.float64) @ weights[:, :-1].T)
    np.testing.assert_array_equal(least_disagreement(features, logits, 10, stream(0)), 1.0)
    # A constant that is added to all logits of an example changes no prediction.
    plain = least_disagreement(features, logits / 1e9, 10, stream(0))
    np.testing.assert_array_equal(least_disagreement(features, logits / 1e9 - 1e4, 10, stream(0)), plain)


def test_the_least_disagree_metric_orders_by_the_angle_to_the_boundary() -> None:
    # Two classes told apart by the sign of the first coordinate of unit vectors.
    features = unit(np.random.default_rng(1).normal(size=(400, 5)))
    ldm = least_disagreement(features, np.stack([features[:, 0], -features[:, 0]], axis=1), 10, stream(0))
    assert spearmanr(ldm, np.abs(features[:, 0])).statistic > 0.97


def test_the_weight_of_candidates_by_hand() -> None:
    # q = 0.2; exp(-0.5) = 0.6065 and exp(-1.5) = 0.2231 are scaled to add up to 2, and the first is cut at 1.
    behind = 2 / (np.exp(-0.5) + np.exp(-1.5))
    expected = [1, 1, 1, behind * np.exp(-1.5)]
    np.testing.assert_allclose(closeness(np.array([0.1, 0.2, 0.3, 0.5]), 2), expected)
    np.testing.assert_allclose(closeness(np.array([0.1, 0.2]), 2), [1, 1])
    # Far behind: nothing is left to scale.
    np.testing.assert_array_equal(closeness(np.array([1e-4, 1.0]), 1), [1, 0])


def test_seeding_begins_with_the_smallest_and_draws_by_squared_weight_and_cosine_distance() -> None:
    # Directions at 0, 90, 180 and 60 degrees, of several lengths: cosine distances 0, 1, 2 and 0.5.
    features = np.array([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [0.5, np.sqrt(0.75)], [7.0, 0.0]], dtype=np.float32)
    pool = pool_of(features)
    ldm = np.array([0.1, 0.2, 0.4, 0.4, 0.2])
    gamma = np.exp(-np.maximum(ldm - 0.2, 0) / 0.2)
    # Behind rank 2: one of LDM 0.2, which the ranking put third or second, and two of 0.4.
    gamma[[4, 2, 3]] *= 2 / (1 + 2 * np.exp(-1))
    expected = (np.minimum(gamma, 1) * [0, 1, 2, 0.5, 0]) ** 2
    ranking = Ranking(ids=pool.ids[[0, 1, 4, 2, 3]], scores=-ldm[[0, 1, 4, 2, 3]])
    drawn = np.zeros(5)
    for seed in range(4000):
        batch = rows_of(strategies.build("ldm_s").pick(pool, ranking, 2, stream(seed)))
        assert batch[0] == 0
        drawn[batch[1]] += 1
    np.testing.assert_allclose(drawn / 4000, expected / expected.sum(), atol=0.03)


def test_once_no_other_direction_is_left_the_ranking_decides() -> None:
    features = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], dtype=np.float32)
    pool = pool_of(features)
    ranking = Ranking(ids=pool.ids[[3, 1, 0, 2]], scores=np.array([-0.1, -0.2, -0.3, -0.4]))
    for seed in range(5):
        assert rows_of(strategies.build("ldm_s").pick(pool, ranking, 4, stream(seed))).tolist() == [3, 2, 1, 0]


def test_a_refitted_head_is_logistic_regression_on_the_labelled_features() -> None:
    rng = np.random.default_rng(4)
    labeled = rng.normal(size=(30, 4)).astype(np.float32)
    pool = pool_of(rng.normal(size=(80, 4)).astype(np.float32), labeled=labeled)
    with_one = [np.concatenate([rows, np.ones((len(rows), 1))], axis=1) for rows in (labeled, pool.features)]
    peer = LogisticRegression(C=10.0, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(
        with_one[0], pool.labeled.labels
    )
    known = dataclasses.replace(pool, log_probs=peer.predict_log_proba(with_one[1])[:, None])
    refitted = strategies.build({"name": "ldm_s", "head": "refitted"})
    np.testing.assert_allclose(refitted.score(pool, stream(0)), strategies.build("ldm_s").score(known, stream(0)))
    assert refitted.needs_labeled
    assert not strategies.build("ldm_s").needs_labeled


def test_ldm_s_asks_a_sample_of_a_large_pool_and_does_not_hang_on_who_comes_first() -> None:
    features, weights = linear_pool(n=100)
    log_probs = log_softmax(features @ weights[:, :-1].T)[:, None]
    pool = pool_of(features, log_probs=log_probs)
    few = strategies.build({"name": "ldm_s", "max_candidates": 10})
    scores = few.score(pool, stream(0))
    assert (scores == -2).sum() == 90
    assert set(rows_of(query(few, pool, 10)).tolist()) == set(np.flatnonzero(few.score(pool, stream(0, "score")) > -2))
    assert len(set(query(few, pool, 60).tolist())) == 60
    unseen = rank(pool.ids[scores == -2], scores[scores == -2], 1)
    assert few.pick(pool.take(unseen.ids), unseen, 5, stream(0)).tolist() == unseen.ids[:5].tolist()
    order = np.random.default_rng(1).permutation(100)
    straight = strategies.build("ldm_s").score(pool, stream(0))
    shuffled = strategies.build("ldm_s").score(pool_of(features[order], log_probs=log_probs[order]), stream(0))
    np.testing.assert_array_equal(shuffled, straight[order])


# --- ICAL ------------------------------------------------------------------------------------------------------------


def rational_quadratic(labels, n_classes: int) -> np.ndarray:
    """The kernel of public code, over the draws of every example ``[n, n_draws, n_draws]``."""
    onehot = np.eye(n_classes)[labels]
    squared = ((onehot[:, :, None] - onehot[:, None]) ** 2).sum(axis=3)
    return np.mean([(1 + squared / (2 * alpha)) ** -alpha for alpha in (0.2, 0.5, 1, 2, 5)], axis=0)


def hsic(one, other) -> float:
    n_draws = len(one)
    centre = np.eye(n_draws) - 1 / n_draws
    return float(np.trace(one @ centre @ other @ centre)) / n_draws**2


def test_ical_is_greedy_in_the_dependence_of_batch_and_pool_whatever_the_kernel() -> None:
    pool = pool_of(np.random.default_rng(0).normal(size=(70, 3)), n_draws=6, n_classes=4)
    ranking = rank(pool.ids, np.zeros(70), 5)
    chosen = rows_of(strategies.build({"name": "ical", "n_pool_points": 20}).pick(pool, ranking, 12, stream(2)))
    draws = stream(2)
    order = np.searchsorted(pool.ids, ranking.ids)
    kernels = rational_quadratic(sampled_labels(pool.log_probs, draws), 4)[order]
    points = [draws.choice(70, 20, replace=False) for _ in range(12)]
    expected: list[int] = []
    for rows in points:
        values = [hsic(kernels[rows].mean(axis=0), kernels[[*expected, row]].mean(axis=0)) for row in range(70)]
        values = np.where(np.isin(np.arange(70), expected), -1, values)
        # What is equal is so but for rounding here.
        expected.append(int(np.flatnonzero(values > values.max() - 1e-12)[0]))
    assert chosen.tolist() == order[expected].tolist()


def test_dependence_is_the_hilbert_schmidt_independence_criterion_and_zero_where_draws_agree() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=(30, 5))
    labels[7] = 2
    points = np.stack([rng.choice(30, 8, replace=False) for _ in range(4)])
    equal = (labels[:, :, None] == labels[:, None]).astype(float)
    expected = [[hsic(equal[rows].mean(axis=0), equal[row]) for rows in points] for row in range(30)]
    values = dependence_on(labels, points, 3)
    np.testing.assert_allclose(values, expected, atol=1e-12)
    assert (values[7] == 0).all()


def test_labels_are_drawn_as_likely_as_each_draw_says() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    with np.errstate(divide="ignore"):
        labels = sampled_labels(np.tile(np.log(probs), (20_000, 1, 1)), stream(0))
    shares = np.stack([np.bincount(draw, minlength=3) for draw in labels.T]) / 20_000
    np.testing.assert_allclose(shares, probs, atol=0.015)
    assert shares[1, 0] == 0
    assert abs(np.corrcoef(labels.T)[0, 1]) < 0.03


def test_ical_prefers_what_the_draws_dispute_as_they_dispute_the_pool() -> None:
    # Draws 0-2 and 3-5 dispute most of the pool; two examples are disputed otherwise, and five not at all.
    camps, parity = np.arange(6) < 3, np.arange(6) % 2 == 0
    votes = np.stack([*[camps] * 40, *[parity] * 2, *[np.ones(6, bool)] * 5]).astype(int)
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.eye(2)[votes])
    pool = pool_of(np.zeros((47, 2)), log_probs=log_probs, n_classes=2)
    for seed in range(5):
        chosen = rows_of(query("ical", pool, 44, seed)).tolist()
        assert set(chosen[:40]) == set(range(40))
        assert set(chosen[40:42]) == {40, 41}
        # Of equal ones the ranking decides.
        assert chosen[:40] == [row for row in ranked_rows(pool, np.zeros(47), seed) if row < 40]


def test_ical_goes_on_past_the_choices_made_together(monkeypatch) -> None:
    pool = pool_of(np.random.default_rng(0).normal(size=(70, 3)), n_draws=6)
    at_once = query("ical", pool, 60)
    monkeypatch.setattr(ical, "STEPS_AT_ONCE", 7)
    np.testing.assert_array_equal(query("ical", pool, 60), at_once)
