"""Frozen learner: a linear head on the fixed features of a pretrained encoder, fitted in milliseconds."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from al_ray.core.logistic import logistic_regression
from al_ray.core.seeding import stream, stream_seed
from al_ray.core.types import Float32Array, Float64Array, IntArray, LabeledSet, Sampling, Split
from al_ray.errors import RoundError
from al_ray.model.classifier import Embeddings, RoundClassifier, no_embeddings
from al_ray.model.encoder import fork_random
from al_ray.model.finetune import Fit, FitReport, FitSettings
from al_ray.model.predict import Passes, Scores, dropped_logits
from al_ray.model.recipe import class_weights
from al_ray.model.worker import Alone, Worker

HEAD_DROPOUT = 0.1
"""Share of the features that dropout drops before the head: in fits by AdamW, and where no other rate is asked for."""
FIRST_STD = 0.02
_ROWS_AT_ONCE = 4096


class FrozenClassifier(RoundClassifier):
    """A linear classifier on features of texts that never change: dropout, then one linear layer.

    Args:
        features: of each split, by ascending id ``[n, n_features]`` float32; may be read-only. With ``n_components`` in
            the recipe the layer reads their principal components, fitted on the pool.
        ids: of each split, ascending.
        settings: of every fit; of its precision nothing is read here.
        worker: this process, which works alone.
        sampling, new_plain_loss, embeddings: as of :class:`RoundClassifier`.
    """

    def __init__(
        self,
        *,
        features: Mapping[Split, Float32Array],
        ids: Mapping[Split, IntArray],
        settings: FitSettings,
        worker: Worker,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        new_plain_loss: Callable[[], Callable[..., Any] | None] = lambda: None,
        embeddings: Embeddings = no_embeddings,
    ) -> None:
        assert worker.world == 1, "a head is fitted in one process"
        super().__init__(
            settings=settings,
            worker=Alone(torch.device("cpu")),
            sampling=sampling,
            new_plain_loss=new_plain_loss,
            ids=ids,
            embeddings=embeddings,
        )
        self._encoded, self._axes = features["pool"], None
        if settings.recipe.n_components is not None:
            self._axes = principal_axes(features["pool"], settings.recipe.n_components)
            features = {split: _projected(rows, *self._axes) for split, rows in features.items()}
        self._features = {split: tensor_view(rows) for split, rows in features.items()}
        self._head = nn.Linear(self._features["pool"].shape[1], settings.n_classes)

    def _fit(
        self,
        labeled: LabeledSet,
        settings: FitSettings,
        round_index: int,
        worker: Worker,
        part: tuple[str | int, ...],
        watched: IntArray | None,
    ) -> FitReport:
        if len(labeled) == 0:
            raise RoundError(f"round {round_index} has no labelled example to fit a head on. Raise initial_size.")
        features = self._features["pool"].index_select(0, self._rows("pool", labeled.ids))
        if settings.recipe.solver == "lbfgs":
            return self._fit_logistic(features, labeled.labels, settings)
        names = ("round", round_index, *part)
        seed = stream_seed(settings.seed, *names, "finetune")
        with torch.no_grad(), fork_random(worker.device, seed):
            self._head.weight.normal_(std=FIRST_STD)
            self._head.bias.zero_()
        if watched is not None:
            features = torch.cat([features, self._features["pool"].index_select(0, self._rows("pool", watched))])
        draws = stream(settings.seed, *names, "dropout", worker.rank)
        fit = Fit(_HeadOnFeatures(self._head, features, draws), labeled.labels, settings, names, worker)
        return fit.run(n_watched=len(features) - len(labeled))

    def _fit_logistic(self, features: Tensor, labels: IntArray, settings: FitSettings) -> FitReport:
        weights = class_weights(settings.recipe, labels, settings.n_classes)[labels]
        weight, bias, n_steps, loss = logistic_regression(
            features.numpy(), labels, settings.n_classes, l2=settings.recipe.l2, weights=weights
        )
        with torch.no_grad():
            self._head.weight.copy_(torch.from_numpy(weight))
            self._head.bias.copy_(torch.from_numpy(bias))
        return FitReport(n_steps=n_steps, n_epochs_run=1, best_epoch=0, train_loss=loss, validation_loss=None)

    def _score(self, split: Split, ids: IntArray, passes: Passes, worker: Worker) -> Scores:
        rows, features = self._rows(split, ids), self._features[split]
        weight, bias = self._head.weight, self._head.bias
        with torch.inference_mode():
            # Every row costs less than fetching it, unless few are asked for.
            if 4 * len(ids) < len(features):
                features, rows = features.index_select(0, rows), torch.arange(len(ids))
            logits = functional.linear(features, weight, bias).index_select(0, rows)
            draws = logits[:, None]
            if passes.sampling.dropout == "logits":
                draws = dropped_logits(logits, passes, batch_index=0, device=worker.device)
            elif passes.sampling.dropout == "head":
                thinned = functional.linear(features, _thinned(weight, passes).flatten(0, 1)).index_select(0, rows)
                draws = thinned.view(len(ids), -1, len(bias)) + bias
        return Scores(
            logits=draws.numpy(),
            features=features.index_select(0, rows).numpy() if passes.features else None,
            logits_without_dropout=logits.numpy() if passes.logits_without_dropout else None,
        )

    def _weights(self) -> list[Tensor]:
        return list(self._head.parameters())

    def _named_weights(self) -> dict[str, Tensor]:
        return dict(self._head.named_parameters())

    def plain_weights(self) -> dict[str, Tensor]:
        """Return what ``predict(plain=True)`` computes with: ``weight`` and ``bias`` on the encoder's features."""
        weights = super().plain_weights()
        if self._axes is None:
            return weights
        mean, axes = self._axes
        weight = weights["weight"].double().numpy() @ axes.T
        bias = weights["bias"].double().numpy() - weight @ mean
        return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}

    @property
    def pool_features(self) -> Float32Array:
        """Features of the pool as the encoder has them ``[n_pool, n_features]``, by ascending id; read-only."""
        return self._encoded

    def _rows(self, split: Split, ids: IntArray) -> Tensor:
        rows = np.searchsorted(self._ids[split], ids)
        assert np.array_equal(self._ids[split][np.minimum(rows, len(self._ids[split]) - 1)], ids), "an unknown id"
        return torch.from_numpy(rows)


class _HeadOnFeatures:
    """A head in training, and the features of its fit."""

    def __init__(self, head: nn.Linear, features: Tensor, draws: np.random.Generator) -> None:
        self._head, self._features, self._draws, self._drops = head, features, draws, False
        self.parameters: list[Tensor] = list(head.parameters())

    def train(self) -> None:
        self._drops = True

    def forward(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        features = self._features[torch.from_numpy(rows)]
        return self._head(self._dropped(features) if self._drops else features), features

    def _dropped(self, features: Tensor) -> Tensor:
        # Three times as fast as torch's dropout, whose draws would take most of a fit.
        noise = self._draws.integers(2**16, size=features.shape, dtype=np.uint16)
        return features * torch.from_numpy(noise >= HEAD_DROPOUT * 2**16) / (1 - HEAD_DROPOUT)

    def logits(self, rows: IntArray) -> Float32Array:
        self._drops = False
        with torch.no_grad():
            logits: Float32Array = self._head(self._features[torch.from_numpy(rows)]).numpy()
        return logits


def _thinned(weight: Tensor, passes: Passes) -> Tensor:
    """Return the weights of each pass through a thinned head ``[n_passes, n_classes, n_features]``.

    A feature that is dropped for all texts alike is a column of weights that is.
    """
    rate = HEAD_DROPOUT if passes.sampling.rate is None else passes.sampling.rate
    masks = []
    for number in range(passes.sampling.n_passes):
        with fork_random(weight.device, stream_seed(passes.seed, "pass", number)):
            masks.append(torch.bernoulli(torch.full(weight.shape[1:], 1 - rate)) / (1 - rate))
    return weight * torch.stack(masks)[:, None]


def principal_axes(features: Float32Array, n_components: int) -> tuple[Float64Array, Float64Array]:
    """Return the mean of some features and the directions of their greatest variance (Pearson 1901).

    Eigenvectors of the whole covariance in float64, with the entry of largest size of each positive, so that nothing
    is drawn.

    Args:
        features: ``[n, n_features]``, in an order that hangs on nothing but the data.
        n_components: at most n and n_features.

    Returns:
        ``[n_features]`` and ``[n_features, n_components]``, by falling variance.

    Raises:
        RoundError: more components than that, or features that are not finite.
    """
    if n_components > min(features.shape):
        raise RoundError(
            f"n_components is {n_components}, but {len(features)} texts with {features.shape[1]} features have "
            f"{min(features.shape)} principal components. Lower it."
        )
    mean: Float64Array = features.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise RoundError("the encoder gave features that are not finite. Use precision float32.")
    covariance = np.zeros((features.shape[1], features.shape[1]))
    for start in range(0, len(features), _ROWS_AT_ONCE):
        centred = features[start : start + _ROWS_AT_ONCE] - mean
        covariance += centred.T @ centred
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :n_components]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(n_components)]
    return mean, axes * np.where(largest < 0, -1.0, 1.0)


def _projected(features: Float32Array, mean: Float64Array, axes: Float64Array) -> Float32Array:
    """Return features along some axes ``[n, n_components]``."""
    found = np.empty((len(features), axes.shape[1]), dtype=np.float32)
    for start in range(0, len(features), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        found[rows] = (features[rows] - mean) @ axes
    return found


def tensor_view(array: npt.NDArray[Any]) -> Tensor:
    """View an array as a tensor without a copy; nobody writes to it, so that it may be read-only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
