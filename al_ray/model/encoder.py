"""The network: an encoder with a classification head, and where its weights come from at the start of a round."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from al_ray.core.seeding import stream_seed
from al_ray.errors import ModelError
from al_ray.model.layers import GoneLayer, drop_layers
from al_ray.model.lora import draw_adapters, is_adapter, name_without_adapters
from al_ray.model.packed import (
    WRITTEN_OUT,
    Pooling,
    TokenBatch,
    can_pack,
    packed_features,
    packed_states,
    padded_features,
    padded_states,
)
from al_ray.model.source import ResolvedModel

# The library switches initialisation off for the whole process; two threads at it would leave weights undrawn.
_INITIALISING = threading.Lock()
POSITION_TABLES = ("position_embeddings", "embed_positions")
# What 'classifier_pooling' of a configuration stands for; most have none and read the first token.
POOLINGS: Mapping[str | None, Pooling] = {
    None: "first_token",
    "cls": "first_token",
    "bos": "first_token",
    "mean": "mean",
}
OUT_OF_MEMORY = "can't allocate memory"
"""What torch says on a CPU, with no type of its own."""
USE_AN_ENCODER = "Use an encoder such as BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, MPNet, DeBERTa or ModernBERT."


class Network(nn.Module):
    """A transformer encoder with a classification head over one vector a text.

    Args:
        model: the sequence classifier as transformers builds it.

    Attributes:
        pooling: what the head reads of the encoder's output, and so what features are: the first token, or, where the
            configuration says so (ModernBERT, EuroBERT), the mean over a text's tokens.
        packs: whether the encoder is one that runs without padding.
        n_frozen: lowest layers that are gone, whose output batches bring.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.packs = can_pack(model.config)
        self.pooling = head_pooling(model.config)
        self.adaptive_attention = False
        self.n_frozen = 0
        self._frozen: GoneLayer | None = None
        self.pad_id = int(model.config.pad_token_id)
        self.head_dropouts = _share_head_dropouts(model)

    def forward(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Return logits ``[n_texts, n_classes]`` and the features that they come from ``[n_texts, n_features]``."""
        features = self.encode(batch, self.pooling)
        return self.head(features), features

    def encode(self, batch: TokenBatch, pooling: Pooling) -> Tensor:
        """Return the encoder's output for each text ``[n_texts, n_features]``: at the first token, or the mean."""
        if self.n_frozen:
            batch = self._without_words(batch)
        if self.packs:
            adaptive = self.adaptive_attention
            return packed_features(self.model, batch, pooling=pooling, adaptive=adaptive, n_frozen=self.n_frozen)
        return padded_features(self.model.base_model, batch, self.pad_id, pooling=pooling, frozen=self._frozen)

    def states(self, batch: TokenBatch, n_layers: int) -> Tensor:
        """Return what the lowest layers, at least one, put out at each token ``[n_tokens, n_features]``."""
        if self.packs:
            return packed_states(self.model, batch, n_layers)
        return padded_states(self.model.base_model, batch, self.pad_id, n_layers)

    def freeze(self, n_layers: int) -> None:
        """Take the lowest layers out for good, at least one: from now on batches bring what they put out."""
        self._frozen = drop_layers(self.model.base_model, self.word_embeddings, n_layers, self.pad_id)
        self.n_frozen = n_layers

    def _without_words(self, batch: TokenBatch) -> TokenBatch:
        """Let all words be one, and hidden states have the type of the weights."""
        assert batch.hidden is not None, "the batch does not bring the output of the frozen layers"
        tokens = batch.tokens.clamp(max=self.word_embeddings.num_embeddings - 1)
        return replace(batch, tokens=tokens, hidden=batch.hidden.to(self.dtype))

    def head(self, features: Tensor) -> Tensor:
        """Return the logits ``[n_texts, n_classes]`` of texts whose features are known; the encoder does not run.

        The head is the classifier's own code, which is shown texts of one token whose output is known: their first
        token is their mean.
        """
        hidden = features[:, None].to(self.dtype)  # a mean comes in float32 whatever the weights are in
        classifier = copy.copy(self.model)  # the same modules, but for the one whose answer is known
        classifier._modules = {
            **self.model._modules,
            self.model.base_model_prefix: _known(self.model.base_model, hidden),
        }
        ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=features.device)
        logits: Tensor = classifier(input_ids=ids).logits
        return logits

    def embed(self, batch: TokenBatch) -> Tensor:
        """Return the mean of the encoder's output over each text's tokens, at unit length ``[n_texts, n_features]``."""
        return nn.functional.normalize(self.encode(batch, "mean").float(), dim=1)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    @property
    def n_features(self) -> int:
        """Width of the encoder's output."""
        return int(self.model.config.hidden_size)

    @contextlib.contextmanager
    def dropping(self, where: Literal["network", "head"], rate: float | None) -> Iterator[None]:
        """Let dropout act within a block although nothing is trained.

        Args:
            where: in all layers with independent masks, or in the head alone with one mask for all texts.
            rate: share that is dropped; None = as trained.
        """
        places = self.dropout_places()
        trained_with = [getattr(*place) for place in places]
        for part in (self,) if where == "network" else self.head_dropouts:
            part.train()
        for place in places if rate is not None else ():
            setattr(*place, rate)
        for dropout in self.head_dropouts:
            dropout.shared = where == "head"
        try:
            yield
        finally:
            self.eval()
            for place, trained in zip(places, trained_with, strict=True):
                setattr(*place, trained)
            for dropout in self.head_dropouts:
                dropout.shared = False

    def dropout_places(self) -> list[tuple[nn.Module, str]]:
        """Return the modules that drop, each with the name of its attribute that says which share."""
        found = [(part, "p" if isinstance(part, nn.Dropout) else "attention_dropout") for part in self.modules()]
        return [(part, name) for part, name in found if isinstance(getattr(part, name, None), float | int)]

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The vectors of the vocabulary ``[n_words, n_features]``."""
        embeddings: nn.Embedding = self.model.get_input_embeddings()
        return embeddings


def _known(encoder: Any, hidden: Tensor) -> Callable[..., Any]:
    """Return what answers like an encoder, with an output that is known ``[n_texts, n_tokens, n_features]``."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    def answer(*args: Any, **options: Any) -> Any:
        pooler, activation = getattr(encoder, "pooler", None), getattr(encoder, "pooler_activation", None)
        pooled = None
        if pooler is not None:
            # ALBERT's pooler is a bare product over the first token; the others pick the token themselves.
            pooled = pooler(hidden) if activation is None else activation(pooler(hidden[:, 0]))
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    return answer


def head_pooling(config: Any) -> Pooling:
    """Return what of the encoder's output a classification head of this configuration reads."""
    return POOLINGS[getattr(config, "classifier_pooling", None)]


class HeadDropout(nn.Dropout):
    """Dropout that can use one mask for all texts: then a pass is one thinned head, the same for every example."""

    shared = False

    def forward(self, input: Tensor) -> Tensor:
        """Drop features ``[..., n_features]``."""
        if not (self.shared and self.training):
            return super().forward(input)
        mask = torch.bernoulli(torch.full(input.shape[-1:], 1 - self.p, device=input.device))
        return input * (mask / (1 - self.p)).to(input.dtype)


def _share_head_dropouts(model: Any) -> tuple[HeadDropout, ...]:
    """Put a :class:`HeadDropout` in the place of every dropout outside the encoder."""
    encoder = {id(part) for part in model.base_model.modules()}
    found = [(name, part) for name, part in model.named_modules()
             if isinstance(part, nn.Dropout) and id(part) not in encoder]  # fmt: skip
    for name, part in found:
        model.set_submodule(name, HeadDropout(part.p))
    return tuple(model.get_submodule(name) for name, _ in found)


def build_network(model: ResolvedModel, n_classes: int, device: torch.device) -> Network:
    """Build the network of a model without any weights; :func:`load_weights` gives it some.

    Args:
        model: whose configuration is read.
        n_classes: of the data set.
        device: where it computes; on ``meta`` it has shapes and no memory.

    Raises:
        ModelError: the configuration cannot be read, or describes no encoder that can classify.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.initialization import no_init_weights

    # Elsewhere the library chooses: a fused kernel where the architecture has one.
    attention = {"attn_implementation": "eager"} if device.type in WRITTEN_OUT else {}
    place = device if device.type == "meta" else torch.device("cpu")
    with _INITIALISING, readable(model), quiet(), no_init_weights(), place:
        # Left open, the library asks on the terminal whether it may run code of the model's own.
        config = AutoConfig.from_pretrained(
            model.path, num_labels=n_classes, local_files_only=True, trust_remote_code=False
        )
        check_family(model, config)
        built = AutoModelForSequenceClassification.from_config(
            config, dtype=torch.float32, trust_remote_code=False, **attention
        )
        network = Network(built)
    return network.to(device)  # out of the block: where a GPU is full, that is not the model's fault


def check_family(model: ResolvedModel, config: Any) -> None:
    """Refuse by name what is no encoder with a head over its first token.

    Raises:
        ModelError: no head at all, a decoder, an encoder-decoder, or no padding token.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    )

    family, kind = config.model_type, type(config)
    reason = None
    if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        reason = f"transformers has no classifier of texts for {family}."
    elif config.is_encoder_decoder:
        reason = f"{family} is an encoder-decoder, whose class is read off the last token that the decoder is shown."
    elif kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING:
        reason = f"{family} is a decoder, made to write on from a text; its class is read off the last token."
    if reason is not None:
        raise ModelError(f"model {model.name!r} cannot be used: {reason} {USE_AN_ENCODER}")
    pooling = getattr(config, "classifier_pooling", None)
    if pooling not in POOLINGS:
        raise ModelError(
            f"model {model.name!r} cannot be used as it is: classifier_pooling in its config.json is {pooling!r}, so a "
            "text's class is read off neither its first token nor the mean of its tokens. Set it to 'mean' in a copy "
            "of the folder."
        )
    if getattr(config, "pad_token_id", None) is None:
        raise ModelError(
            f"model {model.name!r} names no padding token, so texts of different lengths cannot share a batch. Write "
            "its tokenizer's padding id as 'pad_token_id' into config.json."
        )


def longest_text(network: Network) -> int | None:
    """Return how many tokens of a text the encoder can read, or None where its positions have no end.

    Its table of positions says so. Where that has a padding id, positions are counted from behind it.
    """
    tables = (part for name, part in network.model.base_model.named_modules() if name.endswith(POSITION_TABLES))
    return min(map(_n_places, tables), default=None)


def _n_places(table: Any) -> int:
    padding: int | None = getattr(table, "padding_idx", None)
    return len(table.weight) - (0 if padding is None else padding + 1)


def load_weights(network: Network, model: ResolvedModel, init: Literal["pretrained", "random"], seed: int) -> None:
    """Give every weight its value at the start of a fine-tune.

    Pretrained weights come from memory, where they stay once read. What a checkpoint lacks, always including the head,
    is drawn by the architecture's own initialisation; with ``init="random"`` that is everything.

    Raises:
        ModelError: the weights cannot be read or are not those of the encoder.
    """
    body = read_encoder(model.path, model.sha256) if init == "pretrained" else {}
    prefix = f"{network.model.base_model_prefix}."
    stored = {name: name_without_adapters(name.removeprefix(prefix)) for name, _ in network.model.named_parameters()}
    kept = {name: value for name, value in network.model.named_parameters() if stored[name] in body}
    with torch.no_grad():
        for name, value in kept.items():
            value.copy_(body[stored[name]])
    _draw_missing(network.model, kept, seed)
    draw_adapters(network.model, stream_seed(seed, "lora"))


def draw_weights(network: Network, seed: int) -> None:
    """Give a network without memory some on the CPU, with random weights that make every word tell.

    They are wider than those that training starts from, whatever the configuration says.
    """
    network.to_empty(device="cpu")
    with _INITIALISING, fork_random(torch.device("cpu"), seed), torch.no_grad():
        network.model.initialize_weights()  # also computes what is no weight, such as numbers of positions
        for value in network.parameters():
            if value.dim() > 1:
                value.normal_(std=value.shape[-1] ** -0.5)


def _draw_missing(model: Any, kept: Mapping[str, Tensor], seed: int) -> None:
    with _INITIALISING, fork_random(torch.device("cpu"), seed), torch.no_grad():
        for path, part in model.named_modules():
            names = [f"{path}.{name}".lstrip(".") for name, _ in part.named_parameters(recurse=False)]
            if any(name not in kept and not is_adapter(name) for name in names):
                # Drawn on the CPU, so that every device starts from the same values.
                draft = copy.deepcopy(part).cpu()
                model._init_weights(draft)
                for value, drawn in zip(part.parameters(recurse=False), draft.parameters(recurse=False), strict=True):
                    value.copy_(drawn)


@contextlib.contextmanager
def fork_random(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's generators within a block and put them back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@lru_cache(maxsize=4)
def read_encoder(path: str, sha256: str) -> Mapping[str, Tensor]:
    """Read the pretrained encoder of a checkpoint, float32 on the CPU; once per process.

    Args:
        path: the model's folder.
        sha256: of its weights, so that a changed file is read again.

    Raises:
        ModelError: damaged weights, or weights of another architecture.
    """
    from transformers import AutoModel

    model = ResolvedModel(name=path, revision=None, path=path, sha256=sha256)
    with readable(model), quiet(), fork_random(torch.device("cpu"), 0):
        encoder, info = AutoModel.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = set(info["missing_keys"])
    unexplained = sorted(name for name in missing if "pooler" not in name)
    if unexplained:
        raise ModelError(
            f"the weights in {path!r} lack {len(unexplained)} of the encoder's {len(encoder.state_dict())} tensors "
            f"(such as {unexplained[0]!r}). They belong to another configuration, or are cut short; save them again."
        )
    return {name: value.detach() for name, value in encoder.named_parameters() if name not in missing}


@contextlib.contextmanager
def readable(model: ResolvedModel) -> Iterator[None]:
    """Say which model it was when a library cannot read it; a file from a stranger may raise anything there."""
    try:
        yield
    except (MemoryError, ModelError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if OUT_OF_MEMORY in str(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model {model.name!r} in {model.path!r} cannot be read: {reason} "
            "The folder must hold a complete encoder that transformers knows; copy or save it again."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing load reports and progress bars."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    restore: Callable[[], None] = logging.enable_progress_bar if bars else logging.disable_progress_bar
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        restore()
