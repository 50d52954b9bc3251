"""Model check before a study starts: is it an encoder that can be fine-tuned, and what can it do?

The network is built of its configuration on torch's meta device, where it has shapes and no weights, and its modules
say what they can do. Then its lowest layers get random weights and read a few words. No weights are read, and no key of
a configuration need be known by its name.
"""

from collections import Counter
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from al_ray.core.types import IntArray
from al_ray.errors import ModelError
from al_ray.model.source import MINILM, MINILM_SHA256, REVISIONS, ResolvedModel, stored_shapes
from al_ray.model.tokens import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from al_ray.model.encoder import Network

N_LAYERS_TRIED = 2
SAME = 1e-3


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Capabilities of a model.

    Attributes:
        longest_text: tokens of a text that it can read, special ones included; None where its positions have no end.
        n_layers: layers that can be frozen one by one; 0 where they share their weights.
        n_features: width of its output.
        adapts_attention: whether adaptive temperature can act in its attention.
        network_dropout: largest share that any part drops as the model was trained, the head's included; None where
            nothing can drop.
        head_dropout: the same of the head alone.
        family: what transformers calls its architecture.
        linear_layers: last parts of the names of its linear layers, the pooler's aside, by alphabet.
        runs_in_bf16: whether it can be fine-tuned in bf16.
        weights_lack: an encoder's weight for which the file has no tensor of its shape; None where nothing is missing.
    """

    longest_text: int | None
    n_layers: int
    n_features: int
    adapts_attention: bool
    network_dropout: float | None
    head_dropout: float | None
    family: str
    linear_layers: tuple[str, ...]
    runs_in_bf16: bool = True
    weights_lack: str | None = None


# What MiniLM answers, so that a study of the default model is planned without torch; a test asks it again.
MINILM_FACTS = ModelFacts(
    longest_text=512,
    n_layers=6,
    n_features=384,
    adapts_attention=True,
    network_dropout=0.1,
    head_dropout=0.1,
    family="bert",
    linear_layers=("dense", "key", "query", "value"),
)


def examine_model(model: ResolvedModel) -> ModelFacts:
    """Return the capabilities of a model.

    Raises:
        ModelError: it cannot be read, is no encoder that can classify, or does not go with its tokenizer.
    """
    if (model.revision, model.sha256) == (REVISIONS[MINILM], MINILM_SHA256):
        return MINILM_FACTS
    return ask_network(model)


def ask_network(model: ResolvedModel) -> ModelFacts:
    """Build a model's network without weights and ask it; takes seconds, because torch has to be imported.

    Raises:
        ModelError: as :func:`examine_model`.
    """
    import torch

    from al_ray.model.encoder import build_network, longest_text
    from al_ray.model.layers import encoder_layers
    from al_ray.model.lora import kinds_of_linear_layers

    network = build_network(model, 3, torch.device("meta"))
    try:
        _check_vocabulary(model, network)
        facts = ModelFacts(
            longest_text=longest_text(network),
            n_layers=len(encoder_layers(network.model.base_model)),
            n_features=network.n_features,
            adapts_attention=network.packs,
            network_dropout=max((getattr(*place) for place in network.dropout_places()), default=None),
            head_dropout=max((part.p for part in network.head_dropouts), default=None),
            family=network.model.config.model_type,
            linear_layers=kinds_of_linear_layers(network.model.base_model),
            weights_lack=_what_weights_lack(model, network),
        )
        _check_reading(model, network)
        facts = replace(facts, runs_in_bf16=_runs_in_bf16(network))
        if facts.n_layers and not _runs_without_lowest_layer(network):
            facts = replace(facts, n_layers=0)
    except ModelError:
        raise
    except Exception as error:  # an architecture may raise anything when it is asked as an encoder of texts
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _unusable(model, network, f"cannot be asked what an encoder is asked: {reason}.") from error
    return facts


def _check_vocabulary(model: ResolvedModel, network: "Network") -> None:
    """Make sure that there is a vector for every word that the tokenizer can give.

    Raises:
        ModelError: words were added to the tokenizer alone, or it is another model's.
    """
    words = load_tokenizer(model, 3).get_vocab(with_added_tokens=True)
    word, number = max(words.items(), key=itemgetter(1), default=("", 0))
    n_vectors = len(network.word_embeddings.weight)
    if number >= n_vectors:
        raise ModelError(
            f"model {model.name!r} has vectors for {n_vectors} words, but its tokenizer numbers {word!r} as "
            f"{number}, so a text that holds it cannot be read. Call model.resize_token_embeddings(len(tokenizer)) "
            "and save both again, or use the tokenizer that the model was trained with."
        )


def _what_weights_lack(model: ResolvedModel, network: "Network") -> str | None:
    """Compare shapes with those in the weights file: names change from version to version, and the library maps them.

    Where it also splits or joins tensors on reading, only reading can tell.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    if get_model_conversion_mapping(network.model, add_legacy=False):
        return None
    left = Counter(stored_shapes(Path(model.path)))
    for name, value in network.model.base_model.named_parameters():
        shape = tuple(value.shape)
        left[shape] -= 1
        if left[shape] < 0 and "pooler" not in name:
            return f"{name} {list(shape)}"
    return None


def _check_reading(model: ResolvedModel, network: "Network") -> None:
    """Let the lowest layers read a text alone, beside a longer one, and with another last word.

    Raises:
        ModelError: there is no output for each token, a text's scores depend on the texts beside it, its class is read
            off something else than features, or its first token depends on nothing but itself.
    """
    from al_ray.model.encoder import quiet

    with quiet():
        words = _cut_down(network)
        text, longer, other = words[:3], words[1:8], words[[0, 1, 8]]
        if not _answers_each_token(network, text):
            raise _unusable(
                model, network, "gives no output for each token, so texts have neither a first token nor a mean."
            )
        if _differ(_scores(network, text), _scores(network, text, longer)):
            raise _unusable(model, network, "scores a text differently when a longer one is beside it in a batch.")
        (logits, first), (_, changed) = _read(network, text), _read(network, other)
    if _differ(_scores(network, text), logits):
        raise _unusable(
            model, network, "reads the class of a text off neither its first token nor the mean of its tokens."
        )
    if not _differ(first, changed):
        raise _unusable(model, network, "is a decoder: its first token does not see those behind it.")


def _runs_in_bf16(network: "Network") -> bool:
    """Let the lowest layers read two texts as a fit in bf16 does; DeBERTa's first version masks beyond its range."""
    import torch

    texts = np.arange(3), np.arange(7)
    with torch.autocast("cpu", torch.bfloat16):
        try:
            _scores(network, *texts)
        except RuntimeError:
            return False
    return True


def _cut_down(network: "Network") -> IntArray:
    """Leave a network its lowest layers and a few words, with random weights, and return the numbers of nine words."""
    from torch import nn

    from al_ray.model.encoder import draw_weights
    from al_ray.model.layers import encoder_layers

    del encoder_layers(network.model.base_model)[N_LAYERS_TRIED:]
    embeddings = network.word_embeddings
    n_kept = max(network.pad_id, embeddings.padding_idx or 0) + 10
    embeddings.weight = nn.Parameter(embeddings.weight[:n_kept])
    draw_weights(network, seed=0)
    network.eval()
    return np.resize(np.setdiff1d(np.arange(len(embeddings.weight)), [network.pad_id])[-9:], 9)


def _scores(network: "Network", *texts: IntArray) -> "Tensor":
    """Let transformers read some texts together, and return the logits of the first of them."""
    import torch

    lengths = np.array([len(text) for text in texts])
    is_real = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(is_real.shape, network.pad_id)
    padded[is_real] = np.concatenate(texts)
    mask = torch.from_numpy(is_real.astype(np.int64))
    with torch.no_grad():
        logits: Tensor = network.model(input_ids=torch.from_numpy(padded), attention_mask=mask).logits
    return logits[0]


def _read(network: "Network", text: IntArray) -> tuple["Tensor", "Tensor"]:
    """Read a text as a study does, and return its logits and its first token."""
    import torch

    from al_ray.model.packed import pack

    batch = pack(text.astype(np.int32), np.array([len(text)]), torch.device("cpu"))
    with torch.no_grad():
        return network(batch)[0][0], network.encode(batch, "first_token")[0]


def _answers_each_token(network: "Network", text: IntArray) -> bool:
    import torch

    with torch.no_grad():
        output = network.model.base_model(input_ids=torch.from_numpy(text)[None])
    hidden = getattr(output, "last_hidden_state", None)
    return hidden is not None and hidden.shape == (1, len(text), network.n_features)


def _runs_without_lowest_layer(network: "Network") -> bool:
    """Let a cut-down network read texts with its lowest layer and without it, knowing what that puts out."""
    import torch

    from al_ray.model.packed import pack

    network.model.config.num_hidden_layers = min(network.model.config.num_hidden_layers, N_LAYERS_TRIED)
    n_words = len(network.word_embeddings.weight)
    texts = np.arange(n_words - 9, n_words, dtype=np.int32)
    batch = pack(texts, np.array([3, 6]), torch.device("cpu"))
    with torch.no_grad():
        whole, states = network(batch)[0], network.states(batch, 1)
    network.freeze(1)
    with torch.no_grad():
        without = network(replace(batch, hidden=states))[0]
    return not _differ(whole, without)


def _differ(one: "Tensor", two: "Tensor") -> bool:
    return float((one - two).abs().max()) > SAME * float(one.abs().max())


def _unusable(model: ResolvedModel, network: "Network", reason: str) -> ModelError:
    from al_ray.model.encoder import USE_AN_ENCODER

    family = network.model.config.model_type
    return ModelError(f"model {model.name!r} cannot be used: {family} {reason} {USE_AN_ENCODER}")
