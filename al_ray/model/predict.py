"""Scoring: batches formed once from the lengths alone, dealt whole to the workers, gathered and counted."""

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from al_ray.core.types import IntArray
from al_ray.model.encoder import Network
from al_ray.model.packed import pack
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Worker

# Cost of attention relative to a token's own matrix products, for a token of a text of this many tokens.
ATTENTION_TOKENS = 1500


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the network says about some rows of a split, in the order asked.

    Attributes:
        logits: ``[n, n_classes]``.
        features: ``[n, n_features]`` or None.
    """

    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None


def plan_batches(lengths: IntArray, batch_size: int) -> list[IntArray]:
    """Cut texts into scoring batches of neighbouring lengths; depends on nothing but the lengths.

    Returns:
        positions in ``lengths``, one array a batch.
    """
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def deal_batches(batches: list[IntArray], lengths: IntArray, world: int) -> list[list[int]]:
    """Deal whole batches to ranks so that all have about equally much to do: dearest first, to the least busy rank.

    Returns:
        indices of batches, one list a rank, rising.
    """
    costs = [_cost(lengths[batch]) for batch in batches]
    hands: list[list[int]] = [[] for _ in range(world)]
    busy = [(0.0, rank) for rank in range(world)]
    for index in sorted(range(len(batches)), key=lambda index: (-costs[index], index)):
        load, rank = heapq.heappop(busy)
        hands[rank].append(index)
        heapq.heappush(busy, (load + costs[index], rank))
    return [sorted(hand) for hand in hands]


def _cost(lengths: IntArray) -> float:
    return float(lengths.sum() + len(lengths) * int(lengths.max()) ** 2 / ATTENTION_TOKENS)


def score_rows(
    network: Network,
    split: TokenizedSplit,
    rows: IntArray,
    *,
    batch_size: int,
    worker: Worker,
    autocast: bool = False,
    with_features: bool = False,
) -> Scores:
    """Score some rows of a split on all workers; every rank gets everything.

    The same weights and rows give the same bits on any number of workers of one kind and thread count, because a batch
    is the same wherever it is computed.

    Args:
        network: in evaluation mode.
        split: the texts.
        rows: which of them ``[n]``; ties of length keep this order.
        batch_size: texts in a batch.
        worker: this process.
        autocast: compute a float32 network's products in bf16.
        with_features: also return the first token's features.
    """
    lengths = split.lengths[rows]
    batches = plan_batches(lengths, batch_size)
    hand = [batches[index] for index in deal_batches(batches, lengths, worker.world)[worker.rank]]
    with torch.inference_mode(), torch.autocast(worker.device.type, torch.bfloat16, enabled=autocast):
        parts = [_score(network, split, rows[batch], worker.device, with_features) for batch in hand]
    mine = np.concatenate(hand) if hand else np.empty(0, np.int64)
    logits = _gather(worker, mine, [logits for logits, _ in parts], len(rows))
    features = _gather(worker, mine, [features for _, features in parts], len(rows)) if with_features else None
    return Scores(logits=logits, features=features)


def _score(
    network: Network, split: TokenizedSplit, rows: IntArray, device: torch.device, with_features: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    batch = pack(split.gather(rows), split.lengths[rows], device)
    logits, features = network(batch)
    return logits.float(), features.float() if with_features else logits


def _gather(worker: Worker, mine: IntArray, parts: list[torch.Tensor], n_rows: int) -> npt.NDArray[np.float32]:
    """Put every rank's rows in their places and make sure that each came exactly once."""
    values = torch.cat(parts).cpu().numpy() if parts else np.empty((0, 0), np.float32)
    # A rank that was dealt no batch learns the width from the others: gathered rows have one shape.
    n_columns = max(int(width) for width in np.concatenate(worker.all_gather(np.array([values.shape[1]]))))
    values = values.reshape(len(values), n_columns)
    positions = np.concatenate(worker.all_gather(mine))
    gathered = [part for part in worker.all_gather(values) if len(part)]
    counts = np.bincount(positions, minlength=n_rows)
    assert len(counts) == n_rows, "a row came from nowhere"
    assert (counts == 1).all(), "a row was lost or doubled between the workers"
    assert sum(map(len, gathered)) == n_rows, "the workers sent other numbers of rows than they were dealt"
    result = np.empty((n_rows, n_columns), dtype=np.float32)
    if gathered:
        result[positions] = np.concatenate(gathered)
    return result
