"""The start by texts and guessed classes: its guesses, its shares and its places, against plainer computations."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import zscore

from al_ray.core.apportioning import even_seats
from al_ray.core.clustering import typicality
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, StartPool
from al_ray.initial.dual_diversity import DualDiversity, _scaled, guessed_probs

CLASSES = np.eye(4, 12, dtype=np.float32)


def unit(points) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def texts(n: int = 240, spread: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Draw texts near the names of four classes, of very unequal sizes."""
    draws = np.random.default_rng(3)
    of = draws.choice(4, size=n, p=[0.7, 0.2, 0.06, 0.04])
    return unit(CLASSES[of] + spread * draws.normal(size=(n, 12))), of


def pick(points, n: int, seed: int = 1, classes=CLASSES, **options) -> np.ndarray:
    truth = LabeledSet(ids=7 + 2 * np.arange(len(points)), labels=np.full(len(points), -1))
    pool = StartPool(truth=truth, embeddings=points, class_embeddings=classes)
    return DualDiversity(**options).pick(pool, n, stream(seed, "initial"))


def test_a_guess_is_a_softmax_of_standardised_cosines() -> None:
    points, _ = texts()
    expected = softmax(zscore(points.astype(np.float64) @ CLASSES.T.astype(np.float64), axis=0), axis=1)
    np.testing.assert_allclose(guessed_probs(points, CLASSES), expected, atol=1e-9)


def test_names_that_are_near_to_everything_get_no_more_guesses() -> None:
    points, of = texts()
    pull = np.zeros((4, 12), np.float32)
    pull[2] = 0.8 * points.mean(axis=0)
    probs = guessed_probs(points, unit(CLASSES + pull))
    assert (probs.argmax(axis=1) == of).mean() > 0.7


def test_names_that_are_alike_tell_nothing() -> None:
    points, _ = texts(60)
    probs = guessed_probs(points, np.repeat(CLASSES[:1], 3, axis=0))
    np.testing.assert_allclose(probs, 1 / 3)
    flat = guessed_probs(np.repeat(points[:1], 20, axis=0), CLASSES)
    np.testing.assert_allclose(flat, 1 / 4)


@pytest.mark.parametrize(
    ("counts", "size", "seats"),
    [
        ([70, 25, 5], 6, [2, 2, 2]),
        ([70, 25, 5], 7, [3, 2, 2]),
        ([70, 25, 5], 20, [8, 7, 5]),
        ([3, 0, 9], 2, [1, 0, 1]),
        ([3, 3, 3], 1, [1, 0, 0]),
        ([1, 2, 3], 6, [1, 2, 3]),
        ([5, 5], 0, [0, 0]),
    ],
)
def test_seats_are_even_as_far_as_there_are_examples(counts: list[int], size: int, seats: list[int]) -> None:
    assert even_seats(np.array(counts), size).tolist() == seats


def test_every_guessed_class_has_as_many_texts_however_rare_it_is() -> None:
    points, of = texts()
    guessed = guessed_probs(points, CLASSES).argmax(axis=1)
    for n in (4, 8, 12):
        chosen = (pick(points, n) - 7) // 2
        assert np.bincount(guessed[chosen], minlength=4).tolist() == [n // 4] * 4
    assert set(of[(pick(points, 8) - 7) // 2].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("weight", [0.0, 0.7, 5.0])
def test_one_text_a_class_is_the_most_typical_of_its_class_in_both_spaces(weight: float) -> None:
    points, _ = texts()
    probs = guessed_probs(points, CLASSES)
    places = np.concatenate([_scaled(points), weight * _scaled(np.sqrt(probs))], axis=1)
    expected = []
    for c in range(4):
        rows = np.flatnonzero(probs.argmax(axis=1) == c)
        expected.append(int(rows[typicality(places[rows]).argmax()]))
    assert ((pick(points, 4, prediction_weight=weight) - 7) // 2).tolist() == expected


def test_both_spaces_have_one_scale() -> None:
    points, _ = texts()
    for values in (points, np.sqrt(guessed_probs(points, CLASSES))):
        scaled = _scaled(values)
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-9)
        assert np.square(scaled).sum(axis=1).mean() == pytest.approx(1)
    assert not _scaled(np.ones((5, 3))).any()


def test_float64_picks_as_float32_and_the_same_seed_picks_the_same() -> None:
    points, _ = texts()
    assert pick(points, 12).tolist() == pick(points.astype(np.float64), 12).tolist() == pick(points, 12).tolist()


@pytest.mark.parametrize("n", [1, 3, 40])
def test_so_many_distinct_texts_of_a_pool_as_small_and_of_copies(n: int) -> None:
    points, _ = texts(40)
    for pool in (points, np.repeat(points[:2], 20, axis=0), np.repeat(points[:1], 40, axis=0)):
        assert len(set(pick(pool, n).tolist())) == n


def test_of_a_large_pool_so_many_random_texts_are_looked_at() -> None:
    points, _ = texts()
    seen = {id_ for seed in range(12) for id_ in pick(points, 20, seed, max_candidates=20).tolist()}
    assert len(seen) > 100, "other texts with every seed, of the whole pool"
    assert len(pick(points, 30, max_candidates=20)) == 30, "never fewer than are asked for"
    assert pick(points, 12, max_candidates=240).tolist() == pick(points, 12).tolist()


def test_it_covers_rare_classes_sooner_than_chance() -> None:
    points, of = texts()
    random = [len(set(of[np.random.default_rng(seed).choice(240, 8, replace=False)].tolist())) for seed in range(200)]
    mine = [len(set(of[(pick(points, 8, seed) - 7) // 2].tolist())) for seed in range(10)]
    assert min(mine) == 4
    assert np.mean(random) < 3.2
