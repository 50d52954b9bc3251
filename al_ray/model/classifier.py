"""The classifier that the active-learning loop asks: fine-tuned afresh every round, then scored over pool and test."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from al_ray.core.seeding import stream_seed
from al_ray.core.types import IntArray, LabeledSet, ModelOutputs
from al_ray.errors import ModelError
from al_ray.model.encoder import Network, build_network, freeze_layers, load_weights, longest_text
from al_ray.model.finetune import FitReport, FitSettings, cross_entropy, finetune
from al_ray.model.predict import score_rows
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import ResolvedModel
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Worker


class TransformerClassifier:
    """A text classifier for one cell.

    Nothing carries over from round to round but memory: every fit starts from the pretrained weights, and every random
    draw comes from a stream named by seed and round.

    Args:
        model: where the pretrained encoder lies.
        init: ``random`` draws all weights instead, the control for what pretraining contributes.
        recipe: how to fine-tune.
        precision: bf16 fine-tunes with bf16 matrix products over float32 weights and scores with a bf16 copy.
        scoring_batch_size: texts in a scoring batch.
        n_classes: of the data set.
        pool: the split that labelled examples come from.
        test: the split that is evaluated.
        seed: of the cell.
        worker: this process; every rank makes the same calls.
        loss: ``(logits [n, n_classes], targets [n], epoch) -> losses [n]``; cross entropy where None.

    Raises:
        ModelError: the model cannot be read, or cannot read texts this long.
        ConfigError: more frozen layers than the encoder has.
    """

    def __init__(
        self,
        *,
        model: ResolvedModel,
        init: Literal["pretrained", "random"],
        recipe: FinetuneRecipe,
        precision: Literal["float32", "bf16"],
        scoring_batch_size: int,
        n_classes: int,
        pool: TokenizedSplit,
        test: TokenizedSplit,
        seed: int,
        worker: Worker,
        loss: Callable[[Any, Any, int], Any] | None = None,
    ) -> None:
        self._model, self._init, self._worker = model, init, worker
        self._splits = {"pool": pool, "test": test}
        self._settings = FitSettings(
            recipe=recipe,
            precision=precision,
            n_classes=n_classes,
            scoring_batch_size=scoring_batch_size,
            seed=seed,
            loss=loss or cross_entropy,
        )
        self._network = build_network(model, n_classes, worker.device)
        self._check_lengths()
        freeze_layers(self._network, recipe.frozen_layers)
        self._scorer = self._network if precision == "float32" else _low_precision(self._network)
        self._is_fitted = False

    def finetune(self, labeled: LabeledSet, *, round_index: int) -> FitReport:
        """Fit fresh weights to the answers so far; afterwards :meth:`predict` uses them.

        Raises:
            RoundError: nothing is labelled, or the loss is not finite any more.
        """
        seed = stream_seed(self._settings.seed, "round", round_index, "finetune")
        load_weights(self._network, self._model, self._init, seed)
        pool = self._splits["pool"]
        report = finetune(self._network, pool, labeled, self._settings, round_index=round_index, worker=self._worker)
        self._network.eval()
        if self._scorer is not self._network:
            _copy_weights(self._network, self._scorer)
        self._is_fitted = True
        return report

    def predict(self, split: Literal["pool", "test"], ids: IntArray, *, with_features: bool = False) -> ModelOutputs:
        """Score some examples with the weights of the last fit; every rank returns the same.

        Args:
            split: where the examples are.
            ids: which ``[n]``, unique, in any order.
            with_features: also return the encoder's output at the first token.

        Returns:
            outputs sorted by id, one draw, float32.

        Raises:
            RoundError: a logit is not finite.
        """
        assert self._is_fitted, "predict before finetune"
        ids = np.sort(ids)
        texts = self._splits[split]
        scores = score_rows(
            self._scorer,
            texts,
            texts.rows(ids),
            batch_size=self._settings.scoring_batch_size,
            worker=self._worker,
            with_features=with_features,
        )
        return ModelOutputs(ids=ids, logits=scores.logits[:, None, :], features=scores.features)

    def _check_lengths(self) -> None:
        limit = longest_text(self._network)
        for name, split in self._splits.items():
            longest = int(split.lengths.max(initial=0))
            if limit is not None and longest > limit:
                raise ModelError(
                    f"a text of the {name} split has {longest} tokens, but model {self._model.name!r} reads {limit} at "
                    f"most. Set max_tokens to {limit} or less."
                )


def _low_precision(network: Network) -> Network:
    copied = copy.deepcopy(network).to(torch.bfloat16).eval()
    return copied.requires_grad_(False)


def _copy_weights(source: Network, target: Network) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(target.parameters()), list(source.parameters()))
