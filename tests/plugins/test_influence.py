"""EADA, influence selection, EV-GP and TiDAL, against slower and plainer computations."""

import numpy as np
import pytest
from scipy.special import logsumexp

from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, PoolView
from al_ray.core.uncertainty import free_energy, log_softmax
from al_ray.errors import ConfigError
from al_ray.strategy import strategies

LABELED = LabeledSet(ids=np.arange(90_000, 90_012), labels=np.arange(12) % 3)


def query(option, pool: PoolView, n: int, seed: int = 0) -> np.ndarray:
    strategy = strategies.build(option)
    ranking = rank(pool.ids, strategy.score(pool, stream(seed, "score")), seed)
    return strategy.pick(pool, ranking, n, stream(seed, "pick"))


def relabelled(pool: PoolView, order: np.ndarray, **rows: np.ndarray) -> PoolView:
    """Return the pool with the same examples under the same ids, whatever their rows were computed beside."""
    return PoolView(ids=pool.ids, labeled=pool.labeled, **{key: value[order] for key, value in rows.items()})


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
    assert pool.logits is not None
    order = np.random.default_rng(3).permutation(60)
    moved = relabelled(pool, order, log_probs=pool.log_probs, logits=pool.logits)
    again = query("eada", moved, 15)
    np.testing.assert_array_equal(pool.ids[order[np.searchsorted(pool.ids, again)]], query("eada", pool, 15))


def test_options_of_eada_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"'eada': share is 0, it must be above 0 and at most 1. 0.5 is"):
        strategies.build({"name": "eada", "share": 0})
    with pytest.raises(ConfigError, match=r"'eada': temperature is 0.0, it must be from 0.01 to 100"):
        strategies.build({"name": "eada", "temperature": 0.0})


def test_free_energy_is_that_of_scipy() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 2, 6)) * 50
    np.testing.assert_allclose(free_energy(logits, 2.5), -2.5 * logsumexp(logits / 2.5, axis=2), rtol=1e-14)
