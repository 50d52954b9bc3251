"""Scoring: class probabilities of texts by any stock classifier folder, outside a study."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from al_ray.core.types import Float32Array, Float64Array
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ModelError
from al_ray.model.source import ResolvedModel, pinned_model, resolve_model

NOTE = "al_ray.json"
NOTE_FORMAT = 1
BATCH_SIZE = {"cpu": 32, "cuda": 256}
"""Texts a forward pass, by device."""
_USUAL_MAX_TOKENS = 512
_ENDLESS = 100_000  # what tokenizers without a length of their own say is far beyond


@dataclass(frozen=True, kw_only=True)
class ModelNote:
    """What al_ray keeps beside an exported model, in ``al_ray.json``; transformers does not read it.

    Attributes:
        class_names: in label order.
        max_tokens: texts are cut to this many tokens, special tokens included.
        temperature: that logits are divided by, so that probabilities say how often they are right; None: not measured.
        n_calibrated: answers that the temperature was fitted to.
        made_from: what the model was made from: project, fingerprint, spec, versions.
    """

    class_names: tuple[str, ...]
    max_tokens: int
    temperature: float | None = None
    n_calibrated: int = 0
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into a model's folder."""
        text = json.dumps({"format": NOTE_FORMAT, **asdict(self)}, indent=2, ensure_ascii=False)
        (folder / NOTE).write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "ModelNote | None":
        """Read that of a folder, or None where there is none.

        Raises:
            ModelError: it is not what al_ray writes.
        """
        file = folder / NOTE
        if not file.is_file():
            return None
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            stored = values.pop("format")
            if stored != NOTE_FORMAT:
                raise ModelError(
                    f"{file} has format {stored!r}, this al_ray reads {NOTE_FORMAT}. Use the al_ray that wrote it, or "
                    "export the model again."
                )
            note = cls(**{**values, "class_names": tuple(values["class_names"])})
            temperature = note.temperature
            if not (isinstance(note.max_tokens, int) and note.max_tokens > 0):
                raise ValueError(f"max_tokens is {note.max_tokens!r}")
            if temperature is not None and not (isinstance(temperature, int | float) and 0 < temperature < np.inf):
                raise ValueError(f"temperature is {temperature!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{file} is not what al_ray writes: {error}. Export the model again, or delete the file: then "
                "probabilities are not calibrated."
            ) from None
        return note


class TextScorer:
    """A classifier of texts as transformers reads it from a folder, with the texts of neighbouring lengths together.

    Encoders built like BERT run without padding.

    Args:
        model: the folder, checked.
        note: what al_ray keeps beside a model that it exported; None: another model.
        device: ``cpu`` or ``cuda``.
        packed: run without padding where the encoder can; False: all as transformers wrote it.

    Raises:
        ModelError: the folder holds no classifier with one class a text, or cannot be read.
    """

    def __init__(
        self,
        model: ResolvedModel,
        note: ModelNote | None,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        packed: bool = True,
    ) -> None:
        import torch

        from al_ray.model.encoder import Network
        from al_ray.model.packed import can_pack

        self._model, self._note, self._batch_size = model, note, BATCH_SIZE[device]
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
        self._network = Network(self._classifier).eval() if can else None

    @classmethod
    def open(cls, folder: Path, **options: Any) -> "TextScorer":
        """Open a folder, with what al_ray keeps in it; options as of the class.

        Raises:
            ModelError: as of the class.
        """
        return cls(resolve_model(str(folder), None), ModelNote.read(folder), **options)

    def probabilities(self, texts: Sequence[str]) -> Float64Array:
        """Return the probability of each class ``[n, n_classes]``; calibrated where the temperature is known."""
        return self._calibrated(self.logits(texts))

    def probabilities_and_features(self, texts: Sequence[str]) -> tuple[Float64Array, Float32Array]:
        """Return the probability of each class ``[n, n_classes]``, and what the head reads ``[n, n_features]``.

        Raises:
            ModelError: the model is one whose head reads something else than one vector a text.
        """
        if not texts:
            return np.empty((0, len(self.class_names))), np.empty((0, self.n_features), np.float32)
        scores = self._scores(texts, self._whole_network, features=True)
        return self._calibrated(scores.logits[:, 0].astype(np.float64)), scores.features

    @property
    def n_features(self) -> int:
        """Width of what the head reads."""
        return int(self._classifier.config.hidden_size)

    def logits(self, texts: Sequence[str]) -> Float64Array:
        """Return the logits ``[n, n_classes]``."""
        if not texts:
            return np.empty((0, len(self.class_names)))
        if self._network is None:
            return self._padded_logits(texts).astype(np.float64)
        return self._scores(texts, self._network).logits[:, 0].astype(np.float64)

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

    def _calibrated(self, logits: Float64Array) -> Float64Array:
        temperature = 1.0 if self._note is None or self._note.temperature is None else self._note.temperature
        probs: Float64Array = np.exp(log_softmax(logits / temperature))
        return probs

    @cached_property
    def _whole_network(self) -> Any:
        from al_ray.model.encoder import Network, check_family

        check_family(self._model, self._classifier.config)
        return self._network or Network(self._classifier).eval()

    def _scores(self, texts: Sequence[str], network: Any, *, features: bool = False) -> Any:
        from al_ray.model.predict import Passes, score_rows
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
        worker, passes = Alone(self._device), Passes(features=features)
        return score_rows(network, split, rows, batch_size=self._batch_size, worker=worker, passes=passes)

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


def check_features(model: ResolvedModel) -> None:
    """Make sure, by its configuration alone, that a classifier has features that its head reads, and one class a text.

    Raises:
        ModelError: it has not, or its configuration cannot be read.
    """
    from transformers import AutoConfig

    from al_ray.model.encoder import check_family, quiet, readable

    with readable(model), quiet():
        config = AutoConfig.from_pretrained(model.path, local_files_only=True, trust_remote_code=False)
    class_names_of(model, config)
    check_family(model, config)


def pinned_scorer(model: ResolvedModel, note: ModelNote | None, *, device: Literal["cpu", "cuda"]) -> TextScorer:
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
            raise ModelError(
                f"the weights in {model.path!r} lack {len(info['missing_keys'])} tensors, such as "
                f"{min(info['missing_keys'])!r}: it is an encoder without a fitted head. Give the folder of a "
                "classifier, such as 'al-ray export' writes."
            )
    return read
