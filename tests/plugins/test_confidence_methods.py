"""The textbook confidence methods, against hand-made values, scipy, scikit-learn and torch.distributions."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, special, stats
from sklearn.neighbors import NearestNeighbors

from al_ray.confidence import confidences
from al_ray.confidence.adaptive_temperature import inverse_temperature
from al_ray.confidence.evidential import divergence_from_uniform, expected_squared_error
from al_ray.confidence.trust_score import in_dense_places, trust_ratio
from al_ray.core.types import ModelOutputs, Sampling
from al_ray.core.uncertainty import entropy, least_confidence, log_softmax, mean_log_probs
from al_ray.errors import ConfigError
from al_ray.registry import option_of

NAMES = [
    "adaptive_temperature",
    "energy",
    "ensemble",
    "evidential",
    "inhibited_softmax",
    "label_smoothing",
    "mc_dropout",
    "temperature_scaling",
    "trust_score",
]
WITH_LOSS = ["evidential", "inhibited_softmax", "label_smoothing"]
WITH_UNCERTAINTY = ["energy", "evidential", "inhibited_softmax", "trust_score"]

# Other work on the machine must not fail a law, so that there is no deadline.
law = settings(max_examples=50, deadline=None)
logit_values = st.floats(-1e4, 1e4, allow_nan=False, allow_infinity=False, width=32)
logit_draws = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(2, 6)), elements=logit_values
)


def outputs_of(logits, features=None) -> ModelOutputs:
    values = np.asarray(logits, dtype=np.float32)
    return ModelOutputs(
        ids=np.arange(len(values)), logits=values if values.ndim == 3 else values[:, None], features=features
    )


def a_state(name: str, n_classes: int = 3):
    """Return what the method learned on a few labelled examples, some classes without any."""
    rng = np.random.default_rng(2)
    labels = np.arange(12) % max(2, n_classes - 1)
    logits = rng.normal(size=(12, 1, n_classes)) * 4 + np.eye(n_classes)[labels][:, None] * 2
    return confidences.build(name).calibrate(outputs_of(logits, rng.normal(size=(12, 4)).astype(np.float32)), labels)


def features_like(logits: np.ndarray) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(len(logits), 4)).astype(np.float32)


# Laws of every method


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_state", [False, True])
@law
@given(logits=logit_draws)
def test_log_probs_are_normalised_finite_and_keep_the_predicted_class(name, with_state, logits) -> None:
    method = confidences.build(name)
    state = a_state(name, logits.shape[2]) if with_state else None
    outputs = outputs_of(logits, features_like(logits))
    log_probs = method.log_probs(outputs, state)
    assert log_probs.shape == logits.shape
    assert log_probs.dtype == np.float64
    assert np.isfinite(log_probs).all()
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=2), 1.0, rtol=0, atol=1e-9)
    if name == "trust_score" and with_state:
        best = np.repeat(mean_log_probs(log_softmax(logits)).argmax(axis=1)[:, None], logits.shape[1], axis=1)
    else:
        best = logits.argmax(axis=2)
    of_best = np.take_along_axis(log_probs, best[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(of_best, log_probs.max(axis=2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WITH_UNCERTAINTY)
@pytest.mark.parametrize("with_state", [False, True])
@law
@given(logits=logit_draws)
def test_a_measure_of_its_own_is_one_finite_number_an_example(name, with_state, logits) -> None:
    method = confidences.build(name)
    assert method.has_uncertainty
    state = a_state(name, logits.shape[2]) if with_state else None
    values = method.uncertainty(outputs_of(logits, features_like(logits)), state)
    assert values.shape == (len(logits),)
    assert np.isfinite(values).all()


def test_no_other_method_claims_a_measure_of_its_own() -> None:
    assert [name for name in NAMES if confidences.build(name).has_uncertainty] == WITH_UNCERTAINTY


@pytest.mark.parametrize("name", sorted({*NAMES} - {"trust_score"}))
def test_draws_are_read_one_by_one(name: str) -> None:
    method, state = confidences.build(name), a_state(name)
    logits = np.random.default_rng(1).normal(size=(6, 4, 3)).astype(np.float32) * 5
    together = method.log_probs(outputs_of(logits), state)
    for draw in range(4):
        alone = method.log_probs(outputs_of(logits[:, draw]), state)[:, 0]
        np.testing.assert_allclose(together[:, draw], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["energy", "evidential", "inhibited_softmax"])
def test_a_measure_of_its_own_is_the_mean_over_the_draws(name: str) -> None:
    method, state = confidences.build(name), a_state(name)
    logits = np.random.default_rng(1).normal(size=(6, 4, 3)).astype(np.float32) * 5
    alone = [method.uncertainty(outputs_of(logits[:, draw]), state) for draw in range(4)]
    np.testing.assert_allclose(method.uncertainty(outputs_of(logits), state), np.mean(alone, axis=0), rtol=1e-12)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"evidential", "inhibited_softmax", "adaptive_temperature"}))
def test_without_a_state_it_is_the_plain_softmax(name: str) -> None:
    logits = np.random.default_rng(1).normal(size=(6, 1, 3)).astype(np.float32) * 5
    log_probs = confidences.build(name).log_probs(outputs_of(logits, features_like(logits)))
    np.testing.assert_allclose(log_probs, special.log_softmax(logits.astype(np.float64), axis=2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WITH_LOSS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_and_its_gradient_are_finite_at_extreme_logits(name: str, dtype: torch.dtype) -> None:
    loss = confidences.build(name).new_loss()
    rows = [[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [0.0, 0.0, 0.0], [-1e4, 1e4, 1e4]]
    for epoch in (0, 5, 100):
        for target in range(3):
            logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
            losses = loss(logits, torch.full((5,), target), epoch)
            assert losses.shape == (5,)
            assert losses.dtype == dtype
            losses.sum().backward()
            assert torch.isfinite(losses).all()
            assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", sorted({*NAMES} - {*WITH_LOSS}))
def test_the_others_train_with_cross_entropy(name: str) -> None:
    assert confidences.build(name).new_loss() is None


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_better_answer_has_a_lower_loss(name: str) -> None:
    loss = confidences.build(name).new_loss()
    values = [loss(torch.tensor([[z, 0.0, 0.0]]), torch.tensor([0]), 3).item() for z in (-2.0, 0.5, 2.0)]
    assert all(two < one + 1e-12 for one, two in pairwise(values))
    assert values[2] < values[0]


@pytest.mark.parametrize("name", NAMES)
def test_logits_rounded_to_bf16_are_read_in_double_precision(name: str) -> None:
    method, state = confidences.build(name), a_state(name)
    exact = np.random.default_rng(4).normal(size=(50, 1, 3)).astype(np.float32) * 5
    rounded = torch.from_numpy(exact).bfloat16().float().numpy()
    features = features_like(exact)
    one, two = (method.log_probs(outputs_of(z, features), state) for z in (exact, rounded))
    np.testing.assert_allclose(np.exp(two).sum(axis=2), 1.0, rtol=0, atol=1e-12)
    same = exact[:, 0].argmax(axis=1) == rounded[:, 0].argmax(axis=1)
    assert same.mean() > 0.9
    # bf16 keeps 8 bits: a logit of 16 moves by at most 2^-5, and a log-probability by about twice that, times beta.
    assert np.abs(one - two)[same].max() < 0.35


@pytest.mark.parametrize("name", NAMES)
def test_it_is_summed_up_in_one_sentence_and_cites_its_paper(name: str) -> None:
    cls = confidences.get(name)
    assert "arXiv" in cls.source
    assert cls.source.rsplit(" ", 1)[1] in " ".join(cls.__doc__.split())
    assert cls.__doc__.splitlines()[0].endswith(".")


# What each asks of the model


@pytest.mark.parametrize(
    ("option", "sampling", "is_consistent"),
    [
        ("label_smoothing", Sampling(), False),
        ("temperature_scaling", Sampling(), False),
        ("mc_dropout", Sampling(n_passes=10, dropout="network"), False),
        (
            {"name": "mc_dropout", "n_passes": 20, "where": "head", "rate": 0.3},
            Sampling(n_passes=20, dropout="head", rate=0.3),
            True,
        ),
        ("ensemble", Sampling(n_members=5), True),
        ({"name": "ensemble", "n_members": 3}, Sampling(n_members=3), True),
        ("adaptive_temperature", Sampling(), False),
        ({"name": "adaptive_temperature", "where": "attention"}, Sampling(adaptive_attention=True), False),
        ({"name": "adaptive_temperature", "where": "both"}, Sampling(adaptive_attention=True), False),
    ],
)
def test_it_declares_how_the_model_has_to_predict(option, sampling, is_consistent) -> None:
    method = confidences.build(option)
    assert method.sampling == sampling
    assert method.n_draws == sampling.n_members * sampling.n_passes
    assert method.has_consistent_draws == is_consistent
    assert confidences.build(option_of(method)) == method


def test_only_some_need_labelled_examples_features_or_folds() -> None:
    methods = {name: confidences.build(name) for name in NAMES}
    labelled = [name for name, method in methods.items() if method.needs_labeled]
    assert labelled == ["energy", "trust_score"]
    assert [name for name, method in methods.items() if method.needs_features] == ["trust_score"]
    assert {name: method.n_folds for name, method in methods.items() if method.n_folds} == {"temperature_scaling": 3}
    assert confidences.build({"name": "temperature_scaling", "n_folds": 5}).n_folds == 5
    assert not any(method.needs_first_features for method in methods.values())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"name": "label_smoothing", "alpha": 1.0}, r"alpha is 1.0, it must be at least 0 and below 1. 0.2 spreads"),
        ({"name": "label_smoothing", "alpha": -0.1}, r"alpha is -0.1, it must be at least 0 and below 1"),
        (
            {"name": "temperature_scaling", "n_folds": 1},
            r"n_folds is 1, it must be at least 2: .* the others\. 3 costs",
        ),
        ({"name": "mc_dropout", "n_passes": 1}, r"n_passes is 1, it must be at least 2. 10 is usual"),
        ({"name": "mc_dropout", "rate": 1.0}, r"rate is 1.0, it must be above 0 and below 1. 0.1 drops 10 %"),
        ({"name": "mc_dropout", "rate": 0.0}, r"rate is 0.0, it must be above 0 and below 1"),
        ({"name": "mc_dropout", "where": "logits"}, r"option 'where' .* is 'logits': .*takes 'network' or 'head'"),
        ({"name": "mc_dropout", "n_draws": 5}, r"unknown option of confidence 'mc_dropout': 'n_draws'"),
        ({"name": "ensemble", "n_members": 1}, r"n_members is 1, it must be at least 2. 5 is usual; 1 is 'softmax'"),
        ({"name": "inhibited_softmax", "inhibition": 0.0}, r"inhibition is 0.0, it must be above 0 and finite"),
        ({"name": "inhibited_softmax", "inhibition": math.inf}, r"inhibition is inf, it must be above 0 and finite"),
        ({"name": "inhibited_softmax", "evidence_penalty": -1.0}, r"evidence_penalty is -1.0, it must be at least 0"),
        ({"name": "evidential", "annealing_epochs": 0}, r"annealing_epochs is 0, it must be at least 1. 10 is usual"),
        ({"name": "trust_score", "n_neighbors": 0}, r"n_neighbors is 0, it must be at least 1. 10 is usual"),
        (
            {"name": "trust_score", "alpha": 1.0},
            r"alpha is 1.0, it must be at least 0 and below 1. 0.1 leaves out 10 %",
        ),
        ({"name": "trust_score", "alpha": math.nan}, r"alpha is nan, it must be at least 0 and below 1"),
        ({"name": "adaptive_temperature", "where": "heads"}, r"takes 'logits' or 'attention' or 'both'"),
        ({"name": "energy", "temperature": 0.0}, r"temperature is 0.0, it must be from 0.01 to 100. 1.0 is usual"),
    ],
)
def test_a_bad_option_is_refused_with_what_would_be_right(option, message) -> None:
    with pytest.raises(ConfigError, match=message):
        confidences.build(option)


# Label smoothing


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.2, 0.9])
def test_smoothed_cross_entropy_is_the_one_against_smoothed_targets(alpha: float) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(30, 4)) * 3, rng.integers(4, size=30)
    smoothed = np.full((30, 4), alpha / 4)
    smoothed[np.arange(30), targets] += 1 - alpha
    by_hand = -(smoothed * special.log_softmax(logits, axis=1)).sum(axis=1)
    loss = confidences.build({"name": "label_smoothing", "alpha": alpha}).new_loss()
    np.testing.assert_allclose(loss(torch.tensor(logits), torch.tensor(targets), 0).numpy(), by_hand, rtol=1e-12)


def test_smoothing_stops_paying_for_certainty() -> None:
    loss = confidences.build("label_smoothing").new_loss()
    best = optimize.minimize_scalar(lambda z: loss(torch.tensor([[z, 0.0]]).double(), torch.tensor([0]), 0).item())
    # The best probability is the target: 1 - 0.2 + 0.2 / 2 = 0.9.
    assert special.expit(best.x) == pytest.approx(0.9, abs=1e-6)


# Temperature scaling


def answers_at(temperature: float, n: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels from softmax(z / temperature)."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(n, 1, n_classes)) * 3).astype(np.float32)
    probs = special.softmax(logits[:, 0].astype(np.float64) / temperature, axis=1)
    return logits, (probs.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=n_classes - 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_true_temperature_is_found_again(temperature: float, n_classes: int) -> None:
    logits, labels = answers_at(temperature, 40_000, n_classes)
    found = confidences.build("temperature_scaling").calibrate(outputs_of(logits), labels)["temperature"]
    assert found == pytest.approx(temperature, rel=0.04)


@pytest.mark.parametrize("seed", range(5))
def test_the_fitted_temperature_has_the_greatest_likelihood(seed: int) -> None:
    logits, labels = answers_at(1.7, 150, 4, seed)
    found = confidences.build("temperature_scaling").calibrate(outputs_of(logits), labels)["temperature"]

    def loss(log_temperature: float) -> float:
        z = logits[:, 0].astype(np.float64) / math.exp(log_temperature)
        return -float(special.log_softmax(z, axis=1)[np.arange(150), labels].sum())

    best = optimize.minimize_scalar(
        loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-9}
    )
    assert found == pytest.approx(math.exp(best.x), rel=1e-5)
    assert loss(math.log(found)) <= best.fun + 1e-9


def test_every_draw_is_an_observation_of_the_temperature() -> None:
    logits, labels = answers_at(1.7, 150, 4)
    method = confidences.build("temperature_scaling")
    both = np.concatenate([logits, -logits], axis=1)
    apart = np.concatenate([logits, -logits], axis=0)
    one = method.calibrate(outputs_of(both), labels)["temperature"]
    assert one == pytest.approx(method.calibrate(outputs_of(apart), np.tile(labels, 2))["temperature"], rel=1e-6)


def test_the_temperature_stays_in_its_bounds_and_is_1_where_it_makes_no_difference() -> None:
    method = confidences.build("temperature_scaling")
    right, wrong = np.eye(3) * 4, np.eye(3)[[1, 2, 0]] * 4
    labels = np.arange(3)
    assert method.calibrate(outputs_of(right), labels) == {"temperature": 0.05}
    assert method.calibrate(outputs_of(wrong), labels) == {"temperature": 20.0}
    assert method.calibrate(outputs_of(np.zeros((3, 3))), labels) == {"temperature": 1.0}
    assert method.calibrate(outputs_of(right * 2500), labels) == {"temperature": 0.05}
    assert method.calibrate(outputs_of(wrong * 2500), labels) == {"temperature": 20.0}
    assert method.calibrate(outputs_of(np.empty((0, 3))), labels[:0]) == {"temperature": 1.0}


def test_the_logits_are_divided_by_the_temperature() -> None:
    log_probs = confidences.build("temperature_scaling").log_probs(outputs_of([[4.0, 0.0]]), {"temperature": 2.0})
    np.testing.assert_allclose(np.exp(log_probs[0, 0]), [special.expit(2.0), special.expit(-2.0)], rtol=1e-12)


@law
@given(logits=logit_draws, temperature=st.floats(0.05, 20))
def test_a_temperature_keeps_every_argmax(logits, temperature: float) -> None:
    log_probs = confidences.build("temperature_scaling").log_probs(outputs_of(logits), {"temperature": temperature})
    of_best = np.take_along_axis(log_probs, logits.argmax(axis=2)[..., None], axis=2)[..., 0]
    np.testing.assert_array_equal(of_best, log_probs.max(axis=2))


# Inhibited softmax


def test_the_inhibited_softmax_by_hand() -> None:
    method = confidences.build("inhibited_softmax")
    logits = np.log([[2.0, 0.5, 1.0]])
    # Sum of exponentials 3.5 and the constant 1.5: a share of 0.3, a tenth for each class.
    np.testing.assert_allclose(np.exp(method.log_probs(outputs_of(logits))[0, 0]), [0.5, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(method.uncertainty(outputs_of(logits)), [0.3], rtol=1e-6)


def test_the_inhibited_loss_by_hand() -> None:
    loss = confidences.build({"name": "inhibited_softmax", "evidence_penalty": 0.1}).new_loss()
    logits, targets = torch.log(torch.tensor([[2.0, 0.5, 1.0]] * 3, dtype=torch.float64)), torch.arange(3)
    by_hand = -np.log([0.4, 0.1, 0.2]) + 0.1 * np.log(2.0)
    np.testing.assert_allclose(loss(logits, targets, 0).numpy(), by_hand, rtol=1e-12)


@law
@given(logits=logit_draws, inhibition=st.floats(1e-3, 1e3))
def test_the_inhibited_softmax_agrees_with_scipy(logits, inhibition: float) -> None:
    method = confidences.build({"name": "inhibited_softmax", "inhibition": inhibition})
    rival = np.full((*logits.shape[:2], 1), math.log(inhibition))
    padded = special.softmax(np.concatenate([logits.astype(np.float64), rival], axis=2), axis=2)
    expected = padded[..., :-1] + padded[..., -1:] / logits.shape[2]
    np.testing.assert_allclose(np.exp(method.log_probs(outputs_of(logits))), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(method.uncertainty(outputs_of(logits)), padded[..., -1].mean(axis=1), atol=1e-10)


def test_less_evidence_for_all_classes_is_more_uncertain() -> None:
    method = confidences.build("inhibited_softmax")
    levels = outputs_of(np.array([[5.0, 4.0], [1.0, 0.0], [-5.0, -6.0]]))
    assert np.all(np.diff(method.uncertainty(levels)) > 0)
    assert np.all(np.diff(least_confidence(method.log_probs(levels)[:, 0])) > 0)
    assert np.ptp(least_confidence(log_softmax(levels.logits[:, 0]))) < 1e-12


# Evidential


def test_the_dirichlet_mean_and_the_vacuity_by_hand() -> None:
    method = confidences.build("evidential")
    outputs = outputs_of([[4.0, -3.0, 1.0], [-1.0, -2.0, -3.0]])
    np.testing.assert_allclose(np.exp(method.log_probs(outputs)[:, 0]), [[5 / 8, 1 / 8, 2 / 8], [1 / 3] * 3])
    np.testing.assert_allclose(method.uncertainty(outputs), [3 / 8, 1.0])


def test_vacuity_tells_ignorance_from_ambiguity() -> None:
    method = confidences.build("evidential")
    outputs = outputs_of([[0.0, 0.0], [50.0, 50.0]])
    np.testing.assert_allclose(entropy(method.log_probs(outputs)[:, 0]), math.log(2))
    np.testing.assert_allclose(method.uncertainty(outputs), [1.0, 2 / 102])


def test_the_divergence_from_the_uniform_dirichlet_agrees_with_torch() -> None:
    alpha = torch.tensor(np.random.default_rng(0).gamma(2.0, 20.0, size=(50, 4)) + 1.0)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Dirichlet(alpha), torch.distributions.Dirichlet(torch.ones(50, 4).double())
    )
    np.testing.assert_allclose(divergence_from_uniform(alpha).numpy(), expected.numpy(), rtol=1e-9)
    assert divergence_from_uniform(torch.ones(1, 4).double()).item() == pytest.approx(0.0, abs=1e-14)


def test_the_expected_squared_error_agrees_with_draws_from_the_dirichlet() -> None:
    alpha, answer = np.array([3.0, 1.5, 1.0]), np.array([0.0, 1.0, 0.0])
    draws = stats.dirichlet(alpha).rvs(200_000, random_state=np.random.default_rng(0))
    expected = ((answer - draws) ** 2).sum(axis=1).mean()
    found = expected_squared_error(torch.tensor(alpha)[None], torch.tensor(answer)[None]).item()
    assert found == pytest.approx(expected, rel=0.005)


def test_the_expected_squared_error_is_bias_squared_plus_scipys_variance() -> None:
    alpha = np.random.default_rng(1).gamma(1.0, 5.0, size=(20, 3)) + 1
    answer = np.eye(3)[np.arange(20) % 3]
    expected = [
        ((y - stats.dirichlet(a).mean()) ** 2 + stats.dirichlet(a).var()).sum()
        for a, y in zip(alpha, answer, strict=True)
    ]
    found = expected_squared_error(torch.tensor(alpha), torch.tensor(answer)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_penalty_rises_to_its_full_weight_and_spares_evidence_for_the_answer() -> None:
    loss = confidences.build("evidential").new_loss()
    logits, targets = torch.tensor([[4.0, -1.0, 2.0]]), torch.tensor([0])
    at = {epoch: loss(logits, targets, epoch).item() for epoch in (0, 5, 10, 11, 1000)}
    misleading = torch.distributions.Dirichlet(torch.tensor([1.0, 1.0, 3.0]))
    full = torch.distributions.kl_divergence(misleading, torch.distributions.Dirichlet(torch.ones(3))).item()
    # alpha = (5, 1, 3), S = 9: bias (4^2 + 1 + 3^2) / 81, variance (5 * 4 + 1 * 8 + 3 * 6) / (81 * 10).
    assert at[0] == pytest.approx(26 / 81 + 46 / 810, rel=1e-6)
    assert at[5] - at[0] == pytest.approx(full / 2, rel=1e-5)
    assert at[10] - at[0] == pytest.approx(full, rel=1e-5)
    assert at[10] == at[11] == at[1000]
    right = torch.tensor([[40.0, -1.0, -2.0]])
    assert loss(right, targets, 0).item() == loss(right, targets, 10).item()


def test_annealing_takes_as_many_epochs_as_asked_for() -> None:
    loss = confidences.build({"name": "evidential", "annealing_epochs": 2}).new_loss()
    values = [loss(torch.tensor([[0.0, 3.0]]), torch.tensor([0]), epoch).item() for epoch in range(4)]
    assert values[1] - values[0] == pytest.approx(values[2] - values[1], rel=1e-5)
    assert values[2] == values[3]


# Adaptive temperature


@pytest.mark.parametrize(
    ("value", "factor", "error"),
    [(math.log(4), 1.75, 0.01), (math.log(6), 2.02, 0.01), (4.41, 2.42, 0.01), (0.3, 1, 0), (0.7, 1, 0), (6.5, 1, 0)],
)
def test_the_inverse_temperature_at_known_entropies(value: float, factor: float, error: float) -> None:
    assert inverse_temperature(np.array([value]))[0] == pytest.approx(factor, abs=error)


def test_the_inverse_temperature_leaves_1_only_between_two_entropies() -> None:
    polynomial = np.poly1d([-0.037, 0.481, -2.3, 4.917, -1.791])
    crossings = sorted(root.real for root in (polynomial - 1).roots if abs(root.imag) < 1e-9)
    assert [round(root, 3) for root in crossings if 0 < root < 7] == [0.849, 5.945]
    assert inverse_temperature(np.array([0.848, 5.946])).tolist() == [1.0, 1.0]
    assert np.all(inverse_temperature(np.array([0.851, 5.94])) > 1)


@law
@given(logits=hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(1), st.just(2)), elements=logit_values))
def test_adaptive_temperature_changes_no_binary_classifier(logits) -> None:
    outputs = outputs_of(logits)
    plain = confidences.build("softmax").log_probs(outputs)
    np.testing.assert_array_equal(confidences.build("adaptive_temperature").log_probs(outputs), plain)


@law
@given(logits=logit_draws)
def test_adaptive_temperature_never_flattens(logits) -> None:
    sharp = confidences.build("adaptive_temperature").log_probs(outputs_of(logits))
    assert np.all(entropy(sharp) <= entropy(log_softmax(logits)) + 1e-9)


def test_adaptive_temperature_by_hand() -> None:
    logits = np.array([[1.0, 0.0, 0.0, 0.0]])
    h = stats.entropy(special.softmax(logits[0]))
    beta = -0.037 * h**4 + 0.481 * h**3 - 2.3 * h**2 + 4.917 * h - 1.791
    found = confidences.build("adaptive_temperature").log_probs(outputs_of(logits))[0, 0]
    np.testing.assert_allclose(found, special.log_softmax(beta * logits[0]), rtol=1e-12)
    both = confidences.build({"name": "adaptive_temperature", "where": "both"}).log_probs(outputs_of(logits))[0, 0]
    np.testing.assert_array_equal(both, found)
    attention = confidences.build({"name": "adaptive_temperature", "where": "attention"})
    np.testing.assert_allclose(
        attention.log_probs(outputs_of(logits))[0, 0], special.log_softmax(logits[0]), rtol=1e-12
    )


# Energy


def test_the_free_energy_by_hand() -> None:
    outputs = outputs_of([[math.log(3.0), 0.0], [10.0, -10.0]])
    np.testing.assert_allclose(confidences.build("energy").uncertainty(outputs), [-math.log(4.0), -10.0], rtol=1e-6)
    warm = confidences.build({"name": "energy", "temperature": 2.0}).uncertainty(outputs)
    np.testing.assert_allclose(warm, -2 * special.logsumexp(outputs.logits[:, 0] / 2, axis=1), rtol=1e-6)


@law
@given(logits=logit_draws, reference=st.floats(-50, 50), temperature=st.sampled_from([0.5, 1.0, 3.0]))
def test_faded_probabilities_are_an_inhibited_softmax_with_a_measured_constant(logits, reference, temperature) -> None:
    method = confidences.build({"name": "energy", "temperature": temperature})
    found = np.exp(method.log_probs(outputs_of(logits), {"reference_energy": reference}))
    inhibition = math.exp(-reference / temperature)
    rival = np.full((*logits.shape[:2], 1), math.log(inhibition))
    padded = special.softmax(np.concatenate([logits.astype(np.float64) / temperature, rival], axis=2), axis=2)
    np.testing.assert_allclose(found, padded[..., :-1] + padded[..., -1:] / logits.shape[2], rtol=0, atol=1e-10)
    if temperature == 1.0:
        inhibited = confidences.build({"name": "inhibited_softmax", "inhibition": inhibition})
        np.testing.assert_allclose(found, np.exp(inhibited.log_probs(outputs_of(logits))), rtol=0, atol=1e-10)


def test_an_example_as_familiar_as_the_labelled_ones_is_half_believed() -> None:
    method = confidences.build("energy")
    labelled = outputs_of([[2.0, 0.0], [0.0, 4.0]])
    state = method.calibrate(labelled, np.array([0, 1]))
    expected = -(special.logsumexp([2.0, 0.0]) + special.logsumexp([0.0, 4.0])) / 2
    assert state == {"reference_energy": pytest.approx(expected)}
    shift = -expected - special.logsumexp([1.0, 0.0])
    found = np.exp(method.log_probs(outputs_of([[1.0 + shift, shift]]), state)[0, 0])
    np.testing.assert_allclose(found, 0.5 * special.softmax([1.0, 0.0]) + 0.25, rtol=1e-6)


# Trust score


def brute_ratio(features, predicted, labeled, labels) -> np.ndarray:
    """Return the trust ratio by scikit-learn's exact search, a class at a time."""
    distances = np.full((len(features), 1 + max(predicted.max(), labels.max())), np.inf)
    for label in np.unique(labels):
        nearest = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(labeled[labels == label])
        distances[:, label] = nearest.kneighbors(features)[0][:, 0]
    rows = np.arange(len(features))
    own = distances[rows, predicted].copy()
    distances[rows, predicted] = np.inf
    return distances.min(axis=1) / (own + 1e-12)


def test_the_trust_ratio_agrees_with_scikit_learn_over_several_blocks() -> None:
    rng = np.random.default_rng(0)
    features, labeled = rng.normal(size=(9000, 6)) + 40, rng.normal(size=(80, 6)) + 40
    predicted, labels = rng.integers(4, size=9000), rng.integers(4, size=80)
    found = trust_ratio(features, predicted, labeled, labels)
    np.testing.assert_allclose(found, brute_ratio(features, predicted, labeled, labels), rtol=1e-9)


def test_a_copy_of_a_labelled_example_is_exactly_at_distance_0() -> None:
    rng = np.random.default_rng(0)
    labeled = (rng.normal(size=(60, 768)) + 100).astype(np.float32)
    labels = np.arange(60) % 3
    assert np.all(trust_ratio(labeled, labels, labeled, labels) == 1e12)
    assert np.all(trust_ratio(labeled, (labels + 1) % 3, labeled, labels) == 1e-12)


def test_a_class_without_labelled_examples_is_infinitely_far() -> None:
    labeled, points = np.array([[0.0], [3.0]]), np.array([[1.0], [1.0], [1.0]])
    ratios = trust_ratio(points, np.array([0, 1, 2]), labeled, np.array([0, 1]))
    np.testing.assert_allclose(ratios, [2.0, 0.5, 1e-12])
    alone = trust_ratio(points, np.array([0, 1, 2]), labeled, np.array([0, 0]))
    np.testing.assert_allclose(alone, [1e12, 1e-12, 1e-12])
    nobody = trust_ratio(points, np.array([0, 1, 2]), np.empty((0, 1)), np.empty(0, np.int64))
    np.testing.assert_allclose(nobody, [1e-12, 1e-12, 1e-12])


def test_an_example_with_two_different_answers_is_not_trusted() -> None:
    labeled = np.zeros((2, 3))
    assert trust_ratio(np.zeros((1, 3)), np.array([0]), labeled, np.array([0, 1])).tolist() == [1e-12]


@pytest.mark.parametrize(("n", "alpha"), [(40, 0.1), (25, 0.2), (12, 0.0), (7, 0.1), (30, 0.5)])
def test_the_thinnest_places_are_left_out_by_the_paper_s_definition(n: int, alpha: float) -> None:
    features = np.random.default_rng(n).standard_t(2, size=(n, 3)) + 20
    k = min(10, n)
    radii = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(features).kneighbors(features)[0][:, -1]
    # The least radius that at most a share alpha of the examples exceeds.
    limit = min(radius for radius in radii if (radii > radius).sum() <= alpha * n)
    kept = in_dense_places(features, 10, alpha)
    np.testing.assert_array_equal(kept, radii <= limit)
    assert kept.sum() == n - math.floor(alpha * n)


def test_an_outlier_is_left_out_and_equals_stay_together() -> None:
    line = np.append(np.linspace(0, 1, 19), 50.0)[:, None]
    assert np.flatnonzero(~in_dense_places(line, 3, 0.05)).tolist() == [19]
    assert in_dense_places(np.full((20, 4), 0.3), 10, 0.5).all()
    assert in_dense_places(np.array([[7.0]]), 10, 0.5).all()


def test_calibration_filters_each_class_on_its_own() -> None:
    features = np.concatenate([np.linspace(0, 1, 20), [90.0], np.linspace(100, 109, 9), [0.5]]).astype(np.float32)[
        :, None
    ]
    labels = np.repeat([0, 2], [21, 10])
    method = confidences.build({"name": "trust_score", "n_neighbors": 3})
    state = method.calibrate(outputs_of(np.zeros((31, 3)), features), labels)
    assert np.bincount(state["labels"]).tolist() == [19, 0, 9]
    assert 90.0 not in state["features"]
    assert 0.5 not in state["features"][state["labels"] == 2]


def test_the_mapped_ratio_by_hand() -> None:
    method = confidences.build("trust_score")
    state = {"features": np.array([[0.0], [4.0]]), "labels": np.array([0, 1])}
    outputs = outputs_of(
        [[9.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]], np.array([[1.0], [1.0], [1.0]], np.float32)
    )
    # Ratios 3, 1/3 and none: 1/3 + 2/3 * 3/4, 1/3 + 2/3 * 1/4 and 1/3 for the predicted class.
    expected = [[5 / 6, 1 / 12, 1 / 12], [1 / 4, 1 / 2, 1 / 4], [1 / 3, 1 / 3, 1 / 3]]
    log_probs = method.log_probs(outputs, state)
    np.testing.assert_allclose(np.exp(log_probs[:, 0]), expected, rtol=1e-11)
    assert log_probs[:, 0].argmax(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(method.uncertainty(outputs, state), [-np.log(3), np.log(3), 12 * np.log(10)], rtol=1e-9)


def test_trust_orders_examples_alike_by_probability_and_by_its_own_measure() -> None:
    rng = np.random.default_rng(5)
    features, labels = rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 4
    method = confidences.build("trust_score")
    state = method.calibrate(outputs_of(np.zeros((40, 4)), features), labels)
    pool = outputs_of(
        rng.normal(size=(300, 4)), np.concatenate([features, rng.normal(size=(260, 3))]).astype(np.float32)
    )
    own, read = method.uncertainty(pool, state), least_confidence(method.log_probs(pool, state)[:, 0])
    assert np.all(np.diff(read[np.argsort(own, kind="stable")]) >= 0)


def test_the_predicted_class_is_that_of_the_mean_over_the_draws() -> None:
    logits = np.log([[[0.55, 0.45], [0.55, 0.45], [0.05, 0.95]]])
    state = {"features": np.array([[0.0], [3.0]]), "labels": np.array([0, 1])}
    log_probs = confidences.build("trust_score").log_probs(outputs_of(logits, np.ones((1, 1), np.float32)), state)
    # Predicted class 1 at distance 2, class 0 at distance 1: ratio 1/2, 1/2 + 1/2 * 1/3 in every draw.
    np.testing.assert_allclose(np.exp(log_probs[0]), [[1 / 3, 2 / 3]] * 3, rtol=1e-11)


def test_trust_without_a_state_is_the_softmax_s_own_doubt() -> None:
    outputs = outputs_of(np.log([[0.7, 0.2, 0.1]]))
    np.testing.assert_allclose(confidences.build("trust_score").uncertainty(outputs), [0.3], rtol=1e-6)
