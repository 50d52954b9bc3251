"""Scoring batches: complete, fairly dealt, and counted when they come back."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from al_ray.model.encoder import Network, build_network, load_weights
from al_ray.model.predict import Passes, Scores, deal_batches, plan_batches, score_rows
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import SingleProcess
from tests.model.group import ThreadGroup


@pytest.fixture(scope="module")
def network(bert: Path) -> Network:
    model = resolve_model(str(bert), None)
    built = build_network(model, 3, torch.device("cpu"))
    load_weights(built, model, "pretrained", seed=5)
    return built.eval()


def score(network: Network, pool: TokenizedSplit, worker: Any) -> Scores:
    return score_rows(network, pool, np.arange(len(pool)), batch_size=8, worker=worker, passes=Passes(features=True))


@given(lengths=st.lists(st.integers(1, 60), max_size=200), batch_size=st.integers(1, 40), world=st.integers(1, 5))
def test_batches_hold_every_text_once_and_are_dealt_once(lengths: list[int], batch_size: int, world: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    batches = plan_batches(array, batch_size)
    hands = deal_batches(np.array([array[batch].sum() for batch in batches]), world)
    assert sorted(np.concatenate([np.empty(0, int), *batches]).tolist()) == list(range(len(array)))
    assert sorted(index for hand in hands for index in hand) == list(range(len(batches)))
    assert all(array[left].max() <= array[right].min() for left, right in itertools.pairwise(batches))


def test_work_is_dealt_evenly() -> None:
    lengths = np.random.default_rng(0).geometric(0.1, size=2000)
    batches = plan_batches(lengths, 32)
    costs = np.array([float(lengths[batch].sum()) for batch in batches])
    loads = [sum(costs[i] for i in hand) for hand in deal_batches(costs, 3)]
    assert max(loads) / min(loads) < 1.1


@pytest.mark.parametrize("world", [2, 3])
def test_bf16_scores_and_features_are_bit_equal_on_any_number_of_workers(
    world: int, pool: TokenizedSplit, bert: Path
) -> None:
    model = resolve_model(str(bert), None)
    network = build_network(model, 3, torch.device("cpu"))
    load_weights(network, model, "pretrained", seed=5)
    network = network.to(torch.bfloat16).eval()
    alone = score(network, pool, SingleProcess())
    assert alone.features is not None
    assert alone.logits.dtype == alone.features.dtype == np.float32
    for scores in ThreadGroup(world).run(lambda worker: score(network, pool, worker)):
        np.testing.assert_array_equal(scores.logits, alone.logits)
        np.testing.assert_array_equal(scores.features, alone.features)


def test_scores_in_batches_are_those_of_texts_alone(network: Network, pool: TokenizedSplit) -> None:
    alone = score_rows(network, pool, np.arange(20), batch_size=1, worker=SingleProcess())
    together = score_rows(network, pool, np.arange(20), batch_size=20, worker=SingleProcess())
    np.testing.assert_allclose(together.logits, alone.logits, rtol=1e-4, atol=1e-5)


def test_no_rows_give_no_scores(network: Network, pool: TokenizedSplit) -> None:
    scores = score_rows(network, pool, np.empty(0, np.int64), batch_size=8, worker=SingleProcess())
    assert len(scores.logits) == 0
    assert scores.features is None


def test_a_lost_row_is_noticed(network: Network, pool: TokenizedSplit) -> None:
    class Forgetful(SingleProcess):
        def all_gather(self, rows: Any) -> list[Any]:
            return [rows[:-1] if len(rows) == len(pool) else rows]

    with pytest.raises(AssertionError, match=r"lost or doubled|from nowhere"):
        score(network, pool, Forgetful())


def test_a_doubled_row_is_noticed(network: Network, pool: TokenizedSplit) -> None:
    class Echo(SingleProcess):
        def all_gather(self, rows: Any) -> list[Any]:
            return [rows, rows[:1]]

    with pytest.raises(AssertionError, match="lost or doubled"):
        score(network, pool, Echo())
