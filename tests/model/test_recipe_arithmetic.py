"""The arithmetic of a fit, against scikit-learn, transformers and numbers derived by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from al_ray.core.seeding import stream
from al_ray.model.recipe import (
    FinetuneRecipe,
    batches_of_epoch,
    class_weights,
    gonsior2022_validation_rows,
    gonsior2022_validation_weights,
    learning_rate_factor,
    validation_rows,
)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), fraction=st.floats(0.01, 0.5), seed=st.integers(0, 9)
)
def test_validation_is_stratified_and_leaves_every_class_in_training(
    labels: list[int], fraction: float, seed: int
) -> None:
    array = np.array(labels)
    held_out = validation_rows(array, fraction, stream(seed, "validation"))
    classes, sizes = np.unique(array, return_counts=True)
    n_possible = int((sizes - 1).sum())
    assert held_out.sum() == min(max(1, int(fraction * len(array) + 0.5)), n_possible)
    for label, size in zip(classes, sizes, strict=True):
        share = int(held_out[array == label].sum())
        assert share <= size - 1
        if n_possible >= len(array) - 1:
            assert abs(share - held_out.sum() * size / len(array)) < 1


def test_validation_of_a_hundred_takes_the_exact_shares() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    held_out = validation_rows(labels, 0.1, stream(1, "validation"))
    assert [int(held_out[labels == label].sum()) for label in range(3)] == [6, 3, 1]


def test_ten_percent_of_twenty_five_are_three() -> None:
    labels = np.arange(25) % 2
    assert validation_rows(labels, 0.1, stream(1, "validation")).sum() == 3


def test_another_stream_holds_out_other_examples_and_the_same_stream_the_same() -> None:
    labels = np.arange(60) % 3
    first, again, other = (validation_rows(labels, 0.2, stream(1, "round", r, "v")) for r in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_no_fraction_and_single_examples_hold_out_nothing() -> None:
    assert not validation_rows(np.arange(30) % 3, 0.0, stream(1, "v")).any()
    assert not validation_rows(np.arange(6), 0.5, stream(1, "v")).any()


@pytest.mark.parametrize(("n", "n_held"), [(25, 3), (50, 5), (75, 8), (525, 53), (1, 0), (2, 1)])
def test_the_papers_code_holds_out_what_nine_tenths_leave(n: int, n_held: int) -> None:
    rows = gonsior2022_validation_rows(np.arange(n) % 2, 0.1, stream(1, "validation"))
    assert len(rows) == len(set(rows.tolist())) == n_held


def test_the_papers_code_holds_out_in_random_order_and_by_chance_the_last_of_a_class() -> None:
    labels = np.repeat([0, 1, 2], [1, 12, 12])
    found = [gonsior2022_validation_rows(labels, 0.1, stream(seed, "v")).tolist() for seed in range(80)]
    assert any(0 in rows for rows in found)
    assert any(rows != sorted(rows) for rows in found)
    six = np.arange(25) % 6
    found = [gonsior2022_validation_rows(six, 0.1, stream(seed, "v")).tolist() for seed in range(80)]
    assert any(len(set(six[rows])) < 3 for rows in found), "two of one class, where ours takes three classes"
    large = np.repeat([0, 1, 2], [60, 30, 10])
    rows = gonsior2022_validation_rows(large, 0.2, stream(1, "v"))
    assert np.bincount(large[rows]).tolist() == [12, 6, 2]
    assert len(gonsior2022_validation_rows(large, 0.0, stream(1, "v"))) == 0


def test_a_mean_over_batches_counts_the_examples_of_a_small_batch_more() -> None:
    losses = np.arange(10.0)
    expected = np.mean([losses[:4].mean(), losses[4:8].mean(), losses[8:].mean()])
    assert np.average(losses, weights=gonsior2022_validation_weights(10, 4)) == pytest.approx(expected)


def test_an_epoch_has_every_row_once_in_a_new_order() -> None:
    rng = stream(1, "order")
    first, second = (np.concatenate(batches_of_epoch(50, 16, rng)) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert (first != second).any()
    assert [len(batch) for batch in batches_of_epoch(50, 16, rng)] == [16, 16, 16, 2]


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_learning_rates_are_those_of_the_schedulers_of_transformers(schedule: str, warmup_fraction: float) -> None:
    n_steps, recipe = 20, FinetuneRecipe(schedule=schedule, warmup_fraction=warmup_fraction)  # type: ignore[arg-type]
    n_warmup = int(np.ceil(warmup_fraction * n_steps))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = (
        get_linear_schedule_with_warmup(optimizer, n_warmup, n_steps)
        if schedule == "linear"
        else get_constant_schedule_with_warmup(optimizer, n_warmup)
    )
    expected = []
    for _ in range(n_steps):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [learning_rate_factor(recipe, step, n_steps) for step in range(n_steps)] == pytest.approx(expected)


def test_balanced_class_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [3] * 1)
    weights = class_weights(FinetuneRecipe(class_weights="balanced"), labels, n_classes=4)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected, rtol=1e-6)
    assert weights[2] == 1
    np.testing.assert_array_equal(class_weights(FinetuneRecipe(), labels, 4), np.ones(4))
