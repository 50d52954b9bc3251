"""Evaluations: what every one of them promises, and that the estimates are what their papers say."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.core.intervals import wilson
from al_ray.core.seeding import stream
from al_ray.core.types import Draws
from al_ray.evaluation import Evaluation, evaluations
from al_ray.evaluation.active_testing import lure_weights, proposal

NOTHING = Draws(ids=np.empty(0, np.int64), proposals=np.empty(0))
NAMES = evaluations.names()


def pool_of(n: int = 300, seed: int = 0, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, probabilities of three classes, and the losses of a model that is about as sure as it is right."""
    rng = stream(seed, "pool")
    logits = rng.normal(size=(n, 3)) * sharpness
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(3, p=p) for p in probs])
    return np.arange(n) * 7 + 3, probs, (probs.argmax(axis=1) != labels).astype(np.float64)


def draw_all(evaluation: Evaluation, ids: np.ndarray, probs: np.ndarray | None, n: int, seed: int = 1) -> Draws:
    return evaluation.draw(ids, probs, NOTHING, n, stream(seed, "draw"))


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_holds_out_a_part_of_the_pool_and_asks_for_some(name: str) -> None:
    evaluation = evaluations.build(name)
    for n_pool in (0, 1, 2, 7, 100, 10_000):
        assert 0 <= evaluation.n_held_out(n_pool) <= n_pool // 2
    assert evaluation.n_held_out(10_000) > 0
    assert evaluation.n_per_round(1) >= 1
    assert evaluation.n_per_round(40) > evaluation.n_per_round(4)
    assert evaluation.source


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_distinct_new_and_end_with_the_test_pool(name: str) -> None:
    ids, probs, _ = pool_of(30)
    evaluation = evaluations.build({"name": name, "n": 30})
    first = draw_all(evaluation, ids, None, 5)
    more = evaluation.draw(ids, probs, first, 100, stream(2, "draw"))
    together = [*first.ids.tolist(), *more.ids.tolist()]
    assert sorted(together) == ids.tolist()
    assert ((more.proposals > 0) & (more.proposals <= 1)).all()
    assert more.proposals[-1] == pytest.approx(1)
    assert len(evaluation.draw(ids, probs, Draws(ids=ids, proposals=np.ones(30)), 4, stream(3, "draw"))) == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_estimate_of_nothing_is_none_and_of_everything_is_the_truth(name: str) -> None:
    ids, probs, losses = pool_of(40)
    evaluation = evaluations.build({"name": name, "n": 40})
    drawn = draw_all(evaluation, ids, probs, 40)
    found = evaluation.estimate(drawn, losses[(drawn.ids - 3) // 7], 40)
    assert found is not None
    assert found.value == pytest.approx(losses.mean())
    assert found.n == 40
    assert evaluation.estimate(drawn, np.full(40, np.nan), 40) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", [0.0, 1.0])
def test_answers_without_an_error_or_without_a_hit_leave_an_interval(name: str, loss: float) -> None:
    ids, probs, _ = pool_of(500)
    evaluation = evaluations.build(name)
    drawn = draw_all(evaluation, ids, probs, 20)
    found = evaluation.estimate(drawn, np.full(20, loss), 500)
    assert found is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_abstentions_are_left_out(name: str) -> None:
    ids, probs, losses = pool_of(200)
    evaluation = evaluations.build({"name": name, "n": 200})
    drawn = draw_all(evaluation, ids, probs, 200)
    of_drawn = losses[(drawn.ids - 3) // 7]
    of_drawn[::4] = np.nan
    found = evaluation.estimate(drawn, of_drawn, 200)
    assert found is not None
    assert found.n == 150
    assert found.value == pytest.approx(np.nanmean(of_drawn))


def test_a_random_sample_is_drawn_in_an_order_that_is_known_beforehand() -> None:
    ids, _, _ = pool_of(50)
    evaluation = evaluations.build("random_sample")
    whole = draw_all(evaluation, ids, None, 12, seed=1)
    first = draw_all(evaluation, ids, None, 5, seed=2)
    rest = evaluation.draw(ids, None, first, 7, stream(3, "draw"))
    assert [*first.ids, *rest.ids] == whole.ids.tolist()


def test_wilson_is_what_its_formula_says_by_hand() -> None:
    # 8 of 10: center (0.8 + 1.92073/10) / (1 + 3.84146/10), by a pocket calculator
    low, high = wilson(0.8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0.0, 30)[0] == 0
    assert wilson(0.0, 30)[1] == pytest.approx(1.959964**2 / (30 + 1.959964**2))


@given(st.floats(0, 1), st.floats(0.5, 1e6))
def test_wilson_holds_its_share_and_narrows_with_answers(share: float, n: float) -> None:
    low, high = wilson(share, n)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    wider = wilson(share, n / 2)
    assert wider[1] - wider[0] >= high - low - 1e-12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 1))
def test_proposals_sum_to_one_and_are_never_far_below_uniform(expected: list[float], floor: float) -> None:
    chances = proposal(np.array(expected), floor)
    assert chances.sum() == pytest.approx(1)
    assert chances.min() >= floor / len(expected) / (1 + floor) - 1e-12


def exact_expectation(losses: np.ndarray, expected: np.ndarray, n_drawn: int) -> tuple[float, float]:
    """Return the means of LURE and of the plain mean over all orders of drawing, each with its probability."""
    lure = plain = total = 0.0
    for order in itertools.permutations(range(len(losses)), n_drawn):
        left, chance, proposals = list(range(len(losses))), 1.0, []
        for pick in order:
            q = expected[left] / expected[left].sum()
            proposals.append(q[left.index(pick)])
            chance *= proposals[-1]
            left.remove(pick)
        weights = lure_weights(np.array(proposals), len(losses))
        lure += chance * float((weights * losses[list(order)]).mean())
        plain += chance * float(losses[list(order)].mean())
        total += chance
    assert total == pytest.approx(1)
    return lure, plain


def test_lure_is_unbiased_over_all_orders_of_drawing_and_the_plain_mean_is_not() -> None:
    losses, expected = np.array([0.0, 1.0, 0.3, 0.9, 0.1]), np.array([0.1, 0.8, 0.4, 0.6, 0.2])
    for n_drawn in (1, 2, 3, 4, 5):
        lure, plain = exact_expectation(losses, expected, n_drawn)
        assert lure == pytest.approx(losses.mean(), abs=1e-12)
        assert (n_drawn == 5) == (plain == pytest.approx(losses.mean(), abs=1e-3))


def test_draws_that_have_no_answer_yet_leave_the_estimate_unbiased() -> None:
    losses, expected = np.array([0.0, 1.0, 0.3, 0.9, 0.1]), np.array([0.1, 0.8, 0.4, 0.6, 0.2])
    evaluation = evaluations.build({"name": "active_testing", "n": 5})
    mean = total = 0.0
    for order in itertools.permutations(range(5), 4):
        left, chance, proposals = list(range(5)), 1.0, []
        for pick in order:
            proposals.append(expected[pick] / expected[left].sum())
            chance *= proposals[-1]
            left.remove(pick)
        answered = np.array([*losses[list(order[:2])], np.nan, np.nan])
        found = evaluation.estimate(Draws(ids=np.array(order), proposals=np.array(proposals)), answered, 5)
        weights = lure_weights(np.array(proposals[:2]), 5)
        assert found is not None
        assert found.value == pytest.approx(min(max(float((weights * answered[:2]).mean()), 0), 1))
        mean += chance * float((weights * answered[:2]).mean())
        total += chance
    assert total == pytest.approx(1)
    assert mean == pytest.approx(losses.mean())


def errors_of(sharpness: float, n_draws: int = 1000, size: int = 60) -> dict[str, np.ndarray]:
    """Draw again and again from one test pool: errors of LURE, of the plain mean, and of a random sample."""
    ids, probs, losses = pool_of(400, seed=5, sharpness=sharpness)
    evaluation = evaluations.build({"name": "active_testing", "n": size})
    found: dict[str, list[float]] = {"lure": [], "plain": [], "random": []}
    for number in range(n_draws):
        draws = stream(number, "draw")
        # Half of the texts are drawn by another model, which knows less.
        first = evaluation.draw(ids, (probs + 1) / 4, NOTHING, size // 2, draws)
        second = evaluation.draw(ids, probs, first, size // 2, draws)
        drawn = Draws(
            ids=np.concatenate([first.ids, second.ids]), proposals=np.concatenate([first.proposals, second.proposals])
        )
        of_drawn = losses[(drawn.ids - 3) // 7]
        estimate = evaluation.estimate(drawn, of_drawn, len(ids))
        assert estimate is not None
        found["lure"].append(estimate.value - losses.mean())
        found["plain"].append(of_drawn.mean() - losses.mean())
        found["random"].append(losses[draws.choice(len(ids), size, replace=False)].mean() - losses.mean())
    return {name: np.array(values) for name, values in found.items()}


def test_over_a_thousand_draws_lure_is_right_in_the_mean_and_spreads_less_than_a_random_sample() -> None:
    errors = errors_of(sharpness=4.0)
    z = {name: values.mean() / values.std(ddof=1) * math.sqrt(len(values)) for name, values in errors.items()}
    assert abs(z["lure"]) < 3
    assert abs(z["random"]) < 3
    assert z["plain"] > 20
    assert errors["lure"].std() < 0.95 * errors["random"].std()


def test_the_interval_of_active_testing_holds_the_truth() -> None:
    evaluation = evaluations.build({"name": "active_testing", "n": 80})
    held = 0
    for number in range(400):
        ids, probs, losses = pool_of(400, seed=number)
        drawn = draw_all(evaluation, ids, probs, 80, seed=number)
        found = evaluation.estimate(drawn, losses[(drawn.ids - 3) // 7], len(ids))
        expected = (1 - probs.max(axis=1)).mean()  # what the pool itself is a sample of, nearly
        assert found is not None
        held += found.low <= expected <= found.high
    assert held >= 370  # 95 % of 400 is 380, with a standard deviation of 4.4
