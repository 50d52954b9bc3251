"""Uncertainty of predictive distributions, against hand-made values and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

from al_ray.core import uncertainty

logit_rows = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 8), st.integers(2, 7)),
    elements=st.floats(-1e4, 1e4, allow_nan=False, allow_infinity=False, width=64),
)
MEASURES = [uncertainty.least_confidence, uncertainty.margin, uncertainty.entropy]


@given(logit_rows)
def test_log_softmax_agrees_with_scipy(logits: np.ndarray) -> None:
    np.testing.assert_allclose(uncertainty.log_softmax(logits), special.log_softmax(logits, axis=1), atol=1e-9)


@given(logit_rows)
def test_entropy_agrees_with_scipy_and_stays_in_its_range(logits: np.ndarray) -> None:
    values = uncertainty.entropy(uncertainty.log_softmax(logits))
    np.testing.assert_allclose(values, stats.entropy(special.softmax(logits, axis=1), axis=1), atol=1e-9)
    assert np.all(values >= -1e-12)
    assert np.all(values <= np.log(logits.shape[1]) + 1e-9)


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_every_measure_is_greatest_at_uniform(n_classes: int) -> None:
    uniform = np.full((1, n_classes), -np.log(n_classes))
    assert uncertainty.entropy(uniform)[0] == pytest.approx(np.log(n_classes))
    assert uncertainty.least_confidence(uniform)[0] == pytest.approx(1 - 1 / n_classes)
    assert uncertainty.margin(uniform)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_certain_class_has_no_uncertainty_even_at_extreme_logits(measure) -> None:
    log_probs = uncertainty.log_softmax(np.array([[1e4, -1e4, 0.0]]))
    assert measure(log_probs)[0] == 0.0


def test_values_by_hand() -> None:
    log_probs = np.log([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]])
    np.testing.assert_allclose(uncertainty.least_confidence(log_probs), [0.5, 0.3])
    np.testing.assert_allclose(uncertainty.margin(log_probs), [0.8, 0.5])
    by_hand = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2))
    assert uncertainty.entropy(log_probs)[0] == pytest.approx(by_hand)


@given(st.lists(st.floats(-12, 12), min_size=2, max_size=30, unique=True))
def test_for_two_classes_all_measures_order_alike(gaps: list[float]) -> None:
    apart = np.unique(np.round(np.abs(gaps), 6))
    log_probs = uncertainty.log_softmax(np.stack([apart, np.zeros_like(apart)], axis=1))
    for measure in MEASURES:
        assert np.all(np.diff(measure(log_probs)) < 0)


def test_draws_are_averaged_as_probabilities() -> None:
    probs = np.array([[[0.9, 0.1], [0.1, 0.9]]])
    np.testing.assert_allclose(uncertainty.mean_log_probs(np.log(probs)), np.log([[0.5, 0.5]]))


def test_almost_certain_examples_are_still_told_apart() -> None:
    logits = np.array([[0.0, -40.0], [0.0, -50.0], [0.0, -60.0]])
    expected = np.exp([-40.0, -50.0, -60.0])
    np.testing.assert_allclose(uncertainty.least_confidence(uncertainty.log_softmax(logits)), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_low_precision_logits_are_computed_in_float64(dtype) -> None:
    assert uncertainty.log_softmax(np.zeros((2, 3), dtype)).dtype == np.float64
