"""Strategies by the geometry of features, embeddings, predictions and weights, against plainer computations."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, PoolView, RowView
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.strategy import max_herding, strategies

GEOMETRIES = ["pcoreset", "lcmd", "max_herding"]


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


@pytest.mark.parametrize("name", GEOMETRIES)
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
