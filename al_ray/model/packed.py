"""Texts of different lengths in one pass: without padding for encoders built like BERT, with little for the others.

A batch is one row of tokens, all texts one after the other, so that every matrix product runs over real tokens only.
Only attention needs texts apart: there the tokens are laid out in slots ``[n_texts, width]`` and brought back. The last
layer computes the first token alone, which is all that a classification head reads. Both leave the result what it is
with padding and a mask; measured on a CPU they double the speed of fine-tuning.

Other encoders run as transformers wrote them, padded; a batch of texts of very different lengths in a few groups of
neighbouring lengths, which is the same batch with less padding.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from al_ray.confidence.adaptive_temperature import COEFFICIENTS, SHARP_ENTROPY
from al_ray.core.types import IntArray
from al_ray.model.layers import GoneLayer, hidden_of, layer_output
from al_ray.model.tokens import HiddenStates, TokenizedSplit

PACKED_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
MASKED = -1e9
# Where attention is written out, because that is faster than the fused kernel for texts of up to 128 tokens and more.
WRITTEN_OUT = ("cpu", "meta")
# Cost of attention relative to a token's own matrix products, for a token of a text of this many tokens.
ATTENTION_TOKENS = 1500
# What one more pass of a CPU through the encoder costs, in tokens: weights are read from memory once more. Tried for
# four encoders of six layers: 20 and 40 differ by 5 % at most, and this lies between.
PASS_TOKENS = 30

Pooling = Literal["first_token", "mean"]


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Some texts, packed.

    Attributes:
        tokens: token ids ``[n_tokens]``.
        positions: place of each token in its text ``[n_tokens]``, from 0.
        first: where each text starts ``[n_texts]``.
        lengths: tokens of each text ``[n_texts]``, in the memory of the host.
        width: tokens of the longest text.
        slot_tokens: which token fills each slot ``[n_texts * width]``; an empty slot shows its text's first token.
        token_slots: the slot of each token ``[n_tokens]``.
        filled: ``[n_texts, width]``, false where a slot is empty; None where all texts are equally long.
        hidden: output of the frozen layers at each token ``[n_tokens, n_features]``, or None where no layer is frozen.
    """

    tokens: Tensor
    positions: Tensor
    first: Tensor
    lengths: IntArray
    width: int
    slot_tokens: Tensor
    token_slots: Tensor
    filled: Tensor | None
    hidden: Tensor | None = None


def pack_rows(split: TokenizedSplit, rows: IntArray, device: torch.device) -> TokenBatch:
    """Make a batch of some texts of a split, with their hidden states where the split has any."""
    return pack(split.gather(rows), split.lengths[rows], device, split.gather_hidden(rows))


def pack(
    tokens: npt.NDArray[np.int32], lengths: IntArray, device: torch.device, hidden: HiddenStates | None = None
) -> TokenBatch:
    """Make a batch of texts given one after the other.

    Args:
        tokens: ``[sum of lengths]``.
        lengths: tokens of each text ``[n_texts]``, at least 1.
        device: where the batch goes.
        hidden: output of the frozen layers ``[sum of lengths, n_features]``, or None.
    """
    width = int(lengths.max())
    first = np.cumsum(lengths) - lengths
    place = np.broadcast_to(np.arange(width), (len(lengths), width))
    filled = place < lengths[:, None]
    slots = np.flatnonzero(filled)

    return TokenBatch(
        tokens=sent(tokens.astype(np.int64), device),
        positions=sent(place.ravel()[slots], device),
        first=sent(first, device),
        lengths=lengths,
        width=width,
        slot_tokens=sent((first[:, None] + np.where(filled, place, 0)).ravel(), device),
        token_slots=sent(slots, device),
        filled=None if filled.all() else sent(filled, device),
        hidden=None if hidden is None else _floats(hidden, device),
    )


def sent(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device.

    On its way to a GPU it is pinned: else this process would wait for all that the GPU has been given before.
    """
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _floats(hidden: HiddenStates, device: torch.device) -> Tensor:
    # numpy has no bf16, so that its bits come as whole numbers.
    is_bf16 = hidden.dtype == np.uint16
    return sent(hidden.view(np.int16), device).view(torch.bfloat16) if is_bf16 else sent(hidden, device)


class _ToSlots(torch.autograd.Function):
    """Lay tokens out in slots; the gradient of an empty slot is dropped."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, batch: TokenBatch) -> Tensor:
        ctx.batch = batch
        return values.index_select(0, batch.slot_tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.batch.token_slots), None


class _FromSlots(torch.autograd.Function):
    """Bring tokens back from their slots; an empty slot gets no gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, batch: TokenBatch) -> Tensor:
        ctx.batch = batch
        return values.index_select(0, batch.token_slots)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        filled = ctx.batch.filled.reshape(-1, 1).to(gradients[0].dtype)
        return gradients[0].index_select(0, ctx.batch.slot_tokens).mul_(filled), None


def can_pack(config: Any) -> bool:
    """Say whether an encoder of this configuration is one that :func:`packed_forward` knows layer by layer."""
    absolute = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
    plain = not getattr(config, "is_decoder", False) and not getattr(config, "add_cross_attention", False)
    return config.model_type in PACKED_TYPES and absolute and plain


def packed_features(
    model: Any, batch: TokenBatch, *, pooling: Pooling, adaptive: bool = False, n_frozen: int = 0
) -> Tensor:
    """Run an encoder that :func:`can_pack` knows over packed texts.

    Args:
        model: the classifier that holds the encoder.
        batch: the texts.
        pooling: what of the encoder's output is returned: at the first token, or the mean over a text's tokens.
        adaptive: sharpen attention by adaptive temperature.
        n_frozen: lowest layers whose output the batch brings; 0 = it brings tokens alone.

    Returns:
        one vector a text ``[n_texts, n_features]``.
    """
    first_only = pooling == "first_token"
    hidden = _embed(model.base_model, batch) if n_frozen == 0 else _known(batch)
    layers = packed_layers(model.base_model)[n_frozen:]
    for number, layer in enumerate(layers, start=1):
        at_top = number == len(layers)
        hidden = _layer(layer, hidden, batch, first_only=first_only and at_top, adaptive=adaptive)
    if first_only:
        return hidden if len(layers) else hidden.index_select(0, batch.first)
    return _mean_of_texts(hidden, batch)


def packed_states(model: Any, batch: TokenBatch, n_layers: int) -> Tensor:
    """Return what the lowest layers of an encoder put out at each token ``[n_tokens, n_features]``."""
    hidden = _embed(model.base_model, batch)
    for layer in packed_layers(model.base_model)[:n_layers]:
        hidden = _layer(layer, hidden, batch, first_only=False, adaptive=False)
    return hidden


def _known(batch: TokenBatch) -> Tensor:
    assert batch.hidden is not None, "the network has no lowest layers, and the batch does not bring their output"
    return batch.hidden


def packed_layers(encoder: Any) -> nn.ModuleList:
    """Return the layers of an encoder that can be packed, from the lowest up."""
    layers: nn.ModuleList = (encoder.transformer if hasattr(encoder, "transformer") else encoder.encoder).layer
    return layers


def _mean_of_texts(hidden: Tensor, batch: TokenBatch) -> Tensor:
    lengths = sent(batch.lengths, hidden.device)
    # Each sum in the order of its tokens, on any device; adding by index has no order on a GPU.
    sums = torch.segment_reduce(hidden.float(), "sum", lengths=lengths, unsafe=True)
    return sums / lengths[:, None]


def _embed(encoder: Any, batch: TokenBatch) -> Tensor:
    embeddings, positions = encoder.embeddings, batch.positions
    if hasattr(embeddings, "padding_idx"):
        positions = _positions_past_padding(batch, embeddings.padding_idx)
    words: Tensor = embeddings.word_embeddings(batch.tokens)
    if hasattr(embeddings, "token_type_embeddings"):
        words = words + embeddings.token_type_embeddings.weight[0]
    words = words + embeddings.position_embeddings(positions)
    hidden: Tensor = embeddings.dropout(embeddings.LayerNorm(words))
    if hasattr(encoder, "embeddings_project"):
        hidden = encoder.embeddings_project(hidden)
    return hidden


def _positions_past_padding(batch: TokenBatch, pad_id: int) -> Tensor:
    """Return RoBERTa's positions ``[n_tokens]``: counted from behind the padding id, which padding itself has.

    A text that spells out the padding token, such as ``<pad>``, has it among its tokens.
    """
    is_real = (batch.tokens != pad_id).to(torch.int64)
    counted = is_real.index_select(0, batch.slot_tokens).view(-1, batch.width).cumsum(dim=1)
    return counted.view(-1).index_select(0, batch.token_slots) * is_real + pad_id


class _Attention(NamedTuple):
    """Where a layer keeps what its attention consists of, and what it does with the context that comes out."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    n_heads: int
    dropout: nn.Dropout
    finish: Callable[[Tensor, Tensor], Tensor]


def _attention_of(layer: Any) -> _Attention:
    attention = layer.attention
    if hasattr(attention, "q_lin"):

        def finish_distilbert(context: Tensor, hidden: Tensor) -> Tensor:
            hidden = layer.sa_layer_norm(attention.out_lin(context) + hidden)
            result: Tensor = layer.output_layer_norm(layer.ffn(hidden) + hidden)
            return result

        return _Attention(
            attention.q_lin, attention.k_lin, attention.v_lin, attention.n_heads, attention.dropout, finish_distilbert
        )

    def finish_bert(context: Tensor, hidden: Tensor) -> Tensor:
        hidden = attention.output(context, hidden)
        result: Tensor = layer.output(layer.intermediate(hidden), hidden)
        return result

    inner = attention.self
    return _Attention(inner.query, inner.key, inner.value, inner.num_attention_heads, inner.dropout, finish_bert)


def _layer(layer: Any, hidden: Tensor, batch: TokenBatch, *, first_only: bool, adaptive: bool) -> Tensor:
    # One cast for the three projections, where autocast would make three.
    values = hidden.to(compute_dtype(hidden))
    asking = values
    if first_only:
        hidden, asking = hidden.index_select(0, batch.first), values.index_select(0, batch.first)
    attention = _attention_of(layer)
    context = _attend(attention, asking, values, batch, first_only=first_only, adaptive=adaptive)
    return attention.finish(context, hidden)


def _attend(
    attention: _Attention, asking: Tensor, values: Tensor, batch: TokenBatch, *, first_only: bool, adaptive: bool
) -> Tensor:
    n_texts, n_heads = len(batch.first), attention.n_heads

    def heads(projected: Tensor, width: int) -> Tensor:
        if batch.filled is not None and width > 1:
            projected = _ToSlots.apply(projected, batch)  # type: ignore[no-untyped-call]
        return projected.view(n_texts, width, n_heads, -1).transpose(1, 2)

    query = heads(attention.query(asking), 1 if first_only else batch.width)
    key, value = (heads(project(values), batch.width) for project in (attention.key, attention.value))
    mask = None if batch.filled is None else _additive(batch.filled, query.dtype)
    dropout = attention.dropout.p if attention.dropout.training else 0.0
    if adaptive:
        attended = _attention_adaptive(query, key, value, mask, dropout)
    else:
        attended = (_written_out if query.device.type in WRITTEN_OUT else _fused)(query, key, value, mask, dropout)
    context = attended.transpose(1, 2).reshape(n_texts * query.shape[2], -1)
    if first_only or batch.filled is None:
        return context
    unpacked: Tensor = _FromSlots.apply(context, batch)  # type: ignore[no-untyped-call]
    return unpacked


def _additive(filled: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(filled.shape, dtype=dtype, device=filled.device).masked_fill_(~filled, MASKED)[:, None, None, :]


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    mask = None if mask is None else mask.expand(-1, -1, query.shape[2], -1)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def _written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    weights = functional.dropout(torch.softmax(scores, dim=-1), dropout, training=dropout > 0)
    return torch.matmul(weights.to(value.dtype), value)


def _attention_adaptive(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention whose rows are sharpened by their entropy (Velickovic et al. 2024, arXiv 2410.01104)."""
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores + mask.float()
    weights = torch.softmax(scores * inverse_temperature(torch.softmax(scores, dim=-1)), dim=-1)
    return torch.matmul(functional.dropout(weights, dropout, training=dropout > 0).to(value.dtype), value)


def inverse_temperature(weights: Tensor) -> Tensor:
    """Return the factor of each row of logits ``[..., 1]`` from its softmax weights ``[..., n]``.

    A polynomial of the row's entropy in nats where that is above 0.5, and never below 1 (arXiv 2410.01104, section 5).
    """
    entropy = -(weights * torch.log(weights + 1e-9)).sum(dim=-1, keepdim=True)
    polynomial = torch.zeros_like(entropy)
    for coefficient in COEFFICIENTS:
        polynomial = polynomial * entropy + coefficient
    return torch.where(entropy > SHARP_ENTROPY, polynomial.clamp(min=1.0), torch.ones_like(entropy))


def compute_dtype(values: Tensor) -> torch.dtype:
    """Return the type that matrix products run in: autocast's where it is on, else the values' own."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


def padded_features(
    encoder: nn.Module, batch: TokenBatch, pad_id: int, *, pooling: Pooling, frozen: GoneLayer | None = None
) -> Tensor:
    """Run any other encoder over the same batch, padded and masked.

    Args:
        encoder: as transformers builds it.
        batch: the texts.
        pad_id: number of the padding token.
        pooling: as of :func:`packed_features`.
        frozen: stands in for the layers whose output the batch brings; None = it brings tokens alone.

    Returns:
        one vector a text ``[n_texts, n_features]``.
    """
    tokens = _padded(batch, batch.tokens, pad_id)
    states = tokens if frozen is None else _padded(batch, _known(batch), 0)

    def run(rows: Any, width: int, filled: Tensor | None) -> Tensor:
        known = contextlib.nullcontext() if frozen is None else frozen.knowing(states[rows, :width])
        with known:
            return _padded_group(encoder, tokens[rows, :width], filled, pooling)

    # A GPU computes padding faster than it starts another pass.
    groups = length_groups(batch.lengths) if tokens.device.type == "cpu" else []
    if len(groups) <= 1:
        return run(slice(None), batch.width, batch.filled)
    parts: list[Tensor] = []
    for group in groups:
        rows, width = torch.from_numpy(group), int(batch.lengths[group].max())
        assert batch.filled is not None, "texts of one length are one group"
        filled = batch.filled[rows, :width]
        parts.append(run(rows, width, None if filled.all() else filled))
    return torch.cat(parts).index_select(0, torch.from_numpy(np.argsort(np.concatenate(groups))))


def padded_states(encoder: nn.Module, batch: TokenBatch, pad_id: int, n_layers: int) -> Tensor:
    """Return what the lowest layers of an encoder put out at each token ``[n_tokens, n_features]``, as padded."""
    mask = None if batch.filled is None else batch.filled.to(torch.int64)
    output = layer_output(encoder, n_layers, input_ids=_padded(batch, batch.tokens, pad_id), attention_mask=mask)
    return hidden_of(output).flatten(0, 1).index_select(0, batch.token_slots)


def _padded(batch: TokenBatch, values: Tensor, filling: int) -> Tensor:
    """Lay what there is of each token out in slots ``[n_texts, width, ...]``."""
    slots = values.new_full((len(batch.lengths) * batch.width, *values.shape[1:]), filling)
    slots[batch.token_slots] = values
    return slots.view(len(batch.lengths), batch.width, *values.shape[1:])


def _padded_group(encoder: nn.Module, tokens: Tensor, filled: Tensor | None, pooling: Pooling) -> Tensor:
    mask = None if filled is None else filled.to(torch.int64)
    hidden: Tensor = encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
    if pooling == "first_token":
        return hidden[:, 0]
    if filled is None:
        return hidden.float().mean(dim=1)
    counted = filled.float()
    return (hidden.float() * counted[:, :, None]).sum(dim=1) / counted.sum(dim=1, keepdim=True)


def length_groups(lengths: IntArray) -> list[IntArray]:
    """Cut a batch into groups of neighbouring lengths, each padded to its own longest, so that all cost least.

    Args:
        lengths: tokens of each text ``[n_texts]``.

    Returns:
        positions in ``lengths``, one array a group, shortest texts first; depends on nothing but the lengths.
    """
    order = np.argsort(lengths, kind="stable")
    widths = lengths[order].astype(np.float64)
    each = widths * (1 + widths / ATTENTION_TOKENS)
    # least[n] is what the n shortest cost at best; the last group of them starts at start[n].
    least, start = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for n in range(1, len(order) + 1):
        costs = least[:n] + PASS_TOKENS + each[n - 1] * (n - np.arange(n))
        start[n] = costs.argmin()
        least[n] = costs[start[n]]
    groups: list[IntArray] = []
    end = len(order)
    while end:
        groups.append(order[start[end] : end])
        end = int(start[end])
    return groups[::-1]
