"""Metrics against scikit-learn and hand-made values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from al_ray.core import metrics
from al_ray.core.uncertainty import log_softmax


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10_000))
def test_metrics_agree_with_scikit_learn(n_classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(rng.normal(size=(n, n_classes)))
    labels = rng.integers(n_classes, size=n)
    got = metrics.evaluate(log_probs, labels)
    classes = np.arange(n_classes)
    predicted = log_probs.argmax(axis=1)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    expected_f1 = sk.f1_score(labels, predicted, labels=classes, average="macro", zero_division=0)
    assert got["macro_f1"] == pytest.approx(expected_f1)
    assert got["loss"] == pytest.approx(sk.log_loss(labels, np.exp(log_probs), labels=classes))
    one_hot = np.eye(n_classes)[labels]
    assert got["brier"] == pytest.approx(((np.exp(log_probs) - one_hot) ** 2).sum(axis=1).mean())


def test_calibration_error_by_hand() -> None:
    probs = np.array([[0.95, 0.05], [0.92, 0.08], [0.65, 0.35], [0.62, 0.38]])
    labels = np.array([0, 1, 0, 0])
    # bin (0.9, 1.0]: confidence 0.935, accuracy 0.5; bin (0.6, 0.7]: confidence 0.635, accuracy 1.0
    expected = 0.5 * abs(0.5 - 0.935) + 0.5 * abs(1.0 - 0.635)
    assert metrics.expected_calibration_error(np.log(probs), labels) == pytest.approx(expected)


def test_area_under_the_curve_is_the_mean_of_its_points() -> None:
    assert metrics.aulc([0.5, 0.7, 0.9]) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("level", "expected"), [(0.5, 25.0), (0.6, 50.0), (0.65, 62.5), (0.7, 75.0), (0.4, 25.0), (0.71, float("nan"))]
)
def test_labels_to_reach_a_level_are_read_linearly_between_points(level: float, expected: float) -> None:
    got = metrics.labels_to_reach([25, 50, 75], [0.5, 0.6, 0.7], level)
    assert got == pytest.approx(expected, nan_ok=True)
