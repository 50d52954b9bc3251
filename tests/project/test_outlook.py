"""Forecasts of learning curves: right on curves that are known, silent where nobody can know."""

import numpy as np
import pytest

from al_ray.core.seeding import stream
from al_ray.project.outlook import FEWEST_POINTS, outlook
from al_ray.project.state import CurvePoint


def curve(n_points: int, *, noise: float = 0.0, seed: int = 0, flat: bool = False) -> tuple[CurvePoint, ...]:
    draws = stream(seed, "curve")
    points = []
    for index in range(n_points):
        n = 20 * (index + 1)
        accuracy = float(np.clip(truth(n, flat) + noise * draws.normal(), 0, 1))
        half = max(1.96 * noise, 0.01)
        points.append(
            CurvePoint(n_labeled=n, accuracy=accuracy, low=accuracy - half, high=accuracy + half, n_evaluated=50)
        )
    return tuple(points)


def truth(n: int, flat: bool = False) -> float:
    return 0.6 if flat else 0.9 - 0.5 * (n / 20) ** -0.6


@pytest.mark.parametrize("n_points", range(FEWEST_POINTS))
def test_a_short_curve_says_nothing(n_points: int) -> None:
    assert outlook(curve(n_points)) is None


def test_a_curve_without_new_labels_says_nothing() -> None:
    point = CurvePoint(n_labeled=20, accuracy=0.5, low=0.4, high=0.6, n_evaluated=40)
    assert outlook((point,) * 6) is None


def test_a_clean_curve_is_continued() -> None:
    found = outlook(curve(10))
    assert found is not None
    gain = truth(300) - truth(200)
    assert found.low <= gain <= found.high
    assert found.gain == pytest.approx(gain, abs=0.015)


def test_a_flat_curve_promises_nothing() -> None:
    found = outlook(curve(12, flat=True))
    assert found is not None
    assert abs(found.gain) < 0.01
    assert found.low < 0 < found.high


def test_the_band_holds_the_truth_of_noisy_curves_about_nine_times_of_ten() -> None:
    held = []
    for seed in range(60):
        for n_points in (5, 10, 16):
            found = outlook(curve(n_points, noise=0.04, seed=seed))
            assert found is not None
            n = 20 * n_points
            held.append(found.low <= truth(n + 100) - truth(n) <= found.high)
    assert 0.85 <= np.mean(held) <= 1


def test_more_labels_bring_more() -> None:
    gains = [outlook(curve(8), n_more=n) for n in (50, 100, 400)]
    assert [found.gain for found in gains if found] == sorted(found.gain for found in gains if found)
