"""Export: a fitted classifier as a folder that ``transformers.pipeline("text-classification")`` opens.

The folder holds a stock architecture, float32 weights as safetensors and the tokenizer; no code. What was fine-tuned
is saved as it is: frozen layers come back from the pretrained weights, adapters are added to the weights beside them.

The frozen learner has no stock class. Its logits are ``W e + b``, with ``e`` the output of the encoder at the first
token, or the mean over the tokens at unit length. Stock heads are ``out(f(dense(x)))`` with a nonlinear ``f``, through
which a linear map is led without loss:

- where ``f(z) - f(-z) = z`` (ReLU, GELU, SiLU), ``dense`` holds the rows of W and of -W, and ``out`` their difference;
- tanh is linear near zero: ``dense`` is W times 2**-16, ``out`` takes that back.

The mean at unit length is one more layer of the encoder (in families built like BERT): queries and keys of zero look at
all tokens alike, and values that are what they see give the mean. It is scaled by 2**24, beside which the residual
connection is nothing, and the layer's norm brings it to a fixed length. The norm also subtracts the mean of the
features. So the vector is reflected before, such that what is subtracted is its part along a direction ``u`` that no
class reads (``W u = 0``); the length lacks that part too, so that logits come out too large by ``(u e)**2 / 2``. Of all
such directions the one is taken along which the embeddings of the pool are shortest: since the last norm of an encoder
leaves features of mean zero, times its weights, there is one along which they have next to no length. ModernBERT, whose
head reads the mean and has a norm of its own, needs no further layer.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from al_ray.core.types import Float64Array, FloatArray
from al_ray.errors import ModelError
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.score import ModelNote, TextScorer
from al_ray.model.source import CONFIG, WEIGHTS, ResolvedModel
from al_ray.storage.local_files import whole_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from al_ray.model.classifier import RoundClassifier
    from al_ray.model.encoder import Network

SMALL = 2.0**-16
LARGE = 2.0**24
# Of the largest logit: what the folder may differ by from the classifier. Where both compute in float32, a thousandth
# is left to the direction u; a classifier that scores in bf16 has eight bits.
TOLERANCE = {"float32": 1e-2, "bf16": 0.2}


@dataclass(frozen=True, kw_only=True)
class _Head:
    """Where a stock head has its two linear layers, and what is between them."""

    dense: str
    out: str
    between: Literal["tanh", "difference"]


_LIKE_ROBERTA = _Head(dense="classifier.dense", out="classifier.out_proj", between="tanh")
_HEADS: Mapping[str, _Head] = {
    "albert": _Head(dense="albert.pooler", out="classifier", between="tanh"),
    "bert": _Head(dense="bert.pooler.dense", out="classifier", between="tanh"),
    "camembert": _LIKE_ROBERTA,
    "deberta": _Head(dense="pooler.dense", out="classifier", between="difference"),
    "deberta-v2": _Head(dense="pooler.dense", out="classifier", between="difference"),
    "distilbert": _Head(dense="pre_classifier", out="classifier", between="difference"),
    "electra": _Head(dense="classifier.dense", out="classifier.out_proj", between="difference"),
    "eurobert": _Head(dense="dense", out="classifier", between="difference"),
    "mpnet": _LIKE_ROBERTA,
    "roberta": _LIKE_ROBERTA,
    "xlm-roberta": _LIKE_ROBERTA,
}
_MEAN_BY_LAYER = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
_MEAN_BY_HEAD = ("modernbert",)
_FAMILIES = {"first_token": tuple(_HEADS), "mean": (*_MEAN_BY_LAYER, *_MEAN_BY_HEAD)}


@dataclass(frozen=True, kw_only=True)
class ExportCheck:
    """How the exported model compares with the classifier that it was made from.

    Attributes:
        n: texts that both read.
        n_same: of these, texts that both put into the same class.
        largest_difference: between two logits.
    """

    n: int
    n_same: int
    largest_difference: float


def check_exportable(recipe: FinetuneRecipe, family: str, *, n_classes: int, n_features: int) -> None:
    """Make sure that a model of this recipe can be exported, before anybody labels for it.

    Args:
        recipe: how it is fitted.
        family: of its encoder, as transformers calls it.
        n_classes: of the project.
        n_features: width of the encoder's output.

    Raises:
        ModelError: the frozen learner on an encoder whose stock classifier cannot compute the same, or with too many
            classes for it.
    """
    if not recipe.is_frozen:
        return
    known = _FAMILIES[recipe.features]
    if family not in known:
        other = "mean" if recipe.features == "first_token" else "first_token"
        others = [f"'features: {other}'"] if family in _FAMILIES[other] else []
        advice = " or ".join([*others, "fine-tuning (a number of 'frozen_layers', or 'lora')"])
        raise ModelError(
            f"the frozen learner with 'features: {recipe.features}' on {family} cannot be exported: no classifier that "
            f"transformers has for {family} computes the same. It can on {', '.join(sorted(known))}; on {family} use "
            f"{advice}."
        )
    most = _most_classes(recipe, family, n_features)
    if n_classes > most:
        raise ModelError(
            f"{n_classes} classes are more than the {most} that an exported frozen learner on {family} with "
            f"{n_features} features can tell apart. Use a larger encoder, or fine-tuning (a number of 'frozen_layers')."
        )


def _most_classes(recipe: FinetuneRecipe, family: str, n_features: int) -> int:
    most = n_features - 1 if recipe.features == "mean" else n_features
    return min(most, n_features // 2) if family in _HEADS and _HEADS[family].between == "difference" else most


def export_classifier(
    folder: Path,
    classifier: "RoundClassifier",
    *,
    model: ResolvedModel,
    init: Literal["pretrained", "random"] = "pretrained",
    note: ModelNote,
    examples: Mapping[int, str],
) -> ExportCheck:
    """Write the plain model of a classifier's last fit as a folder for transformers, and try it.

    Of an ensemble it is the first member. Weights are float32, whatever the precision of the fit.

    Args:
        folder: new or empty; it appears whole, or not at all.
        classifier: fitted; where it works on several workers, rank 0's.
        model: the encoder that it was made of, on this machine.
        init: as of the classifier; ``random``: the encoder was drawn, not read.
        note: class names, length of texts and temperature; written beside the model.
        examples: id -> text of some examples of the pool, on which folder and classifier are compared; at least one.

    Returns:
        the comparison.

    Raises:
        ModelError: as :func:`check_exportable`; the model cannot be read; or the folder scores texts otherwise.
        StorageError: the folder holds something, or cannot be written.
    """
    network = _exported_network(classifier, model, init, note)
    with whole_folder(folder) as unfinished:
        _save(network, model, note, unfinished)
        return _compare(unfinished, classifier, model.name, examples)


def _exported_network(
    classifier: "RoundClassifier", model: ResolvedModel, init: Literal["pretrained", "random"], note: ModelNote
) -> "Network":
    """Return the whole network on the CPU, with a stock head that computes what the classifier does."""
    import torch

    from al_ray.core.seeding import stream_seed
    from al_ray.model.encoder import build_network, load_weights
    from al_ray.model.frozen import FrozenClassifier

    settings = classifier.settings
    assert len(note.class_names) == settings.n_classes, "class names of another classifier"
    network = build_network(model, settings.n_classes, torch.device("cpu"))
    family = network.model.config.model_type
    check_exportable(settings.recipe, family, n_classes=settings.n_classes, n_features=network.n_features)
    load_weights(network, model, init, stream_seed(settings.seed, "embed") if init == "random" else 0)
    weights = classifier.plain_weights()
    with torch.no_grad():
        if isinstance(classifier, FrozenClassifier):
            weight, bias = (weights[name].numpy().astype(np.float64) for name in ("weight", "bias"))
            if settings.recipe.features == "mean":
                _lead_mean_through(network, weight, bias, classifier.pool_features)
            else:
                _lead_first_token_through(network, weight, bias)
        else:
            stored = dict(network.model.named_parameters())
            for name, value in _without_adapters(weights, settings.recipe).items():
                stored[name].copy_(value)
    return network


def _without_adapters(weights: Mapping[str, "torch.Tensor"], recipe: FinetuneRecipe) -> "dict[str, torch.Tensor]":
    """Add what adapters contribute to the weights beside which they stand."""
    from al_ray.model.lora import is_adapter, name_without_adapters

    merged = {name_without_adapters(name): value for name, value in weights.items() if not is_adapter(name)}
    for name, down in weights.items():
        if ".lora_A." in name:
            assert recipe.lora is not None
            up = weights[name.replace(".lora_A.", ".lora_B.")].double()
            layer = f"{name.partition('.lora_A.')[0]}.weight"
            merged[layer] = (merged[layer].double() + recipe.lora.alpha / recipe.lora.rank * up @ down.double()).float()
    return merged


def _lead_first_token_through(network: "Network", weight: Float64Array, bias: Float64Array) -> None:
    """Let the stock head, which reads the first token, be ``weight x + bias``."""
    config = network.model.config
    if getattr(config, "classifier_pooling", None) is not None:
        config.classifier_pooling = "bos"
    _set_head(network.model, _HEADS[config.model_type], weight, bias)


def _set_head(model: "nn.Module", head: _Head, weight: Float64Array, bias: Float64Array) -> None:
    n_classes, n_features = weight.shape
    dense, out = np.zeros((n_features, n_features)), np.zeros((n_classes, n_features))
    signs, scale = ((1,), SMALL) if head.between == "tanh" else ((1, -1), 1.0)
    for number, sign in enumerate(signs):
        rows = slice(number * n_classes, (number + 1) * n_classes)
        dense[rows], out[:, rows] = sign * scale * weight, sign / scale * np.eye(n_classes)
    _set_linear(model.get_submodule(head.dense), dense, np.zeros(n_features))
    _set_linear(model.get_submodule(head.out), out, bias)


def _lead_mean_through(network: "Network", weight: Float64Array, bias: Float64Array, features: FloatArray) -> None:
    """Let the network be ``weight e + bias``, with the mean over a text's tokens at unit length as ``e``."""
    n_features = weight.shape[1]
    reflection = _reflection(_unread_direction(weight, features, _last_norm(network)))
    # The norm leaves features of variance 1, whose length is the root of their number.
    weight = weight @ reflection / np.sqrt(n_features)
    if network.model.config.model_type in _MEAN_BY_LAYER:
        grow = _add_mean_layer(network, reflection)
        _set_head(network.model, _HEADS[network.model.config.model_type], weight * grow, bias)
    else:
        _set_modernbert_head(network, reflection, weight, bias)


def _last_norm(network: "Network") -> tuple[Float64Array, Float64Array]:
    """Return weight and bias ``[n_features]`` of the norm that ends the encoder."""
    from al_ray.model.packed import packed_layers

    if network.model.config.model_type in _MEAN_BY_HEAD:
        norm = network.model.base_model.final_norm
    else:
        layer: Any = packed_layers(network.model.base_model)[-1]
        norm = layer.output_layer_norm if hasattr(layer, "output_layer_norm") else layer.output.LayerNorm
    weight = norm.weight.double().numpy()
    return weight, np.zeros_like(weight) if norm.bias is None else norm.bias.double().numpy()


def _unread_direction(
    weight: Float64Array, features: FloatArray, norm: tuple[Float64Array, Float64Array]
) -> Float64Array:
    """Return the unit vector that no class reads and along which the features are shortest ``[n_features]``.

    Beside the features stands what the encoder's last norm says of all texts' features, as much as one text: a small
    pool leaves directions that none of its texts has, and others may.
    """
    n_classes, n_features = weight.shape
    scale, shift = norm
    centred = np.diag(scale) - scale[:, None] / n_features
    expected = centred @ centred.T + np.outer(shift, shift)
    unread = np.linalg.svd(weight)[2][n_classes:]
    inside = unread @ np.asarray(features, dtype=np.float64).T
    moments = inside @ inside.T + unread @ expected @ unread.T / np.trace(expected)
    return np.linalg.eigh(moments)[1][:, 0] @ unread


def _reflection(u: Float64Array) -> Float64Array:
    """Return the symmetric orthogonal matrix that exchanges a unit vector and the one whose entries are all equal."""
    ones = np.full(len(u), len(u) ** -0.5)
    difference = u - ones if u @ ones < 0 else u + ones  # the longer of the two, which is known better
    difference /= np.linalg.norm(difference)
    return np.eye(len(u)) - 2 * np.outer(difference, difference)


def _add_mean_layer(network: "Network", reflection: Float64Array) -> float:
    """Put a layer on top that puts out the reflected mean over all tokens, at variance 1.

    Returns:
        what its output is to be multiplied by: the norm adds a small number to the variance before it divides.
    """
    from al_ray.model.packed import packed_layers

    layers: Any = packed_layers(network.model.base_model)
    layer = copy.deepcopy(layers[-1])
    layers.append(layer)
    network.model.config.num_hidden_layers += 1
    n_features = len(reflection)
    zero, nothing = np.zeros((n_features, n_features)), np.zeros(n_features)
    if hasattr(layer.attention, "q_lin"):
        attention = layer.attention.q_lin, layer.attention.k_lin, layer.attention.v_lin, layer.attention.out_lin
        last, norms = layer.ffn.lin2, (layer.sa_layer_norm, layer.output_layer_norm)
    else:
        inner, output = layer.attention.self, layer.attention.output
        attention = inner.query, inner.key, inner.value, output.dense
        last, norms = layer.output.dense, (output.LayerNorm, layer.output.LayerNorm)
    for part, matrix in zip(attention, (zero, zero, np.eye(n_features), LARGE * reflection), strict=True):
        _set_linear(part, matrix, nothing)
    _set_linear(last, np.zeros(last.weight.shape), nothing)
    for norm in norms:
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    return float(np.sqrt(1 + norms[1].eps))


def _set_modernbert_head(
    network: "Network", reflection: Float64Array, weight: Float64Array, bias: Float64Array
) -> None:
    """Let the head, which is ``out(norm(f(dense(mean))))``, bring the mean to a fixed length itself.

    The bias of ``dense`` lifts its features to where f (GELU) changes nothing, and the norm subtracts it.
    """
    from torch import nn

    model, config, n_features = network.model, network.model.config, len(reflection)
    config.classifier_pooling, config.classifier_bias = "mean", True
    scale, norm = 1024.0, model.base_model.final_norm
    # No text's mean is longer than the longest output that the encoder's last norm allows.
    longest = n_features**0.5 * float(norm.weight.abs().max())
    if norm.bias is not None:
        longest += float(norm.bias.norm())
    model.head.dense = nn.Linear(n_features, n_features)
    _set_linear(model.head.dense, scale * reflection, np.full(n_features, scale * longest + 32))
    model.head.norm.weight.fill_(1.0)
    if model.head.norm.bias is not None:
        model.head.norm.bias.zero_()
    _set_linear(model.classifier, weight, bias)


def _set_linear(layer: Any, weight: Float64Array, bias: Float64Array) -> None:
    import torch

    assert layer.weight.shape == weight.shape
    layer.weight.copy_(torch.from_numpy(weight))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(bias))


def _save(network: "Network", model: ResolvedModel, note: ModelNote, folder: Path) -> None:
    from transformers import AutoTokenizer

    from al_ray.model.encoder import quiet

    config = network.model.config
    config.id2label = dict(enumerate(note.class_names))
    config.label2id = {name: number for number, name in enumerate(note.class_names)}
    config.problem_type = "single_label_classification"
    tokenizer: Any = AutoTokenizer.from_pretrained(model.path, local_files_only=True, trust_remote_code=False)
    tokenizer.model_max_length = note.max_tokens
    with quiet():
        network.model.float().save_pretrained(folder, max_shard_size="1TB")
        tokenizer.save_pretrained(folder)
    # safetensors leaves a file to its owner alone; it is no more secret than what is beside it.
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
    note.write(folder)


def _compare(folder: Path, classifier: "RoundClassifier", name: str, examples: Mapping[int, str]) -> ExportCheck:
    """Let the folder, as transformers reads it, and the classifier score the same texts.

    Raises:
        ModelError: they differ.
    """
    assert examples, "nothing to compare on"
    ids = np.array(sorted(examples), dtype=np.int64)
    expected = classifier.predict("pool", ids, plain=True).logits[:, 0].astype(np.float64)
    found = TextScorer.open(folder, packed=False).logits([examples[int(id_)] for id_ in ids])
    difference = float(np.abs(found - expected).max())
    limit = TOLERANCE[classifier.settings.precision] * max(1.0, float(np.abs(expected).max()))
    if not difference <= limit:
        raise ModelError(
            f"the exported model scores {len(ids)} texts of the pool otherwise than the classifier that it was made of "
            f"{name!r}: logits differ by up to {difference:.3g}, and {limit:.3g} would be allowed. Nothing was "
            "written. This is an error of al_ray or of a model that is built otherwise than its name says."
        )
    n_same = int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
    return ExportCheck(n=len(ids), n_same=n_same, largest_difference=difference)
