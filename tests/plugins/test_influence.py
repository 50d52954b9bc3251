"""EADA, influence selection, EV-GP and TiDAL, against slower and plainer computations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from scipy.special import entr, logsumexp
from scipy.special import log_softmax as scipy_log_softmax
from sklearn.linear_model import LogisticRegression

from al_ray.core.distances import double_unit_rows
from al_ray.core.logistic import logistic_regression
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import POOL_ARRAYS, LabeledSet, PoolView, RowView
from al_ray.core.uncertainty import free_energy, log_softmax
from al_ray.errors import ConfigError
from al_ray.strategy import strategies
from al_ray.strategy.ev_gp import least_variance, posterior, sparse_posterior, tangent_kernel
from al_ray.strategy.isal import newton_direction

LABELED = LabeledSet(ids=np.arange(90_000, 90_012), labels=np.arange(12) % 3)


def query(option, pool: PoolView, n: int, seed: int = 0) -> np.ndarray:
    strategy = strategies.build(option)
    ranking = rank(pool.ids, strategy.score(pool, stream(seed, "score")), seed)
    return strategy.pick(pool, ranking, n, stream(seed, "pick"))


def reordered(pool: PoolView, order: np.ndarray) -> PoolView:
    """Return a pool of the same examples, in another order under the ids."""
    rows = {key: getattr(pool, key) for key in POOL_ARRAYS}
    return replace(pool, **{key: None if values is None else values[order] for key, values in rows.items()})


# --- EADA ------------------------------------------------------------------------------------------------------------


def eada_pool(logits: np.ndarray) -> PoolView:
    logits = np.asarray(logits)
    ids = np.arange(len(logits), dtype=np.int64) * 7 + 3
    return PoolView(ids=ids, log_probs=log_softmax(logits), logits=logits, labeled=LABELED)


def eada_in_two_stages(logits: np.ndarray, n_first: int, temperature: float) -> list[int]:
    """Sort by free energy, cut, sort by margin: rows in order of choice, as the authors describe it, plainly."""
    energies = [[-float(z) for z in np.asarray(example, dtype=np.float64).mean(axis=0)] for example in logits]
    free = [-temperature * logsumexp([-e / temperature for e in example]) for example in energies]
    order = sorted(range(len(logits)), key=lambda row: -free[row])
    gap = [sorted(example)[0] - sorted(example)[1] for example in energies]
    return [*sorted(order[:n_first], key=lambda row: -gap[row]), *order[n_first:]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(("n", "share", "n_first"), [(40, 0.5, 20), (41, 0.5, 21), (30, 0.1, 3), (9, 1.0, 9)])
def test_eada_takes_the_share_of_highest_free_energy_and_then_the_smallest_gaps(dtype, scale, n, share, n_first):
    for temperature in (0.5, 1.0, 3.0):
        logits = (np.random.default_rng(n).normal(size=(n, 2, 5)) * scale).astype(dtype)
        pool = eada_pool(logits)
        chosen = query({"name": "eada", "share": share, "temperature": temperature}, pool, n)
        assert ((chosen - 3) // 7).tolist() == eada_in_two_stages(logits, n_first, temperature)


def test_eada_by_hand() -> None:
    # Free energies -10.7, -5.0, -1.1, -0.7: the last two go on, of which the last has no gap.
    logits = np.array([[10.0, 10.0], [5.0, 0.0], [1.0, -1.0], [0.0, 0.0]])[:, None]
    scores = strategies.build("eada").score(eada_pool(logits), stream(0))
    free = -np.log(np.exp(logits[:, 0]).sum(axis=1))
    np.testing.assert_allclose(scores[2:], [1 + 1 / 3, 2.0])
    np.testing.assert_allclose(scores[:2], 1 / (1 + free[2] - free[:2]))
    assert query("eada", eada_pool(logits), 4).tolist() == [24, 17, 10, 3]


def test_eada_leaves_ties_to_the_ranking() -> None:
    scores = strategies.build("eada").score(eada_pool(np.full((9, 1, 3), 2.5)), stream(0))
    assert scores.tolist() == [2.0] * 9
    # Rows that differ by a permutation of classes are alike in both stages, so that the cut lets all of them in.
    logits = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [9.0, 1.0, 0.0]])[:, None]
    scores = strategies.build("eada").score(eada_pool(logits), stream(0))
    np.testing.assert_allclose(scores[:3], 1.2, rtol=1e-12)
    assert scores[3] < 1


def test_eada_of_one_class_predicted_everywhere_and_its_scores_are_positive_for_a_stochastic_batch() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 1, 4))
    logits[:, :, 2] += 1e4
    scores = strategies.build({"name": "stochastic_power", "over": "eada"}).score(eada_pool(logits), stream(0))
    assert (scores > 0).all()
    assert (scores <= 2).all()
    assert len(np.unique(scores)) == 50
    assert strategies.build({"name": "stochastic_power", "over": "eada"}).needs_logits


def test_eada_does_not_hang_on_the_order_of_the_pool() -> None:
    pool = eada_pool(np.random.default_rng(2).normal(size=(60, 1, 4)).astype(np.float32))
    order = np.random.default_rng(3).permutation(60)
    again = query("eada", reordered(pool, order), 15)
    np.testing.assert_array_equal(pool.ids[order[np.searchsorted(pool.ids, again)]], query("eada", pool, 15))


def test_options_of_eada_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"'eada': share is 0, it must be above 0 and at most 1. 0.5 is"):
        strategies.build({"name": "eada", "share": 0})
    with pytest.raises(ConfigError, match=r"'eada': temperature is 0.0, it must be from 0.01 to 100"):
        strategies.build({"name": "eada", "temperature": 0.0})


def test_free_energy_is_that_of_scipy() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 2, 6)) * 50
    np.testing.assert_allclose(free_energy(logits, 2.5), -2.5 * logsumexp(logits / 2.5, axis=2), rtol=1e-14)


# --- influence selection ---------------------------------------------------------------------------------------------


def linear_pool(weights, features, labeled_features, labels, *, n_draws: int = 1) -> PoolView:
    """Lay out what a linear head without a bias predicts; further draws are the same prediction."""
    log_probs, labeled_log_probs = (
        np.repeat(scipy_log_softmax(np.asarray(points, np.float64) @ weights.T, axis=1)[:, None], n_draws, axis=1)
        for points in (features, labeled_features)
    )
    return PoolView(
        ids=10 + 3 * np.arange(len(features)),
        log_probs=log_probs,
        features=features,
        labeled=LabeledSet(ids=100_000 + np.arange(len(labels)), labels=np.asarray(labels, np.int64)),
        labeled_features=labeled_features,
        labeled_log_probs=labeled_log_probs,
    )


def random_linear_pool(seed: int = 0, dtype=np.float64, scale: float = 1.0, n_classes: int = 3, **options) -> PoolView:
    rng = np.random.default_rng(seed)
    weights, labels = rng.normal(size=(n_classes, 5)) * scale, rng.integers(2, size=14)
    points, labeled = (rng.normal(size=(n, 5)).astype(dtype) for n in (40, 14))
    return linear_pool(weights, points, labeled, labels, **options)


def gradient(log_probs: np.ndarray, label: int, features: np.ndarray) -> np.ndarray:
    error = np.exp(log_probs)
    error[label] -= 1
    return np.outer(error, features).ravel()


def influence_densely(pool: PoolView, damping: float) -> np.ndarray:
    """Build every gradient and the Hessian in full and solve."""
    labeled_features, features = (np.asarray(each, np.float64) for each in (pool.labeled_features, pool.features))
    labeled = list(zip(pool.labeled_log_probs[:, 0], pool.labeled.labels, labeled_features, strict=True))
    size = pool.n_classes * pool.features.shape[1]
    hessian = damping * np.eye(size)
    for log_p, _, h in labeled:
        p = np.exp(log_p)
        hessian += np.kron(np.diag(p) - np.outer(p, p), np.outer(h, h)) / len(labeled)
    s = np.linalg.solve(hessian, sum(gradient(*example) for example in labeled) / len(labeled))
    own = zip(pool.log_probs[:, 0], pool.log_probs[:, 0].argmax(axis=1), features, strict=True)
    return np.array([-gradient(*example) @ s for example in own])


@pytest.mark.parametrize("damping", [1e-3, 0.01, 1.0, 100.0])
@pytest.mark.parametrize(("dtype", "n_draws"), [(np.float64, 1), (np.float64, 3), (np.float32, 1)])
def test_isal_is_minus_the_influence_that_the_whole_hessian_gives(damping, dtype, n_draws, monkeypatch) -> None:
    monkeypatch.setattr("al_ray.core.distances.BLOCK_VALUES", 40)
    pool = random_linear_pool(dtype=dtype, n_draws=n_draws)
    scores = strategies.build({"name": "isal", "damping": damping}).score(pool, stream(0))
    np.testing.assert_allclose(scores, -influence_densely(pool, damping), rtol=1e-6, atol=1e-9)
    assert (scores > 0).any()
    assert (scores < 0).any()


def fitted(features, labels, n_classes: int, damping: float, extra=None, weight: float = 0.0) -> np.ndarray:
    """Minimise the mean cross-entropy plus damping / 2 |W|^2 plus ``weight`` times the loss on one more example."""
    x, y, w = np.asarray(features), np.asarray(labels), np.full(len(labels), 1 / len(labels))
    if extra is not None:
        x, y, w = np.vstack([x, extra[0]]), np.append(y, extra[1]), np.append(w, weight)

    def loss(flat):
        log_probs = scipy_log_softmax(x @ flat.reshape(n_classes, -1).T, axis=1)
        errors = np.exp(log_probs)
        errors[np.arange(len(y)), y] -= 1
        value = -w @ log_probs[np.arange(len(y)), y] + damping / 2 * flat @ flat
        return value, ((errors * w[:, None]).T @ x).ravel() + damping * flat

    start = np.zeros(n_classes * x.shape[1])
    return minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10}).x.reshape(n_classes, -1)


def test_isal_foretells_how_the_loss_on_the_labelled_changes_when_an_example_is_added_and_the_head_refitted() -> None:
    rng = np.random.default_rng(4)
    labeled, points, labels = rng.normal(size=(30, 4)), rng.normal(size=(12, 4)), rng.integers(3, size=30)
    damping, step = 0.05, 1e-4
    pool = linear_pool(fitted(labeled, labels, 3, damping), points, labeled, labels)
    scores = strategies.build({"name": "isal", "damping": damping}).score(pool, stream(0))

    def reference_loss(weights) -> float:
        return -scipy_log_softmax(labeled @ weights.T, axis=1)[np.arange(30), labels].mean()

    for row, predicted in enumerate(pool.log_probs[:, 0].argmax(axis=1)):
        with_less, with_more = (
            reference_loss(fitted(labeled, labels, 3, damping, (points[row], predicted), weight))
            for weight in (-step, step)
        )
        assert scores[row] == pytest.approx(-(with_more - with_less) / (2 * step), rel=1e-3, abs=1e-6)


def test_the_authors_recursion_ends_at_a_damping_of_100() -> None:
    pool = random_linear_pool(seed=1)
    labeled = list(zip(pool.labeled_log_probs[:, 0], pool.labeled.labels, pool.labeled_features, strict=True))
    v = sum(gradient(*example) for example in labeled) / len(labeled)
    hessian = sum(
        np.kron(np.diag(np.exp(p)) - np.outer(np.exp(p), np.exp(p)), np.outer(h, h)) for p, _, h in labeled
    ) / len(labeled)
    s = v
    for _ in range(4000):
        s = v + (1 - 0.01) * s - hessian @ s / 1e4
    probs = np.exp(pool.labeled_log_probs[:, 0])
    ours = newton_direction(pool.labeled_features, probs, pool.labeled.labels, 100.0)
    np.testing.assert_allclose(ours.ravel(), s / 1e4, rtol=1e-8)
    ending = strategies.build({"name": "isal", "damping": 100.0}).score(pool, stream(0))
    nearly_gradient = strategies.build({"name": "isal", "damping": 1e6}).score(pool, stream(0))
    np.testing.assert_array_equal(np.argsort(ending), np.argsort(nearly_gradient))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_isal_of_extreme_logits_of_one_class_and_of_nothing_learnable(dtype) -> None:
    strategy = strategies.build("isal")
    extreme = strategy.score(random_linear_pool(scale=1e4, dtype=dtype), stream(0))
    assert np.isfinite(extreme).all()
    assert np.count_nonzero(np.abs(extreme) < 1e-9) > 30  # certain of nearly all: no gradient
    one_class = linear_pool(np.eye(3, 5) * 1e4, np.eye(1, 5).repeat(6, axis=0), np.eye(1, 5).repeat(4, axis=0), [0] * 4)
    assert strategy.score(one_class, stream(0)).tolist() == [0.0] * 6
    nothing = linear_pool(np.zeros((3, 5)), np.zeros((6, 5), dtype), np.zeros((4, 5), dtype), [0, 1, 0, 1])
    assert strategy.score(nothing, stream(0)).tolist() == [0.0] * 6


def test_isal_without_labelled_examples_and_with_features_of_any_size() -> None:
    pool = random_linear_pool()
    rows = np.empty(0, np.int64)
    none = linear_pool(np.ones((3, 5)), pool.features, pool.labeled_features[rows], rows)
    assert strategies.build("isal").score(none, stream(0)).tolist() == [0.0] * 40
    rng = np.random.default_rng(0)
    sizes = np.array([1e-3, 1.0, 1e3, 1e4, 10.0])
    points, labeled = rng.normal(size=(20, 5)) * sizes, rng.normal(size=(30, 5)) * sizes
    large = linear_pool(rng.normal(size=(3, 5)) / sizes, points, labeled, rng.integers(3, size=30))
    scores = strategies.build("isal").score(large, stream(0))
    np.testing.assert_allclose(scores, -influence_densely(large, 0.01), rtol=1e-5, atol=1e-7)


def test_equal_examples_tie_in_isal_and_the_order_of_the_pool_does_not_matter() -> None:
    pool = random_linear_pool()
    doubled = reordered(pool, np.repeat(np.arange(20), 2))
    scores = strategies.build("isal").score(doubled, stream(0))
    np.testing.assert_array_equal(scores[::2], scores[1::2])
    order = np.random.default_rng(3).permutation(40)
    again = query("isal", reordered(pool, order), 15)
    np.testing.assert_array_equal(pool.ids[order[np.searchsorted(pool.ids, again)]], query("isal", pool, 15))


def test_the_damping_of_isal_is_above_0() -> None:
    with pytest.raises(ConfigError, match=r"'isal': damping is 0.0, it must be above 0 and finite. 100 is what"):
        strategies.build({"name": "isal", "damping": 0.0})


# --- EV-GP -----------------------------------------------------------------------------------------------------------


def unit(points) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def embedded_pool(points, labeled) -> PoolView:
    points, labeled = np.asarray(points), np.asarray(labeled)
    return PoolView(
        ids=10 + 3 * np.arange(len(points)),
        log_probs=np.empty((len(points), 0, 3)),
        embeddings=RowView.of(points),
        labeled=LabeledSet(ids=100_000 + np.arange(len(labeled)), labels=np.arange(len(labeled)) % 3),
        labeled_embeddings=labeled,
    )


def random_points(n: int, seed: int = 0, n_features: int = 6, dtype=np.float64) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, n_features))).astype(dtype)


def kernel_of(one, two) -> np.ndarray:
    """Write the arc-cosine kernels of orders 0 and 1 out, pair by pair."""
    result = np.empty((len(one), len(two)))
    for i, x in enumerate(np.asarray(one, np.float64)):
        for j, y in enumerate(np.asarray(two, np.float64)):
            angle = np.arccos(np.clip(x @ y / np.linalg.norm(x) / np.linalg.norm(y), -1, 1))
            order_0 = 1 - angle / np.pi
            order_1 = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
            result[i, j] = np.cos(angle) * order_0 + order_1
    return result


def mean_variance(points, known, noise: float) -> float:
    """Follow the formula of the paper with a plain inverse."""
    inverse = np.linalg.inv(kernel_of(known, known) + noise * np.eye(len(known)))
    across = kernel_of(points, known)
    return float(np.mean(2.0 - np.einsum("ij,jk,ik->i", across, inverse, across)))


def test_the_tangent_kernel_is_that_of_a_wide_network_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    width, points = 200_000, torch.from_numpy(random_points(4, n_features=3))
    hidden = torch.randn(width, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    output = torch.randn(width, generator=generator, dtype=torch.float64, requires_grad=True)
    gradients = []
    for point in points:
        value = (torch.relu(hidden @ point) * (2 / width) ** 0.5) @ output
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, [hidden, output])]))
    empirical = torch.stack(gradients) @ torch.stack(gradients).T
    kernel = tangent_kernel(points.numpy() @ points.numpy().T)
    np.testing.assert_allclose(kernel, empirical.numpy(), atol=0.02)
    np.testing.assert_allclose(kernel, kernel_of(points.numpy(), points.numpy()), atol=1e-7)
    np.testing.assert_allclose(tangent_kernel(np.array([1.0, 1.0 - 1e-15, 0.0, -1.0])), [2, 2, 1 / np.pi, 0], atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [1e-3, 0.5])
@pytest.mark.parametrize("n_labeled", [0, 1, 5])
def test_ev_gp_leaves_the_least_mean_variance_pick_by_pick(dtype, noise, n_labeled, monkeypatch) -> None:
    monkeypatch.setattr("al_ray.core.distances.BLOCK_VALUES", 100)
    points, labeled = random_points(25, dtype=dtype), random_points(n_labeled, 1, dtype=dtype)
    chosen = (query({"name": "ev_gp", "noise": noise}, embedded_pool(points, labeled), 6) - 10) // 3
    known, left = list(labeled), list(range(25))
    for row in chosen:
        after = {each: mean_variance(points, [*known, points[each]], noise**2) for each in left}
        assert after[row] == pytest.approx(min(after.values()), abs=1e-7)
        known.append(points[row])
        left.remove(row)


def test_the_first_candidates_of_a_posterior_are_chosen_from_and_all_points_count() -> None:
    points, labeled = random_points(40), random_points(3, 1)
    covariance, noise = posterior(points, 8, labeled, 0.01)
    inverse = np.linalg.inv(kernel_of(labeled, labeled) + 0.01 * np.eye(3))
    across = kernel_of(points, labeled)
    expected = (kernel_of(points, points) - across @ inverse @ across.T)[:8]
    np.testing.assert_allclose(covariance, expected, atol=1e-7)
    first = int(least_variance(covariance, noise, 1)[0])
    after = [mean_variance(points, [*labeled, points[row]], 0.01) for row in range(8)]
    assert first == int(np.argmin(after))


@pytest.mark.parametrize("n_labeled", [0, 4])
def test_the_sparse_posterior_is_the_fully_independent_conditional(n_labeled: int) -> None:
    points, labeled, inducing, noise = random_points(20), random_points(n_labeled, 1), random_points(7, 2), 0.01
    through = np.linalg.inv(kernel_of(inducing, inducing) + noise * np.eye(7))
    everything = np.vstack([labeled, points])
    q = kernel_of(everything, inducing) @ through @ kernel_of(inducing, everything)
    own = noise + 2.0 - np.diag(q)

    def covariance_given(rows) -> np.ndarray:
        across = q[n_labeled:, rows]
        return q[n_labeled:, n_labeled:] - across @ np.linalg.inv(q[np.ix_(rows, rows)] + np.diag(own[rows])) @ across.T

    covariance, noises = sparse_posterior(points, 20, labeled, inducing, noise)
    np.testing.assert_allclose(covariance, covariance_given(list(range(n_labeled))), atol=1e-8)
    np.testing.assert_allclose(noises, own[n_labeled:], atol=1e-8)
    known = list(range(n_labeled))
    for row in least_variance(covariance, noises, 5):
        after = [np.trace(covariance_given([*known, n_labeled + each])) for each in range(20)]
        free = [value for each, value in enumerate(after) if n_labeled + each not in known]
        assert after[row] == pytest.approx(min(free), abs=1e-9)
        known.append(n_labeled + int(row))


def test_inducing_points_on_all_points_change_nothing() -> None:
    points, labeled = random_points(30), random_points(30)[:4]
    exact, sparse = posterior(points, 30, labeled, 1e-6)[0], sparse_posterior(points, 30, labeled, points, 1e-6)[0]
    np.testing.assert_allclose(exact, sparse, atol=1e-4)
    query({"name": "ev_gp", "n_inducing": 200}, embedded_pool(points, labeled), 10)


@pytest.mark.parametrize("options", [{}, {"n_inducing": 8}])
def test_ev_gp_finds_the_clusters_without_a_label_first(options) -> None:
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(6), 20)
    points = unit(np.eye(6, 12)[cluster] + rng.normal(size=(120, 12)) * 0.02).astype(np.float32)
    chosen = (query({"name": "ev_gp", **options}, embedded_pool(points, points[:41:20] + np.float32(0)), 3) - 10) // 3
    assert sorted(cluster[chosen].tolist()) == [3, 4, 5]


@pytest.mark.parametrize("options", [{}, {"n_inducing": 5}, {"max_candidates": 4}, {"max_points": 6}])
@pytest.mark.parametrize("kind", ["alike", "zero", "few distinct", "random"])
@pytest.mark.parametrize("n", [1, 7, 30])
def test_ev_gp_chooses_so_many_distinct_examples_whatever_the_pool(options, kind, n) -> None:
    points = random_points(30, dtype=np.float32)
    points = {
        "alike": points[:1].repeat(30, axis=0),
        "zero": points * 0,
        "few distinct": points[np.arange(30) % 3],
    }.get(kind, points)
    pool = embedded_pool(points, points[:2])
    one, two = (query({"name": "ev_gp", **options}, pool, n) for _ in range(2))
    assert one.dtype == np.int64
    assert len(set(one.tolist())) == n
    assert set(one.tolist()) <= set(pool.ids.tolist())
    np.testing.assert_array_equal(one, two)


def test_ev_gp_with_many_labels_that_repeat_is_stable() -> None:
    known = random_points(50, dtype=np.float32)
    labeled = known[np.arange(1500) % 50]
    noisy = (labeled + np.random.default_rng(1).normal(size=labeled.shape) * 1e-8).astype(np.float32)
    points = np.vstack([known, random_points(5, 9, dtype=np.float32)])
    for labels in (labeled, noisy):
        for options in ({"noise": 1e-4}, {}, {"n_inducing": 20}):
            chosen = (query({"name": "ev_gp", **options}, embedded_pool(points, labels), 5) - 10) // 3
            assert len(set(chosen.tolist())) == 5
            if "n_inducing" not in options:
                assert sorted(chosen.tolist()) == [50, 51, 52, 53, 54]  # all others have been labelled


def test_ev_gp_settles_what_is_alike_by_the_stream_and_not_by_rows() -> None:
    pool = embedded_pool(random_points(1).repeat(12, axis=0), random_points(1, 1))
    first = [int(query("ev_gp", pool, 1, seed)[0]) for seed in range(600)]
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 12
    assert stats.chisquare(counts).pvalue > 1e-3


def test_ev_gp_draws_its_points_and_candidates_at_random() -> None:
    pool = embedded_pool(random_points(40), random_points(2, 1))
    picked = [query({"name": "ev_gp", "max_points": 8, "max_candidates": 2}, pool, 2, seed) for seed in range(1000)]
    counts = np.bincount(np.concatenate(picked) // 3 - 3, minlength=40)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_order_of_the_pool_does_not_matter_to_ev_gp() -> None:
    pool, order = embedded_pool(random_points(60), random_points(4, 1)), np.random.default_rng(3).permutation(60)
    again = query("ev_gp", reordered(pool, order), 15)
    np.testing.assert_array_equal(pool.ids[order[np.searchsorted(pool.ids, again)]], query("ev_gp", pool, 15))


def test_options_of_ev_gp_are_checked() -> None:
    for option, message in (({"noise": 0.0}, "noise is 0.0"), ({"n_inducing": 0}, "n_inducing is 0")):
        with pytest.raises(ConfigError, match=f"'ev_gp': {message}, it must be"):
            strategies.build({"name": "ev_gp", **option})


# --- TiDAL -----------------------------------------------------------------------------------------------------------


def tidal_pool(features, log_probs, labeled_features, dynamics) -> PoolView:
    return PoolView(
        ids=10 + 3 * np.arange(len(features)),
        log_probs=log_probs,
        features=np.asarray(features),
        labeled=LabeledSet(ids=100_000 + np.arange(len(dynamics)), labels=np.arange(len(dynamics)) % 2),
        labeled_log_probs=np.asarray(dynamics)[:, -1:],
        labeled_features=np.asarray(labeled_features),
        labeled_dynamics=np.asarray(dynamics),
    )


def random_tidal_pool(seed: int = 0, dtype=np.float64, scale: float = 1.0, n_labeled: int = 12) -> PoolView:
    rng = np.random.default_rng(seed)
    features, labeled = (rng.normal(size=(n, 5)).astype(dtype) * 3 for n in (40, n_labeled))
    dynamics = log_softmax(rng.normal(size=(n_labeled, 6, 3)) * scale)
    return tidal_pool(features, log_softmax(rng.normal(size=(40, 2, 3)) * scale), labeled, dynamics)


def foretold_by_torch(pool: PoolView, l2: float) -> np.ndarray:
    """Train the side head on the summed divergence by torch until nothing moves, and predict the pool."""
    features, labeled = (torch.tensor(np.asarray(f, np.float64)) for f in (pool.features, pool.labeled_features))
    length = labeled.square().sum(dim=1).mean().sqrt()
    targets = torch.tensor(pool.labeled_dynamics).exp().mean(dim=1)
    head = torch.nn.Linear(features.shape[1], targets.shape[1], dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=2000, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        log_probs = torch.log_softmax(head(labeled / length), dim=1)
        value = torch.nn.functional.kl_div(log_probs, targets, reduction="sum")
        value = value + l2 / 2 * sum(part.square().sum() for part in head.parameters())
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return torch.softmax(head(features / length), dim=1).numpy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("l2", [0.01, 0.1, 5.0])
def test_tidal_is_the_entropy_or_the_margin_of_a_side_head_of_torch(dtype, l2, monkeypatch) -> None:
    monkeypatch.setattr("al_ray.core.distances.BLOCK_VALUES", 40)
    pool = random_tidal_pool(dtype=dtype, scale=2.0)
    foretold = foretold_by_torch(pool, l2)
    scores = strategies.build({"name": "tidal", "l2": l2}).score(pool, stream(0))
    np.testing.assert_allclose(scores, entr(foretold).sum(axis=1), atol=1e-4)
    predicted = np.exp(pool.log_probs).mean(axis=1).argmax(axis=1)
    margin = [p[c] - max(np.delete(p, c)) for p, c in zip(foretold, predicted, strict=True)]
    scores = strategies.build({"name": "tidal", "l2": l2, "by": "margin"}).score(pool, stream(0))
    np.testing.assert_allclose(scores, 1 - np.array(margin), atol=1e-4)
    assert (np.array(margin) < 0).any()  # foretold otherwise than predicted: these come first


def test_the_side_head_has_learned_hard_labels_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 4)) + np.eye(3, 4)[labels] * 2
    # Its intercept as a feature, since scikit-learn does not penalise its own.
    reference = LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-10, max_iter=10_000)
    reference.fit(np.column_stack([features, np.ones(60)]), labels)
    for given in (labels, np.eye(3)[labels]):
        weight, bias, *_ = logistic_regression(features, given, 3, l2=0.7)
        np.testing.assert_allclose(np.column_stack([weight, bias]), reference.coef_, atol=1e-3)


def test_tidal_asks_first_where_labelled_neighbours_took_long_to_settle() -> None:
    quick, late = np.array([[0.95, 0.05]] * 6), np.array([[0.4, 0.6]] * 3 + [[0.9, 0.1]] * 3)
    labeled = unit([[1, 0.1], [1, -0.1], [0.1, 1], [-0.1, 1]])
    dynamics = logs(np.stack([quick, quick, late, late]))
    pool = tidal_pool(unit([[1, 0.0], [0.0, 1]]), logs(np.full((2, 1, 2), 0.5)), labeled, dynamics)
    for by in ("entropy", "margin"):
        assert query({"name": "tidal", "by": by, "l2": 0.01}, pool, 2).tolist() == [13, 10]


def logs(probs) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probs, dtype=np.float64))


@pytest.mark.parametrize("by", ["entropy", "margin"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_tidal_of_extreme_logits_of_few_labels_and_of_nothing_to_see(by, scale) -> None:
    strategy = strategies.build({"name": "tidal", "by": by})
    for n_labeled in (1, 2, 50):
        for dtype in (np.float32, np.float64):
            scores = strategy.score(random_tidal_pool(dtype=dtype, scale=scale, n_labeled=n_labeled), stream(0))
            assert np.isfinite(scores).all()
            assert (scores >= 0).all()
            assert (scores <= (np.log(3) + 1e-12 if by == "entropy" else 2)).all()
    pool = random_tidal_pool(scale=scale)
    zero = replace(pool, features=pool.features * 0, labeled_features=pool.labeled_features * 0)
    assert len(set(strategy.score(zero, stream(0)).tolist())) <= (1 if by == "entropy" else 3)
    one_class = tidal_pool(
        pool.features,
        logs(np.tile([1.0, 0, 0], (40, 1, 1))),
        pool.labeled_features,
        logs(np.tile([1.0, 0, 0], (12, 4, 1))),
    )
    scores = strategy.score(one_class, stream(0))
    assert np.isfinite(scores).all()
    assert (scores < 0.6).all()


def test_the_size_of_features_and_the_order_of_the_pool_do_not_matter_to_tidal() -> None:
    pool = random_tidal_pool()
    large = replace(pool, features=pool.features * 1e4, labeled_features=pool.labeled_features * 1e4)
    strategy = strategies.build("tidal")
    np.testing.assert_allclose(strategy.score(large, stream(0)), strategy.score(pool, stream(0)), rtol=1e-9)
    order = np.random.default_rng(3).permutation(40)
    again = query("tidal", reordered(pool, order), 15)
    np.testing.assert_array_equal(pool.ids[order[np.searchsorted(pool.ids, again)]], query("tidal", pool, 15))


def test_options_of_tidal_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"option 'by' of query strategy 'tidal' is 'mean'"):
        strategies.build({"name": "tidal", "by": "mean"})
    with pytest.raises(ConfigError, match=r"'tidal': l2 is 0.0, it must be above 0 and finite. 0.1 is"):
        strategies.build({"name": "tidal", "l2": 0.0})


def test_sparse_ev_gp_is_the_fully_independent_conditional_with_what_is_not_explained_as_noise() -> None:
    rng = np.random.default_rng(8)
    points, labeled, inducing = (double_unit_rows(rng.normal(size=(n, 5))) for n in (9, 4, 3))
    covariance, noise = sparse_posterior(points, 6, labeled, inducing, 0.01)
    every = np.concatenate([points, labeled])
    across = tangent_kernel(inducing @ every.T)
    prior = across.T @ np.linalg.solve(tangent_kernel(inducing @ inducing.T) + 0.01 * np.eye(3), across)
    own = 2.0 - np.diag(prior) + 0.01  # 2 is the kernel of an example with itself
    known = prior[:9, 9:]
    expected = prior[:9, :9] - known @ np.linalg.solve(prior[9:, 9:] + np.diag(own[9:]), known.T)
    np.testing.assert_allclose(covariance, expected[:6], atol=1e-9)
    np.testing.assert_allclose(noise, own[:6], atol=1e-9)
    assert np.ptp(noise) > 0.05
