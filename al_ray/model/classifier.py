"""The classifier of a cell: fitted from fresh weights every round, then scored over pool and test."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from al_ray.core.seeding import stream, stream_seed
from al_ray.core.types import Embedded, Float32Array, IntArray, LabeledSet, ModelOutputs, Sampling, Split
from al_ray.errors import ModelError, RoundError
from al_ray.model.encoder import build_network, load_weights, longest_text
from al_ray.model.finetune import FitReport, FitSettings, finetune
from al_ray.model.layers import check_frozen_layers, encoder_layers
from al_ray.model.lora import add_adapters
from al_ray.model.predict import (
    NetworkRecipe,
    Passes,
    Scores,
    ScoringJob,
    as_scored,
    copied_weights,
    hidden_states,
    score_rows,
)
from al_ray.model.recipe import folds
from al_ray.model.source import ResolvedModel
from al_ray.model.tokens import HiddenStates, TokenizedSplit
from al_ray.model.worker import Alone, Worker

Embeddings = Callable[[], Mapping[Embedded, Float32Array]]
"""Gives the embeddings of the pretrained encoder: split -> ``[n, n_features]``, by ascending id; maybe of classes."""


def no_embeddings() -> Mapping[Embedded, Float32Array]:
    """Stand for embeddings in a cell of which nothing reads any."""
    raise AssertionError("this cell was not given embeddings")


class RoundClassifier(ABC):
    """Fits the models of a round and asks them: one, the members of an ensemble, or one a fold.

    Nothing carries over from round to round but memory: every fit starts from fresh weights, and every random draw
    comes from a stream named by seed and round. The members of an ensemble are dealt to the workers, which fit and
    score them side by side, each on its own; so a cell's ensemble is the same on any number of workers.

    Args:
        settings: of every fit.
        worker: this process; every rank makes the same calls.
        sampling: how predictions are repeated or changed.
        new_plain_loss: gives the loss of one fit of the plain model, see ``al_ray.confidence.Loss``; None: cross
            entropy.
        ids: of the examples of each split, ascending.
        embeddings: gives those of the pretrained encoder.
    """

    def __init__(
        self,
        *,
        settings: FitSettings,
        worker: Worker,
        sampling: Sampling,
        new_plain_loss: Callable[[], Callable[..., Any] | None],
        ids: Mapping[Split, IntArray],
        embeddings: Embeddings,
    ) -> None:
        self._worker, self._sampling = worker, sampling
        self._settings, self._plain = settings, replace(settings, new_loss=new_plain_loss)
        self._ids, self._embeddings = ids, embeddings
        self._fitted: int | None = None
        self._n_fitted = 0
        self._unfitted: frozenset[str] = frozenset()
        self._members: dict[int, list[torch.Tensor]] = {}

    @abstractmethod
    def _fit(
        self,
        labeled: LabeledSet,
        settings: FitSettings,
        round_index: int,
        worker: Worker,
        part: tuple[str | int, ...],
        watched: IntArray | None,
    ) -> FitReport:
        """Fit fresh weights, which :meth:`_score` uses from then on; ``part`` names a member or a fold."""

    @abstractmethod
    def _score(self, split: Split, ids: IntArray, passes: Passes, worker: Worker) -> Scores:
        """Score examples given by ascending id with the present weights."""

    @abstractmethod
    def _weights(self) -> list[torch.Tensor]:
        """Return the weights that :meth:`_score` uses, not copied."""

    @abstractmethod
    def _named_weights(self) -> dict[str, torch.Tensor]:
        """Return the weights of the last fit by name as they were trained, in the order of :meth:`_weights`."""

    @property
    def settings(self) -> FitSettings:
        """Settings of every fit."""
        return self._settings

    def plain_weights(self) -> dict[str, torch.Tensor]:
        """Return what ``predict(plain=True)`` computes with, by name: float32 on the CPU, a copy.

        Of an ensemble these are its first member's, which rank 0 has. What frozen layers are computed from is not here:
        it stays as it was before any fit.
        """
        assert self._fitted is not None, "weights before finetune"
        named = self._named_weights()
        values = named.values() if self._n_fitted == 1 else self._members[0]
        pairs = zip(named, values, strict=True)
        fitted = ((name, value) for name, value in pairs if name not in self._unfitted)
        return {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in fitted}

    def finetune(
        self, labeled: LabeledSet, *, round_index: int, plain: bool = False, watched: IntArray | None = None
    ) -> FitReport:
        """Fit fresh weights to the answers so far; afterwards :meth:`predict` uses them.

        Arguments as of ``al_ray.loop.ports.Classifier``.

        Returns:
            how the fit went; of an ensemble that of its first member.

        Raises:
            RoundError: nothing is labelled, or the loss is not finite any more.
        """
        settings = self._plain if plain else self._settings
        self._members = {}
        if self._worker.helpers is not None:
            self._worker.helpers.prepare()
        if plain or self._sampling.n_members == 1:
            report = self._fit(labeled, settings, round_index, self._worker, (), watched)
            self._n_fitted = 1
        else:
            report = self._fit_members(labeled, settings, round_index, watched)
        self._fitted = round_index
        return report

    def predict(
        self,
        split: Split,
        ids: IntArray,
        *,
        plain: bool = False,
        with_features: bool = False,
        with_logits_without_dropout: bool = False,
    ) -> ModelOutputs:
        """Score some examples with the weights of the last fit; every rank returns the same.

        Args:
            split: where the examples are.
            ids: which ``[n]``, unique, in any order.
            plain: one pass through the first member, without dropout or a changed attention.
            with_features: also return what the head reads of each text, of the first member.
            with_logits_without_dropout: also return the logits without dropout, of the first member.

        Returns:
            outputs sorted by id, float32.

        Raises:
            RoundError: a logit is not finite.
        """
        assert self._fitted is not None, "predict before finetune"
        ids = np.sort(ids)
        sampling = Sampling() if plain else replace(self._sampling, n_members=1)
        passes = Passes(
            sampling=sampling,
            seed=stream_seed(self._settings.seed, "round", self._fitted, "draws"),
            features=with_features,
            logits_without_dropout=with_logits_without_dropout and not plain,
        )
        if self._n_fitted > 1:
            scores = self._score_members(split, ids, passes, [0] if plain else range(self._sampling.n_members))
        else:
            scores = self._score(split, ids, passes, self._worker)
        return ModelOutputs(
            ids=ids,
            logits=scores.logits,
            features=scores.features,
            logits_without_dropout=scores.logits_without_dropout,
        )

    def cross_predict(self, labeled: LabeledSet, *, n_folds: int, round_index: int) -> ModelOutputs:
        """Return out-of-fold logits of the labelled examples, each from a fit that did not see it.

        The only example of a class is in every fit and in no fold, so it is left out.

        Raises:
            RoundError: the loss of a fit is not finite any more.
        """
        names = ("round", round_index, "folds")
        fold = folds(labeled.labels, n_folds, stream(self._settings.seed, *names))
        found: list[tuple[IntArray, Scores]] = []
        for number in range(n_folds):
            held = fold == number
            if held.any():
                rest = LabeledSet(ids=labeled.ids[~held], labels=labeled.labels[~held])
                self._fit(rest, self._settings, round_index, self._worker, ("fold", number), None)
                ids = np.sort(labeled.ids[held])
                found.append((ids, self._score("pool", ids, Passes(), self._worker)))
        self._fitted = None
        ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in found)])
        nothing = np.empty((0, 1, self._settings.n_classes), np.float32)
        logits = np.concatenate([nothing, *(scores.logits for _, scores in found)])
        order = np.argsort(ids)
        return ModelOutputs(ids=ids[order], logits=logits[order])

    def embeddings(self, of: Embedded) -> Float32Array:
        """Return mean embeddings of the encoder as it was pretrained ``[n, n_features]``, unit length, by id."""
        return self._embeddings()[of]

    def _fit_members(
        self, labeled: LabeledSet, settings: FitSettings, round_index: int, watched: IntArray | None
    ) -> FitReport:
        """Fit this worker's share of the members, alone; the first member has the streams of a single model."""
        alone = Alone(self._worker.device)
        reports: dict[int, FitReport] = {}
        problem: str | None = None
        try:
            for member in self._my_members(range(self._sampling.n_members)):
                part = ("member", member) if member else ()
                watch = watched if member == 0 else None
                reports[member] = self._fit(labeled, settings, round_index, alone, part, watch)
                self._members[member] = [value.detach().clone() for value in self._weights()]
        except RoundError as error:
            problem = str(error)
        self._agree(problem)
        self._n_fitted = self._sampling.n_members
        report: FitReport = self._worker.broadcast(reports.get(0))
        return report

    def _agree(self, problem: str | None) -> None:
        """Fail on every worker where one failed, so that none waits for it.

        Raises:
            RoundError: the fit of a member failed.
        """
        texts = [self._worker.rank, *(problem or "").encode()]
        gathered = self._worker.all_gather(np.array(texts, dtype=np.int64))
        for rank_and_text in gathered:
            if len(rank_and_text) > 1:
                raise RoundError(bytes(rank_and_text[1:].astype(np.uint8)).decode())

    def _my_members(self, members: Iterable[int]) -> list[int]:
        return [member for member in members if member % self._worker.world == self._worker.rank]

    def _score_members(self, split: Split, ids: IntArray, passes: Passes, members: Sequence[int]) -> Scores:
        """Score with each worker's own members, whole pool each, and put the members side by side as draws."""
        # The only worker of a cell may be helped; of several, each scores other members.
        alone = self._worker if self._worker.world == 1 else Alone(self._worker.device)
        mine = self._my_members(members)
        scores: list[Scores] = []
        for member in mine:
            with torch.no_grad():
                torch._foreach_copy_(self._weights(), self._members[member])
            first = replace(
                passes,
                features=passes.features and member == 0,
                logits_without_dropout=passes.logits_without_dropout and member == 0,
            )
            own_seed = stream_seed(passes.seed, "member", member)
            scores.append(self._score(split, ids, replace(first, seed=own_seed), alone))
        shape = (len(ids), passes.sampling.n_passes, self._settings.n_classes)
        stacked = np.stack([score.logits for score in scores]) if scores else np.empty((0, *shape), np.float32)
        numbers = np.concatenate(self._worker.all_gather(np.array(mine, dtype=np.int64)))
        draws = np.concatenate(self._worker.all_gather(stacked))[np.argsort(numbers)]
        logits = draws.transpose(1, 0, 2, 3).reshape(len(ids), -1, shape[2])
        at_first = scores[0] if 0 in mine else None
        features, without_dropout = self._worker.broadcast(
            (at_first.features, at_first.logits_without_dropout) if at_first else (None, None)
        )
        return Scores(logits=logits, features=features, logits_without_dropout=without_dropout)


class TransformerClassifier(RoundClassifier):
    """A text classifier whose encoder is fine-tuned, the frozen layers aside.

    Args:
        model: where the pretrained encoder lies.
        init: ``random`` draws all weights instead, the control for what pretraining contributes.
        settings: of every fit; with bf16 the classifier scores with a bf16 copy.
        pool: the split that labelled examples come from.
        test: the split that is evaluated.
        hidden: what the frozen layers put out at the tokens of each split, see
            :func:`al_ray.model.predict.hidden_states`; None: where layers are frozen, it is computed here.
        hidden_key: what the pool calls that; without it nobody helps where layers are frozen.
        worker, sampling, new_plain_loss, embeddings: as of :class:`RoundClassifier`.

    Raises:
        ModelError: the model cannot be read, or cannot read texts this long, or its attention cannot be changed.
        ConfigError: more frozen layers than the encoder has, or adapters for which it has no place.
    """

    def __init__(
        self,
        *,
        model: ResolvedModel,
        init: Literal["pretrained", "random"],
        settings: FitSettings,
        pool: TokenizedSplit,
        test: TokenizedSplit,
        worker: Worker,
        hidden: Mapping[Split, HiddenStates] | None = None,
        hidden_key: str | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        new_plain_loss: Callable[[], Callable[..., Any] | None] = lambda: None,
        embeddings: Embeddings = no_embeddings,
    ) -> None:
        super().__init__(
            settings=settings,
            worker=worker,
            sampling=sampling,
            new_plain_loss=new_plain_loss,
            ids={"pool": np.sort(pool.ids), "test": np.sort(test.ids)},
            embeddings=embeddings,
        )
        self._model, self._init, self._hidden_key = model, init, hidden_key
        self._splits: dict[Split, TokenizedSplit] = {"pool": pool, "test": test}
        self._network = build_network(model, settings.n_classes, worker.device)
        self._check_lengths()
        self._check_attention()
        self._freeze(settings.recipe.n_frozen, hidden)
        named = self._network.model.named_parameters()
        self._unfitted = frozenset(name for name, value in named if not value.requires_grad)
        if settings.recipe.lora is not None:
            add_adapters(self._network, settings.recipe.lora)
        self._scorer = as_scored(self._network, settings.precision)

    def _freeze(self, n_frozen: int, hidden: Mapping[Split, HiddenStates] | None) -> None:
        """Take the frozen layers out of the network, and lay what they put out beside the tokens."""
        check_frozen_layers(n_frozen, len(encoder_layers(self._network.model.base_model)))
        if n_frozen == 0:
            return
        if hidden is None:
            seed = stream_seed(self._settings.seed, "embed") if self._init == "random" else 0
            load_weights(self._network, self._model, self._init, seed)
            whole = as_scored(self._network, self._settings.precision)
            sizes = {"n_layers": n_frozen, "batch_size": self._settings.scoring_batch_size}
            device = self._worker.device
            hidden = {name: hidden_states(whole, split, device=device, **sizes) for name, split in self._splits.items()}
        self._splits = {name: replace(split, hidden=hidden[name]) for name, split in self._splits.items()}
        self._network.freeze(n_frozen)

    def _fit(
        self,
        labeled: LabeledSet,
        settings: FitSettings,
        round_index: int,
        worker: Worker,
        part: tuple[str | int, ...],
        watched: IntArray | None,
    ) -> FitReport:
        seed = stream_seed(settings.seed, "round", round_index, *part, "finetune")
        load_weights(self._network, self._model, self._init, seed)
        report = finetune(
            self._network,
            self._splits["pool"],
            labeled,
            settings,
            round_index=round_index,
            worker=worker,
            part=part,
            watched=watched,
        )
        self._finish()
        return report

    def _finish(self) -> None:
        """Make the network, and its copy of low precision, ready to predict."""
        self._network.eval()
        if self._scorer is not self._network:
            with torch.no_grad():
                torch._foreach_copy_(list(self._scorer.parameters()), list(self._network.parameters()))

    def _score(self, split: Split, ids: IntArray, passes: Passes, worker: Worker) -> Scores:
        texts, settings = self._splits[split], self._settings
        rows, n_frozen = texts.rows(ids), settings.recipe.n_frozen

        def make_job() -> ScoringJob:
            return ScoringJob(
                network=NetworkRecipe(
                    model=self._model,
                    n_classes=settings.n_classes,
                    n_frozen=n_frozen,
                    lora=settings.recipe.lora,
                    precision=settings.precision,
                ),
                weights=copied_weights(self._scorer),
                split=split,
                hidden=self._hidden_key,
                rows=rows,
                batch_size=settings.scoring_batch_size,
                passes=passes,
            )

        return score_rows(
            self._scorer,
            texts,
            rows,
            batch_size=settings.scoring_batch_size,
            worker=worker,
            passes=passes,
            make_job=None if n_frozen and self._hidden_key is None else make_job,
        )

    def _weights(self) -> list[torch.Tensor]:
        return list(self._scorer.parameters())

    def _named_weights(self) -> dict[str, torch.Tensor]:
        return dict(self._network.model.named_parameters())

    def _check_attention(self) -> None:
        if self._sampling.adaptive_attention and not self._network.packs:
            raise ModelError(
                f"the attention of model {self._model.name!r} cannot be changed at prediction: that is written for "
                "encoders built like BERT. Use 'where: logits'."
            )

    def _check_lengths(self) -> None:
        limit = longest_text(self._network)
        for name, split in self._splits.items():
            longest = int(split.lengths.max(initial=0))
            if limit is not None and longest > limit:
                raise ModelError(
                    f"a text of the {name} split has {longest} tokens, but model {self._model.name!r} reads {limit} at "
                    f"most. Set max_tokens to {limit} or less."
                )
