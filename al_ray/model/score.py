"""Scoring: class probabilities of texts by any stock classifier folder, outside a study."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from al_ray.core.types import Float64Array
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ModelError
from al_ray.model.export import ModelNote
from al_ray.model.source import ResolvedModel, pinned_model, resolve_model

if TYPE_CHECKING:
    from al_ray.model.encoder import Network

BATCH_SIZE = 32
_USUAL_MAX_TOKENS = 512
_ENDLESS = 100_000  # what tokenizers without a length of their own say is far beyond


class TextScorer:
    """A classifier of texts as transformers reads it from a folder, with the texts of neighbouring lengths together.

    Encoders built like BERT run without padding.

    Args:
        model: the folder, checked.
        note: what al_ray keeps beside a model that it exported; None: another model.
        device: ``cpu`` or ``cuda``.
        batch_size: texts a forward pass.
        packed: run without padding where the encoder can; False: all as transformers wrote it.

    Raises:
        ModelError: the folder holds no classifier with one class a text, or cannot be read.
    """

    def __init__(
        self,
        model: ResolvedModel,
        note: ModelNote | None,
        *,
        device: str = "cpu",
        batch_size: int = BATCH_SIZE,
        packed: bool = True,
    ) -> None:
        import torch

        from al_ray.model.encoder import Network
        from al_ray.model.packed import can_pack

        self._model, self._note, self._batch_size = model, note, batch_size
        self._device = torch.device(device)
        read: Any = _read_classifier(model, self._device)
        self.class_names: tuple[str, ...] = class_names_of(model, read.config)
        if note is not None and note.class_names != self.class_names:
            raise ModelError(
                f"{model.path}: al_ray.json names the classes {list(note.class_names)[:8]}, config.json "
                f"{list(self.class_names)[:8]}. They belong to two models: export the model again."
            )
        self._classifier = read.to(self._device).eval().requires_grad_(False)
        can = packed and can_pack(read.config) and read.config.pad_token_id is not None
        self._network: Network | None = Network(self._classifier).eval() if can else None

    @classmethod
    def open(cls, folder: Path, **options: Any) -> "TextScorer":
        """Open a folder, with what al_ray keeps in it; options as of the class.

        Raises:
            ModelError: as of the class.
        """
        return cls(resolve_model(str(folder), None), ModelNote.read(folder), **options)

    def probabilities(self, texts: Sequence[str]) -> Float64Array:
        """Return the probability of each class ``[n, n_classes]``, calibrated where the model's temperature is known."""
        temperature = 1.0 if self._note is None or self._note.temperature is None else self._note.temperature
        probs: Float64Array = np.exp(log_softmax(self.logits(texts) / temperature))
        return probs

    def logits(self, texts: Sequence[str]) -> Float64Array:
        """Return the logits ``[n, n_classes]``."""
        if not texts:
            return np.empty((0, len(self.class_names)))
        found = self._packed_logits(texts) if self._network is not None else self._padded_logits(texts)
        return found.astype(np.float64)

    @cached_property
    def max_tokens(self) -> int:
        """Tokens that texts are cut to, special ones included."""
        if self._note is not None:
            return self._note.max_tokens
        own = self._tokenizer.model_max_length
        places = getattr(self._classifier.config, "max_position_embeddings", None) or _USUAL_MAX_TOKENS
        return int(own) if own < _ENDLESS else min(int(places), _USUAL_MAX_TOKENS)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        from al_ray.model.tokens import load_tokenizer

        load_tokenizer(self._model, 8)  # says what is wrong with the files
        return AutoTokenizer.from_pretrained(self._model.path, local_files_only=True, trust_remote_code=False)

    def _packed_logits(self, texts: Sequence[str]) -> Any:
        from al_ray.model.predict import score_rows
        from al_ray.model.tokens import TokenizedSplit, load_tokenizer, tokenize
        from al_ray.model.worker import Alone

        tokens = tokenize(texts, load_tokenizer(self._model, self.max_tokens))
        rows = np.arange(len(texts))
        split = TokenizedSplit(
            ids=rows,
            labels=np.zeros_like(rows),
            tokens=tokens.flatten().to_numpy(),
            offsets=tokens.offsets.to_numpy().astype(np.int64),
        )
        assert self._network is not None
        scores = score_rows(self._network, split, rows, batch_size=self._batch_size, worker=Alone(self._device))
        return scores.logits[:, 0]

    def _padded_logits(self, texts: Sequence[str]) -> Any:
        import torch

        from al_ray.model.predict import plan_batches

        encoded = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        found = np.empty((len(texts), len(self.class_names)), dtype=np.float32)
        with torch.inference_mode():
            for rows in plan_batches(lengths, self._batch_size):
                picked = {name: [values[row] for row in rows] for name, values in encoded.items()}
                batch = self._tokenizer.pad(picked, return_tensors="pt").to(self._device)
                found[rows] = self._classifier(**batch).logits.float().cpu().numpy()
        return found


def class_names_of(model: ResolvedModel, config: Any) -> tuple[str, ...]:
    """Return the names of the classes of a classifier in label order.

    Raises:
        ModelError: it does not put each text into one of several classes.
    """
    n_classes = int(config.num_labels)
    if n_classes < 2 or config.problem_type in ("regression", "multi_label_classification"):
        kind = config.problem_type or "one output"
        raise ModelError(
            f"model {model.path!r} does not put each text into one class ({kind}, {n_classes} output(s)), so there is "
            "no prediction to write. Use a classifier with at least two classes."
        )
    return tuple(str(config.id2label[number]) for number in range(n_classes))


def pinned_scorer(model: ResolvedModel, note: ModelNote | None, *, device: str) -> TextScorer:
    """Open a model on a machine of a cluster, after making sure that it is the same there.

    Raises:
        ModelError: it is not there, or other files are.
    """
    found = pinned_model(model.name, model.revision, model.sha256, model.settings_sha256)
    return TextScorer(replace(model, path=found.path), note, device=device)


def _read_classifier(model: ResolvedModel, device: Any) -> Any:
    """Read a classifier with all its weights.

    Raises:
        ModelError: it cannot be read, or has no head.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from al_ray.model.encoder import fork_random, quiet, readable
    from al_ray.model.packed import WRITTEN_OUT

    # As in a study: where no kernel is faster, attention is written out.
    attention = {"attn_implementation": "eager"} if device.type in WRITTEN_OUT else {}
    with readable(model), quiet(), fork_random(torch.device("cpu"), 0):
        read, info = AutoModelForSequenceClassification.from_pretrained(
            model.path,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **attention,
        )
        if info["missing_keys"]:
            lacking = sorted(info["missing_keys"])
            raise ModelError(
                f"the weights in {model.path!r} lack {lacking[0]!r}{f' and {len(lacking) - 1} more' if lacking[1:] else ''}"
                ": it is an encoder without a fitted head. Give the folder of a classifier, such as 'al-ray export' "
                "writes."
            )
    return read
