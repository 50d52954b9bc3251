"""Scoring: batches formed once from the lengths alone, dealt whole to the workers, gathered and counted."""

import copy
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from al_ray.core.seeding import stream_seed
from al_ray.core.types import Float32Array, FloatArray, IntArray, Sampling, Split
from al_ray.model.encoder import Network, build_network, fork_random
from al_ray.model.lora import add_adapters
from al_ray.model.packed import ATTENTION_TOKENS, TokenBatch, pack_rows
from al_ray.model.recipe import Lora
from al_ray.model.source import ResolvedModel, pinned_model
from al_ray.model.tokens import HiddenStates, TokenizedSplit
from al_ray.model.worker import Worker

Forward = Callable[[TokenBatch, int], Mapping[str, Tensor]]
Columns = Mapping[str, Float32Array]
Part = tuple[Sequence[int], Columns]
"""Numbers of batches, and what was computed of their rows, one batch after the other: name -> ``[n_rows, width]``."""


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


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe:
    """How any process builds the network that a cell scores with; its weights come apart.

    Attributes:
        model: whose configuration is read.
        n_classes: of the data set.
        n_frozen: lowest layers that are gone, whose output batches bring.
        lora: adapters that it has, or None.
        precision: of its weights.
    """

    model: ResolvedModel
    n_classes: int
    n_frozen: int
    lora: Lora | None
    precision: Literal["float32", "bf16"]

    def build(self, device: torch.device) -> Network:
        """Build it from the model's files on this machine.

        Raises:
            ModelError: they are not there, or have other content.
        """
        model = self.model
        pinned = pinned_model(model.name, model.revision, model.sha256, model.settings_sha256)
        network = build_network(pinned, self.n_classes, device)
        if self.n_frozen:
            network.freeze(self.n_frozen)
        if self.lora is not None:
            add_adapters(network, self.lora)
        return as_scored(network, self.precision)


def as_scored(network: Network, precision: Literal["float32", "bf16"]) -> Network:
    """Return a network as it predicts: itself, or a copy in bf16."""
    network = network.eval()
    if precision == "bf16":
        network = copy.deepcopy(network).to(torch.bfloat16).eval().requires_grad_(False)
    return network


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """What a process beside a cell's workers needs to compute the same batches to the same bits.

    Attributes:
        network: how to build it.
        weights: in the order of its parameters, see :func:`copied_weights`.
        split: of the pool.
        hidden: key of what the frozen layers put out at the tokens of the pool; None: no layer is frozen.
        rows: of the split ``[n]``.
        batch_size: texts in a batch.
        passes: what to return.
    """

    network: NetworkRecipe
    weights: Sequence[npt.NDArray[Any]]
    split: Split
    hidden: str | None
    rows: IntArray
    batch_size: int
    passes: Passes

    def load_into(self, network: Network) -> None:
        """Give a network of this recipe the weights."""
        with torch.no_grad():
            for value, stored in zip(network.parameters(), self.weights, strict=True):
                given = torch.from_numpy(stored.copy())  # from the object store they come read-only
                value.copy_(given.view(torch.bfloat16) if value.dtype == torch.bfloat16 else given)

    def batches(self, network: Network, texts: TokenizedSplit, device: torch.device) -> "Batches":
        """Return the batches, to be computed with a network that has the weights."""
        return scoring_batches(network, texts, self.rows, self.passes, batch_size=self.batch_size, device=device)


def copied_weights(network: Network) -> list[npt.NDArray[Any]]:
    """Return the weights on the CPU, in the order of its parameters; of bf16, which numpy lacks, the bits."""
    values = (value.detach().cpu() for value in network.parameters())
    return [(value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy() for value in values]


class Helpers(Protocol):
    """Processes beside the workers of a cell that score with them, where that pays."""

    def prepare(self) -> None:
        """Start them now, where it is certain that they will be needed; called on every rank, and returns at once."""
        ...

    def score(self, batches: "Batches", make_job: Callable[[], ScoringJob]) -> list[Part] | None:
        """Compute batches together with the other workers of the cell and with others; called on every rank.

        Args:
            batches: of one scoring, the same on every rank.
            make_job: gives what others need; called on rank 0 alone, where others take part.

        Returns:
            this worker's part, and on rank 0 that of the others as well: all ranks together have every batch once.
            None, on every rank alike: nobody helps.
        """
        ...


def plan_batches(lengths: IntArray, batch_size: int) -> list[IntArray]:
    """Cut texts into scoring batches of neighbouring lengths; depends on nothing but the lengths.

    Returns:
        positions in ``lengths``, one array a batch.
    """
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def deal_batches(costs: FloatArray, world: int) -> list[list[int]]:
    """Deal whole batches to ranks so that all have about equally much to do: dearest first, to the least busy rank.

    Args:
        costs: of each batch ``[n_batches]``.
        world: number of ranks.

    Returns:
        numbers of batches, one list a rank, rising.
    """
    hands: list[list[int]] = [[] for _ in range(world)]
    busy = [(0.0, rank) for rank in range(world)]
    for number in np.argsort(-costs, kind="stable").tolist():
        load, rank = heapq.heappop(busy)
        hands[rank].append(number)
        heapq.heappush(busy, (load + costs[number], rank))
    return [sorted(hand) for hand in hands]


class Batches:
    """The batches of one scoring, each computed to the same bits wherever it is computed.

    Args:
        split: the texts.
        rows: which of them ``[n]``; ties of length keep this order.
        forward: (batch, its number) -> name -> ``[n_texts, width]``; names beyond ``widths`` are dropped.
        widths: the columns wanted and how wide they are.
        batch_size: texts in a batch.
        device: where they are computed.
    """

    def __init__(
        self,
        split: TokenizedSplit,
        rows: IntArray,
        forward: Forward,
        widths: Mapping[str, int],
        *,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._split, self._rows, self._forward, self._device = split, rows, forward, device
        self.widths = widths
        lengths = split.lengths[rows]
        self._positions = plan_batches(lengths, batch_size)
        self.costs: FloatArray = np.array([_cost(lengths[batch]) for batch in self._positions], dtype=np.float64)

    def positions(self, numbers: Sequence[int]) -> IntArray:
        """Return the places in ``rows`` of the texts of some batches, one batch after the other."""
        return np.concatenate([np.empty(0, np.int64), *(self._positions[number] for number in numbers)])

    def compute(self, numbers: Sequence[int]) -> Columns:
        """Compute some batches; name -> ``[n_texts, width]`` float32, one batch after the other."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.widths}
        with torch.inference_mode():
            for number in numbers:
                picked = self._rows[self._positions[number]]
                outputs = self._forward(pack_rows(self._split, picked, self._device), number)
                for name in self.widths:
                    parts[name].append(outputs[name].float())
        return {
            name: torch.cat(parts[name]).cpu().numpy() if parts[name] else np.empty((0, width), np.float32)
            for name, width in self.widths.items()
        }


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
    make_job: Callable[[], ScoringJob] | None = None,
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
        make_job: gives what the worker's helpers need; None: they have no part in it.
    """
    batches = scoring_batches(network, split, rows, passes, batch_size=batch_size, device=worker.device)
    parts: list[Part] | None = None
    with torch.autocast(worker.device.type, torch.bfloat16, enabled=autocast):
        if make_job is not None and worker.helpers is not None:
            parts = worker.helpers.score(batches, make_job)
        found = run_batches(batches, len(rows), worker, parts)
    n_passes = passes.sampling.n_passes
    logits = found["logits"].reshape(len(rows), n_passes, batches.widths["logits"] // n_passes)
    return Scores(
        logits=logits, features=found.get("features"), logits_without_dropout=found.get("logits_without_dropout")
    )


def scoring_batches(
    network: Network,
    split: TokenizedSplit,
    rows: IntArray,
    passes: Passes,
    *,
    batch_size: int,
    device: torch.device,
) -> Batches:
    """Return the batches of a scoring, to be computed with a network; arguments as of :func:`score_rows`."""
    width = int(network.model.config.num_labels)
    widths = {"logits": passes.sampling.n_passes * width}
    if passes.features:
        widths["features"] = network.n_features
    if passes.logits_without_dropout:
        widths["logits_without_dropout"] = width

    def forward(batch: TokenBatch, number: int) -> Mapping[str, Tensor]:
        network.adaptive_attention = passes.sampling.adaptive_attention
        try:
            return _passes(network, batch, number, passes, device)
        finally:
            network.adaptive_attention = False

    return Batches(split, rows, forward, widths, batch_size=batch_size, device=device)


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
    batches: Batches, n_rows: int, worker: Worker, parts: list[Part] | None = None
) -> dict[str, Float32Array]:
    """Compute batches, dealt to the workers, and put the rows together again.

    Args:
        batches: of one scoring.
        n_rows: in all of them.
        worker: this process.
        parts: what this worker has of them, where they were computed otherwise.

    Returns:
        name -> ``[n_rows, width]`` float32, on every rank.
    """
    if parts is None:
        mine = deal_batches(batches.costs, worker.world)[worker.rank]
        parts = [(mine, batches.compute(mine))]
    positions = np.concatenate(worker.all_gather(_joined([batches.positions(numbers) for numbers, _ in parts])))
    counts = np.bincount(positions, minlength=n_rows)
    assert len(counts) == n_rows, "a row came from nowhere"
    assert (counts == 1).all(), "a row was lost or doubled between the workers"
    found: dict[str, Float32Array] = {}
    for name, width in batches.widths.items():
        values = _joined([np.empty((0, width), np.float32), *(columns[name] for _, columns in parts)])
        gathered = _joined(worker.all_gather(values))
        assert gathered.shape == (n_rows, width), "the workers sent other rows than they were dealt"
        found[name] = np.empty((n_rows, width), dtype=np.float32)
        found[name][positions] = gathered
    return found


def _joined(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return arrays one after the other, without a copy where one alone has any rows."""
    full = [array for array in arrays if len(array)] or arrays[:1]
    return full[0] if len(full) == 1 else np.concatenate(full)
