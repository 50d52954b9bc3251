"""Scoring: batches formed once from the lengths alone, dealt whole to the workers, gathered and counted."""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from al_ray.core.seeding import stream_seed
from al_ray.core.types import Float32Array, IntArray, Sampling
from al_ray.model.encoder import Network, fork_random
from al_ray.model.packed import ATTENTION_TOKENS, TokenBatch, pack_rows
from al_ray.model.tokens import HiddenStates, TokenizedSplit
from al_ray.model.worker import Worker

Forward = Callable[[TokenBatch, int], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Logits and features of some rows of a split, in the order asked.

    Attributes:
        logits: ``[n, n_passes, n_classes]``.
        features: ``[n, n_features]`` without dropout, or None.
        logits_without_dropout: ``[n, n_classes]``, or None.
    """

    logits: Float32Array
    features: Float32Array | None = None
    logits_without_dropout: Float32Array | None = None


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Forward passes of one network: dropout, seed, and what to return.

    Attributes:
        sampling: dropout passes and attention; members are not its business.
        seed: of the draws of this round.
        features: whether to return features.
        logits_without_dropout: whether to return these too.
    """

    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    features: bool = False
    logits_without_dropout: bool = False


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
    passes: Passes = Passes(),
) -> Scores:
    """Score some rows of a split on all workers; every rank gets everything.

    The same weights and rows give the same bits on any number of workers of one kind and thread count, because a batch
    is the same wherever it is computed, and its dropout is named by its number.

    Args:
        network: in evaluation mode.
        split: the texts.
        rows: which of them ``[n]``; ties of length keep this order.
        batch_size: texts in a batch.
        worker: this process.
        autocast: compute a float32 network's products in bf16.
        passes: what to return.
    """
    network.adaptive_attention = passes.sampling.adaptive_attention
    n_passes = passes.sampling.n_passes
    width = int(network.model.config.num_labels)
    widths = {"logits": n_passes * width}
    if passes.features:
        widths["features"] = network.n_features
    if passes.logits_without_dropout:
        widths["logits_without_dropout"] = width

    def forward(batch: TokenBatch, index: int) -> Mapping[str, Tensor]:
        return _passes(network, batch, index, passes, worker.device)

    try:
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=autocast):
            found = run_batches(split, rows, forward, widths, batch_size=batch_size, worker=worker)
    finally:
        network.adaptive_attention = False
    logits = found["logits"].reshape(len(rows), n_passes, width)
    return Scores(
        logits=logits, features=found.get("features"), logits_without_dropout=found.get("logits_without_dropout")
    )


def _passes(
    network: Network, batch: TokenBatch, index: int, passes: Passes, device: torch.device
) -> Mapping[str, Tensor]:
    sampling, kind = passes.sampling, passes.sampling.dropout
    outputs: dict[str, Tensor] = {}
    if kind != "network" or passes.features or passes.logits_without_dropout:
        outputs["logits_without_dropout"], outputs["features"] = network(batch)
    if kind == "off":
        outputs["logits"] = outputs["logits_without_dropout"]
    elif kind == "logits":
        outputs["logits"] = dropped_logits(outputs["logits_without_dropout"], passes, index, device).flatten(1)
    else:
        draws: list[Tensor] = []
        with network.dropping(kind, sampling.rate):
            for number in range(sampling.n_passes):
                # A thinned head is named by the pass alone, so that all texts share it.
                names = ("pass", number) if kind == "head" else ("pass", number, "batch", index)
                with fork_random(device, stream_seed(passes.seed, *names)):
                    draws.append(network(batch)[0] if kind == "network" else network.head(outputs["features"]))
        outputs["logits"] = torch.cat(draws, dim=1)
    return outputs


def dropped_logits(logits: Tensor, passes: Passes, batch_index: int, device: torch.device) -> Tensor:
    """Return logits ``[n, n_classes]`` with single ones dropped, anew in every pass ``[n, n_passes, n_classes]``."""
    rate = 0.1 if passes.sampling.rate is None else passes.sampling.rate
    with fork_random(device, stream_seed(passes.seed, "batch", batch_index)):
        return functional.dropout(logits.float()[:, None].expand(-1, passes.sampling.n_passes, -1), rate)


def hidden_states(
    network: Network, split: TokenizedSplit, *, n_layers: int, batch_size: int, device: torch.device
) -> HiddenStates:
    """Return what the lowest layers of an encoder put out at every token of a split, in the order of its tokens.

    Args:
        network: in evaluation mode, whole; in bf16 or float32.
        split: the texts.
        n_layers: how many layers, at least 1.
        batch_size: texts in a batch.
        device: where the network is.

    Returns:
        ``[n_tokens, n_features]`` float32, or uint16 with the bits of bf16 where the network is in bf16.
    """
    dtype = np.float32 if network.dtype == torch.float32 else np.uint16
    found: Any = np.empty((len(split.tokens), network.n_features), dtype=dtype)
    with torch.inference_mode():
        for rows in plan_batches(split.lengths, batch_size):
            states = network.states(pack_rows(split, rows, device), n_layers).cpu()
            bits = states if dtype == np.float32 else states.view(torch.int16)
            found[split.places(rows)] = bits.numpy().view(dtype)
    hidden: HiddenStates = found
    return hidden


def run_batches(
    split: TokenizedSplit,
    rows: IntArray,
    forward: Forward,
    widths: Mapping[str, int],
    *,
    batch_size: int,
    worker: Worker,
) -> dict[str, Float32Array]:
    """Run a function over batches of some rows, dealt to the workers, and put the rows together again.

    Args:
        split: the texts.
        rows: which of them ``[n]``.
        forward: (batch, its number) -> name -> ``[n_texts, width]``; names beyond ``widths`` are dropped.
        widths: the columns wanted and how wide they are.
        batch_size: texts in a batch.
        worker: this process.

    Returns:
        name -> ``[n, width]`` float32, on every rank.
    """
    lengths = split.lengths[rows]
    batches = plan_batches(lengths, batch_size)
    mine = deal_batches(batches, lengths, worker.world)[worker.rank]
    parts: dict[str, list[Tensor]] = {name: [] for name in widths}
    with torch.inference_mode():
        for index in mine:
            picked = rows[batches[index]]
            outputs = forward(pack_rows(split, picked, worker.device), index)
            for name in widths:
                parts[name].append(outputs[name].float())
    positions = np.concatenate([np.empty(0, np.int64), *(batches[index] for index in mine)])
    return _gather(worker, positions, parts, widths, len(rows))


def _gather(
    worker: Worker, mine: IntArray, parts: Mapping[str, list[Tensor]], widths: Mapping[str, int], n_rows: int
) -> dict[str, Float32Array]:
    """Put every rank's rows in their places and make sure that each came exactly once."""
    positions = np.concatenate(worker.all_gather(mine))
    counts = np.bincount(positions, minlength=n_rows)
    assert len(counts) == n_rows, "a row came from nowhere"
    assert (counts == 1).all(), "a row was lost or doubled between the workers"
    columns: dict[str, Float32Array] = {}
    for name, width in widths.items():
        values = torch.cat(parts[name]).cpu().numpy() if parts[name] else np.empty((0, width), np.float32)
        gathered = np.concatenate(worker.all_gather(values))
        assert gathered.shape == (n_rows, width), "the workers sent other rows than they were dealt"
        columns[name] = np.empty((n_rows, width), dtype=np.float32)
        columns[name][positions] = gathered
    return columns
