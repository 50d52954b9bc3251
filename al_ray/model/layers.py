"""Lowest layers of an encoder: where they are, what they put out, and the network that is left when they are gone.

What frozen layers put out never changes, so it is computed once for a pool; then the network needs neither them nor the
vectors of the vocabulary. Encoders are run as transformers wrote them: a layer's output is read by a hook, and a layer
that is gone answers with what it is given.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from al_ray.errors import ConfigError


def encoder_layers(encoder: Any) -> nn.ModuleList:
    """Return an encoder's layers from the lowest up; empty where they are no single stack, or share their weights."""
    n_layers = getattr(encoder.config, "num_hidden_layers", None)
    lists = [part for part in encoder.modules() if isinstance(part, nn.ModuleList)]
    inner = {id(part) for each in lists for part in each.modules() if part is not each}
    stacks = [each for each in lists if len(each) == n_layers and id(each) not in inner]
    return stacks[0] if len(stacks) == 1 else nn.ModuleList()


def check_frozen_layers(n_frozen: int, n_layers: int) -> None:
    """Make sure that an encoder has the layers that are to be frozen.

    Raises:
        ConfigError: it has fewer.
    """
    if n_frozen > n_layers:
        raise ConfigError(
            f"option 'frozen_layers' is {n_frozen}, but the encoder has {n_layers} layers that can be frozen one by "
            f"one. Use at most {n_layers}."
        )


def layer_output(encoder: Any, n_layers: int, **inputs: Any) -> Any:
    """Run an encoder up to a layer and return what that layer does, as it returns it: a tensor or a tuple.

    Args:
        encoder: as transformers builds it.
        n_layers: how many layers run, at least 1.
        inputs: of the encoder.
    """

    def stop(layer: nn.Module, arguments: Any, output: Any) -> None:
        raise _Reached(output)

    handle = encoder_layers(encoder)[n_layers - 1].register_forward_hook(stop)
    try:
        encoder(**inputs)
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise AssertionError("the layer did not run")


class _Reached(Exception):  # noqa: N818 - no error: the rest of the encoder has nothing to do
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states ``[n_texts, width, n_features]`` among what a layer returns."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


class GoneLayer:
    """What a layer that is gone does in a forward pass: it hands out known states, or its input where there are none.

    Args:
        n_outputs: length of the tuple that the layer returned; None where it was a tensor alone.
    """

    def __init__(self, n_outputs: int | None) -> None:
        self._n_outputs = n_outputs
        self._known: Tensor | None = None

    def __call__(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        """Stand in for the layer's ``forward``."""
        hidden = hidden_states if self._known is None else self._known
        return hidden if self._n_outputs is None else (hidden, *[None] * (self._n_outputs - 1))

    @contextlib.contextmanager
    def knowing(self, states: Tensor) -> Iterator[None]:
        """Hand out states ``[n_texts, width, n_features]`` within a block."""
        self._known = states
        try:
            yield
        finally:
            self._known = None


def drop_layers(encoder: Any, word_embeddings: nn.Embedding, n_layers: int, pad_id: int) -> GoneLayer:
    """Take the lowest layers out of an encoder, and all vectors of the vocabulary but a few that stand for any word.

    Whatever else their output depends on keeps its weights too, such as positions that upper layers share with them.

    Args:
        encoder: changed in place; its weights need no values yet.
        word_embeddings: those of the encoder.
        n_layers: how many of its layers go, at least 1.
        pad_id: number of the padding token, which keeps it: models recognise padding by it.

    Returns:
        what the highest of them does from now on.
    """
    n_words = max(pad_id, word_embeddings.padding_idx or 0) + 2
    tokens = torch.full((1, 3), n_words - 1, device=word_embeddings.weight.device)
    was_training = encoder.training
    encoder.eval()  # so that no dropout is drawn
    with _listing_dropouts(encoder) as dropouts, torch.enable_grad():
        output = layer_output(encoder, n_layers, input_ids=tokens)
    encoder.train(was_training)
    for name in dropouts:
        # What is computed below goes nowhere, so that it may draw nothing either.
        encoder.set_submodule(name, nn.Identity())
    for value in _weights_behind(hidden_of(output)):
        value.requires_grad_(False)
    gone = GoneLayer(None if isinstance(output, Tensor) else len(output))
    for layer in encoder_layers(encoder)[:n_layers]:
        for parts in (layer._modules, layer._parameters, layer._buffers):
            parts.clear()
        layer.forward = gone
    few = torch.zeros(n_words, word_embeddings.embedding_dim, device=tokens.device)
    del word_embeddings.weight
    word_embeddings.register_buffer("weight", few, persistent=False)
    word_embeddings.num_embeddings = n_words
    return gone


@contextlib.contextmanager
def _listing_dropouts(encoder: nn.Module) -> Iterator[list[str]]:
    """Yield the names of the dropouts that run within a block, in order."""
    ran: list[str] = []
    handles = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, part in encoder.named_modules()
        if isinstance(part, nn.Dropout)
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def _weights_behind(result: Tensor) -> list[nn.Parameter]:
    """Return the weights that a result was computed from: the leaves of its autograd graph."""
    found: list[nn.Parameter] = []
    seen: set[Any] = set()
    left: list[Any] = [result.grad_fn]
    while left:
        step = left.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if hasattr(step, "variable"):
            found.append(step.variable)
        left += [source for source, _ in step.next_functions]
    return found
