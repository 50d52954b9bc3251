"""Fine-tuning: one fit of the network to the answers so far, on one worker or several."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from al_ray.confidence import Loss
from al_ray.core.seeding import stream, stream_seed
from al_ray.core.types import Float32Array, IntArray, LabeledSet
from al_ray.errors import RoundError
from al_ray.model.encoder import Network, fork_random
from al_ray.model.packed import pack_rows, sent
from al_ray.model.predict import score_rows
from al_ray.model.recipe import (
    FinetuneRecipe,
    batches_of_epoch,
    class_weights,
    gonsior2022_validation_rows,
    gonsior2022_validation_weights,
    learning_rate_factor,
    validation_rows,
)
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Worker

Precision = Literal["float32", "bf16"]
ADAM_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """How a fine-tune went.

    Attributes:
        n_steps: optimiser steps done.
        n_epochs_run: epochs done.
        best_epoch: the epoch whose weights are kept, from 0.
        train_loss: mean training loss during that epoch.
        validation_loss: after that epoch; None where nothing was held out.
        dynamics: logits of the watched examples after every epoch done ``[n_watched, n_epochs, n_classes]``, or None.
    """

    n_steps: int
    n_epochs_run: int
    best_epoch: int
    train_loss: float
    validation_loss: float | None
    dynamics: Float32Array | None = None


def cross_entropy(logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
    """Return the cross entropy of every example ``[n]``, in nats; the same in every epoch."""
    return functional.cross_entropy(logits, targets, reduction="none")


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What stays the same from fit to fit of a cell.

    Attributes:
        recipe: the protocol.
        precision: bf16 runs the matrix products of training and validation in bf16 over float32 weights.
        n_classes: of the data set.
        scoring_batch_size: texts in a validation batch.
        seed: of the cell.
        new_loss: gives the loss of one fit, see ``al_ray.confidence.Loss``; None: cross entropy.
    """

    recipe: FinetuneRecipe
    precision: Precision
    n_classes: int
    scoring_batch_size: int
    seed: int
    new_loss: Callable[[], Loss | None] = lambda: None


def finetune(
    network: Network,
    split: TokenizedSplit,
    labeled: LabeledSet,
    settings: FitSettings,
    *,
    round_index: int,
    worker: Worker,
    part: tuple[str | int, ...] = (),
    watched: IntArray | None = None,
) -> FitReport:
    """Fit the network to the labelled examples and leave it with the weights of the best epoch.

    Args:
        network: with the weights to start from.
        split: holds the texts.
        labeled: the answers.
        settings: of the cell.
        round_index: names the random streams.
        worker: this process.
        part: names them further, where a round has several fits: ``("member", 2)``.
        watched: ids of examples whose logits are recorded after every epoch.

    Raises:
        RoundError: no labelled example, or the loss is not finite any more.
    """
    if len(labeled) == 0:
        raise RoundError(f"round {round_index} has no labelled example to fine-tune on. Raise initial_size.")
    names = ("round", round_index, *part)
    dropout_seed = stream_seed(settings.seed, *names, "dropout", worker.rank)
    # The watched examples stand behind the labelled ones and are never trained on.
    others = np.empty(0, np.int64) if watched is None else watched
    rows = split.rows(np.concatenate([labeled.ids, others]))
    with used_words(network, split, rows) as words, fork_random(worker.device, dropout_seed):
        trained = _NetworkOnTexts(network, words.split, words.rows, settings, worker)
        fit = Fit(trained, labeled.labels, settings, names, worker)
        report = fit.run(n_watched=len(others))
        words.decay = fit.best.decay
    return report


@dataclass
class _Epoch:
    epoch: int = -1
    train_loss: float = math.nan
    validation_loss: float | None = None
    accuracy: float = 0.0
    decay: float = 1.0
    weights: list[Tensor] = field(default_factory=list)


@dataclass
class UsedWords:
    """The texts of a fit in the small vocabulary.

    Attributes:
        split: holds them, their tokens renumbered.
        rows: where they are in it.
        decay: what weight decay has made of an unused word vector by the end of the fit, as a factor.
    """

    split: TokenizedSplit
    rows: IntArray
    decay: float = 1.0


@contextlib.contextmanager
def used_words(network: Network, split: TokenizedSplit, rows: IntArray) -> Iterator[UsedWords]:
    """Let the network hold the word vectors of some texts only, and put all of them back afterwards.

    AdamW changes a word vector that gets no gradient in one way only: weight decay shrinks it. So the vectors of unused
    words need no gradient, no moments and no share in the exchange between workers; they are multiplied by the same
    factor once at the end. Exact but for the rounding of that one product. It halves the optimiser's work for MiniLM on
    a few hundred texts.

    Frozen embeddings stay as they are, and so do the texts then: their hidden states may be larger than memory.

    Args:
        network: changed in place while the block runs.
        split: holds the texts.
        rows: which texts of it.
    """
    embeddings = network.word_embeddings
    full = embeddings.weight
    if not full.requires_grad:
        yield UsedWords(split, rows)
        return
    texts = split.take(rows, split.labels[rows])
    marks = network.pad_id, embeddings.padding_idx
    padding = [number for number in marks if number is not None]
    if _knows_padding_by_number(network):
        padding = list(range(max(padding) + 1))
    words = np.union1d(texts.tokens, padding)
    kept = torch.from_numpy(words.astype(np.int64)).to(full.device)
    renumbered = replace(texts, tokens=np.searchsorted(words, texts.tokens).astype(np.int32))
    used = UsedWords(renumbered, np.arange(len(rows)))
    embeddings.weight = nn.Parameter(full.detach()[kept])
    network.pad_id = int(np.searchsorted(words, network.pad_id))
    if embeddings.padding_idx is not None:
        embeddings.padding_idx = int(np.searchsorted(words, embeddings.padding_idx))
    try:
        yield used
    finally:
        with torch.no_grad():
            full.mul_(used.decay)
            full[kept] = embeddings.weight
        embeddings.weight = full
        network.pad_id, embeddings.padding_idx = marks


def _knows_padding_by_number(network: Network) -> bool:
    """Say whether an encoder compares tokens with the padding id, as those do that count positions past it."""
    return any(hasattr(part, "padding_idx") and not isinstance(part, nn.Embedding) for part in network.model.modules())


class Trained(Protocol):
    """What a fit trains, on its examples: the labelled ones by their place in the answers, the watched ones behind.

    Attributes:
        parameters: what the optimiser changes.
    """

    parameters: list[Tensor]

    def train(self) -> None:
        """Let dropout act from now on, until :meth:`logits`."""
        ...

    def forward(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        """Return logits ``[n, n_classes]`` and features ``[n, n_features]`` of some examples, with gradients."""
        ...

    def logits(self, rows: IntArray) -> Float32Array:
        """Return the logits of some examples without dropout ``[n, n_classes]``, the same on every rank."""
        ...


class _NetworkOnTexts:
    """A network in training, and the texts of its fit."""

    def __init__(
        self, network: Network, split: TokenizedSplit, rows: IntArray, settings: FitSettings, worker: Worker
    ) -> None:
        self._network, self._split, self._rows, self._settings, self._worker = network, split, rows, settings, worker
        self.parameters: list[Tensor] = [value for value in network.parameters() if value.requires_grad]
        self._wrapped = worker.wrap(network)

    def train(self) -> None:
        self._network.train()

    def forward(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        device = self._worker.device
        batch = pack_rows(self._split, self._rows[rows], device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._settings.precision == "bf16"):
            logits, features = self._wrapped(batch)
        return logits.float(), features.float()

    def logits(self, rows: IntArray) -> Float32Array:
        self._network.eval()
        scores = score_rows(
            self._network,
            self._split,
            self._rows[rows],
            batch_size=self._settings.scoring_batch_size,
            worker=self._worker,
            autocast=self._settings.precision == "bf16",
        )
        return scores.logits[:, 0]


class Fit:
    """One fit in progress; all decisions are the same on every rank.

    Args:
        trained: what is fitted.
        labels: classes of the labelled examples ``[n_labeled]``.
        settings: of the cell.
        names: of the random streams, behind the cell's seed.
        worker: this process.
    """

    def __init__(
        self,
        trained: Trained,
        labels: IntArray,
        settings: FitSettings,
        names: tuple[str | int, ...],
        worker: Worker,
    ) -> None:
        self.trained, self.labels, self.settings, self.worker = trained, labels, settings, worker
        self.recipe = settings.recipe
        self.loss = settings.new_loss() or cross_entropy
        self.needs_features: bool = getattr(self.loss, "needs_features", False)
        self.judged_as_gonsior2022: bool = getattr(self.loss, "judged_as_gonsior2022", False)
        self.train, self.validation = self._split(labels, stream(settings.seed, *names, "validation"))
        self.dynamics: list[Float32Array] = []
        self.weights = class_weights(self.recipe, labels[self.train], settings.n_classes)[labels]
        self.order = stream(settings.seed, *names, "order")
        self.n_steps = self.recipe.epochs * math.ceil(len(self.train) / self.recipe.batch_size)
        self.optimizer = torch.optim.AdamW(
            trained.parameters,
            lr=self.recipe.learning_rate,
            eps=ADAM_EPSILON,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        self.step, self.decay = 0, 1.0
        self.best = _Epoch(validation_loss=math.inf)

    def _split(self, labels: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return the rows to train on, ascending, and those held out, in the order in which they are judged."""
        fraction = self.recipe.validation_fraction
        if self.judged_as_gonsior2022:
            held_out = gonsior2022_validation_rows(labels, fraction, rng)
        else:
            held_out = np.flatnonzero(validation_rows(labels, fraction, rng))
        return np.setdiff1d(np.arange(len(labels)), held_out), held_out

    def run(self, n_watched: int = 0) -> FitReport:
        """Do all epochs and leave the parameters of the best one.

        Args:
            n_watched: examples behind the labelled ones whose logits are recorded after every epoch.

        Raises:
            RoundError: the loss is not finite any more.
        """
        watched = np.arange(len(self.labels), len(self.labels) + n_watched)
        last_fall = epoch = 0
        for epoch in range(self.recipe.epochs):
            train_loss = self._train_epoch(epoch)
            done = _Epoch(epoch, train_loss, *self._validate(epoch), self.decay)
            if n_watched:
                self.dynamics.append(self.trained.logits(watched))
            self._check(done)
            new, known = self._compared(done), self._compared(self.best)
            if new[0] < known[0]:
                last_fall = epoch
            if new < known:
                self.best = done
                if len(self.validation) and epoch + 1 < self.recipe.epochs:
                    done.weights = [value.detach().clone() for value in self.trained.parameters]
            if self.recipe.patience and epoch - last_fall >= self.recipe.patience:
                break
        if self.best.epoch < epoch:
            with torch.no_grad():
                torch._foreach_copy_(self.trained.parameters, self.best.weights)
        return FitReport(
            n_steps=self.step,
            n_epochs_run=epoch + 1,
            best_epoch=self.best.epoch,
            train_loss=self.best.train_loss,
            validation_loss=self.best.validation_loss,
            dynamics=np.stack(self.dynamics, axis=1) if self.dynamics else None,
        )

    def _compared(self, done: _Epoch) -> tuple[float, ...]:
        """Return what epochs are compared by, the lowest best and the earlier of equals: the held-out loss.

        Without held-out examples the latest is best. Where losses are equal the code of Gonsior et al. 2022 goes on to
        the accuracy on the held-out examples and the training loss.
        """
        if done.validation_loss is None:
            return (-float(done.epoch),)
        if self.judged_as_gonsior2022:
            return done.validation_loss, -done.accuracy, done.train_loss
        return (done.validation_loss,)

    def _check(self, done: _Epoch) -> None:
        losses = [done.train_loss, 0.0 if done.validation_loss is None else done.validation_loss]
        if not all(map(math.isfinite, losses)):
            raise RoundError(
                f"fine-tuning diverged in epoch {done.epoch}: training loss {losses[0]}, validation loss {losses[1]}. "
                f"Lower learning_rate (now {self.recipe.learning_rate}), raise warmup_fraction, "
                "or use precision float32."
            )

    def _train_epoch(self, epoch: int) -> float:
        """Do every step of an epoch; return the mean loss over all examples and ranks."""
        self.trained.train()
        batches = batches_of_epoch(len(self.train), self.recipe.batch_size, self.order)
        sums = torch.stack([self._train_step(self.train[batch], epoch) for batch in batches]).sum()
        gathered = self.worker.all_gather(np.array([sums.item()]))
        return float(np.concatenate(gathered).sum() / self.weights[self.train].sum(dtype=np.float64))

    def _train_step(self, rows: IntArray, epoch: int) -> Tensor:
        """Do one optimiser step on a global batch; return the sum of this rank's weighted losses."""
        mine = rows[self.worker.rank :: self.worker.world]
        weights = self.weights[mine]
        if len(mine) == 0:
            # A rank without rows must still take part in the exchange of gradients, with a gradient of zero.
            mine, weights = rows[:1], np.zeros(1, dtype=np.float32)
        total = self._weighted_loss(mine, weights, epoch)
        # Gradients are averaged over ranks, so that each rank's share of the global mean counts world-fold.
        (total * (self.worker.world / float(self.weights[rows].sum(dtype=np.float64)))).backward()  # type: ignore[no-untyped-call]
        if self.recipe.gradient_clip:
            nn.utils.clip_grad_norm_(self.trained.parameters, self.recipe.gradient_clip, foreach=True)
        self._update()
        return total.detach().double()

    def _weighted_loss(self, rows: IntArray, weights: Any, epoch: int) -> Tensor:
        device = self.worker.device
        targets = sent(self.labels[rows], device)
        logits, features = self.trained.forward(rows)
        losses: Tensor = self.loss(logits, targets, epoch, *((features,) if self.needs_features else ()))
        assert losses.shape == targets.shape, "a loss must give one value per example"
        return (losses * sent(weights, device)).sum()

    def _update(self) -> None:
        rate = self.recipe.learning_rate * learning_rate_factor(self.recipe, self.step, self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.decay *= 1 - rate * self.recipe.weight_decay
        self.step += 1

    def _validate(self, epoch: int) -> tuple[float | None, float]:
        """Return mean loss and accuracy over the held-out examples, as rank 0 computes them."""
        if len(self.validation) == 0:
            return None, 0.0
        weights = self.weights[self.validation].astype(np.float64)
        if self.judged_as_gonsior2022:
            weights *= gonsior2022_validation_weights(len(weights), self.recipe.batch_size)
        else:
            # A loss that changes with the epoch is compared as it ends, or one that grows would favour the start.
            epoch = self.recipe.epochs - 1
        logits = torch.from_numpy(self.trained.logits(self.validation))
        targets = torch.from_numpy(self.labels[self.validation])
        with torch.no_grad():
            missing = (None,) if self.needs_features else ()
            losses = self.loss(logits, targets, epoch, *missing).double().numpy()
            if hasattr(self.loss, "after_epoch"):
                self.loss.after_epoch(logits, targets)
        accuracy = float((logits.argmax(dim=1) == targets).double().mean())
        judged: tuple[float, float] = self.worker.broadcast((float(np.average(losses, weights=weights)), accuracy))
        return judged
