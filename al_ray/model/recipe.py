"""The fine-tuning recipe, and its arithmetic: who validates, in which order, how fast, with which weight.

Knows no model and no torch. What is named ``gonsior2022_...`` is computed as in the code of Gonsior et al. 2022 (arXiv
2210.03005), for losses that ask for it.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from al_ray.core.apportioning import gonsior2022_seats
from al_ray.core.types import BoolArray, Float32Array, Float64Array, IntArray
from al_ray.registry import Within, check_options


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """How a pretrained encoder is fine-tuned on the answers so far, from fresh weights every round.

    AdamW with epsilon 1e-8 and weight decay on every weight; the defaults are the protocol of Gonsior et al. 2022
    (arXiv 2210.03005).

    Attributes:
        learning_rate: peak learning rate, in (0, 1).
        epochs: passes over the training part of the labelled examples, at most.
        batch_size: examples in one optimiser step, over all workers of the cell together.
        weight_decay: decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).
        schedule: of the learning rate after warm-up: constant, or linear down to zero.
        warmup_fraction: share of all steps in which the learning rate rises linearly from zero, in [0, 1].
        gradient_clip: largest norm of the whole gradient; 0 = off.
        validation_fraction: share of the labelled examples that is held out, stratified and redrawn at every fit, in
            [0, 0.5]; 0 = off, and then the last epoch counts.
        patience: epochs without lower validation loss after which a fit stops; 0 = never. The epoch of lowest
            validation loss is restored in either case.
        class_weights: ``balanced`` weighs an example by n / (n_classes_seen * n of its class) in the training loss.
        frozen_layers: lowest encoder layers that keep their weights, and the embeddings with them; 0 = nothing frozen.
    """

    learning_rate: Annotated[float, Within(gt=0, lt=1, advice="2e-5 is usual")] = 2e-5
    epochs: Annotated[int, Within(ge=1)] = 10
    batch_size: Annotated[int, Within(ge=1)] = 32
    weight_decay: Annotated[float, Within(ge=0, lt=1, advice="0 turns it off")] = 0.01
    schedule: Literal["constant", "linear"] = "constant"
    warmup_fraction: Annotated[float, Within(ge=0, le=1)] = 0.0
    gradient_clip: Annotated[float, Within(ge=0, finite=True, advice="0 turns it off")] = 1.0
    validation_fraction: Annotated[float, Within(ge=0, le=0.5, advice="0 turns it off")] = 0.1
    patience: Annotated[int, Within(ge=0, advice="0 turns it off")] = 5
    class_weights: Literal["none", "balanced"] = "none"
    frozen_layers: Annotated[int, Within(ge=0, advice="0 freezes nothing")] = 0

    def __post_init__(self) -> None:
        check_options(self, "the fine-tuning recipe")


def validation_rows(labels: IntArray, fraction: float, rng: np.random.Generator) -> BoolArray:
    """Hold out a stratified share of the labelled examples.

    The share is rounded to the nearest count (half upwards), at least 1. Classes give in proportion to their size, by
    largest remainder, but every class keeps at least one example to train on; so fewer may be held out, even none.

    Args:
        labels: class indices ``[n_labeled]``.
        fraction: share to hold out; 0 = none.
        rng: settles ties between remainders and chooses the examples.

    Returns:
        true where an example validates ``[n_labeled]``.
    """
    held_out = np.zeros(len(labels), dtype=np.bool_)
    if fraction == 0 or len(labels) == 0:
        return held_out
    classes, sizes = np.unique(labels, return_counts=True)
    n_wanted = min(max(1, math.floor(fraction * len(labels) + 0.5)), int((sizes - 1).sum()))
    order = rng.permutation(len(labels))
    for label, share in zip(classes, _shares(sizes, n_wanted, rng), strict=True):
        held_out[order[labels[order] == label][:share]] = True
    return held_out


def _shares(sizes: IntArray, n_wanted: int, rng: np.random.Generator) -> IntArray:
    """Divide ``n_wanted`` among classes in proportion to size, leaving one of each."""
    exact = n_wanted * sizes / sizes.sum()
    shares: IntArray = np.minimum(np.floor(exact), sizes - 1).astype(np.int64)
    ties = rng.permutation(len(sizes))
    while shares.sum() < n_wanted:
        open_classes = np.flatnonzero(shares < sizes - 1)
        lacking = (exact - shares)[open_classes]
        shares[open_classes[np.lexsort((ties[open_classes], -lacking))[0]]] += 1
    return shares


def gonsior2022_validation_rows(labels: IntArray, fraction: float, rng: np.random.Generator) -> IntArray:
    """Hold examples out by the rule of :func:`gonsior2022_seats`; a rare class may have nothing left to train on.

    Returns:
        rows, in the order in which that code validates them.
    """
    n_wanted = min(len(labels) - int(len(labels) * (1 - fraction)), len(labels) - 1)
    if n_wanted <= 0:
        return np.empty(0, np.int64)
    seats = gonsior2022_seats(np.bincount(labels), n_wanted, rng)
    order = rng.permutation(len(labels))
    drawn = [order[labels[order] == label][:n_seats] for label, n_seats in enumerate(seats)]
    return rng.permutation(np.concatenate(drawn))


def gonsior2022_validation_weights(n_rows: int, batch_size: int) -> Float64Array:
    """Return what each held-out example counts ``[n_rows]``: means of batches are added up, however small the last."""
    batch = np.arange(n_rows) // batch_size
    weights: Float64Array = 1 / np.bincount(batch)[batch]
    return weights


def folds(labels: IntArray, n_folds: int, rng: np.random.Generator) -> IntArray:
    """Deal the labelled examples to folds for cross-fitting, each class evenly.

    Args:
        labels: class indices ``[n_labeled]``.
        n_folds: at least 2.
        rng: settles who comes where.

    Returns:
        fold of every example ``[n_labeled]``; -1 for the only example of its class, which no fold can do without.
    """
    fold = np.full(len(labels), -1, dtype=np.int64)
    dealt = 0
    order = rng.permutation(len(labels))
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        if len(mine) > 1:
            # Classes go on dealing where the last one stopped, or small ones would all meet in the first folds.
            fold[mine] = (dealt + np.arange(len(mine))) % n_folds
            dealt += len(mine)
    return fold


def batches_of_epoch(n_rows: int, batch_size: int, rng: np.random.Generator) -> list[IntArray]:
    """Shuffle the training rows and cut them into global batches; the last may be smaller."""
    order = rng.permutation(n_rows)
    return [order[start : start + batch_size] for start in range(0, n_rows, batch_size)]


def learning_rate_factor(recipe: FinetuneRecipe, step: int, n_steps: int) -> float:
    """Return the share of the peak learning rate that a step uses.

    Args:
        recipe: schedule and warm-up.
        step: 0 for the first step of the fit; with warm-up its learning rate is 0.
        n_steps: of the whole fit, as if it did not stop early.
    """
    n_warmup = math.ceil(recipe.warmup_fraction * n_steps)
    if step < n_warmup:
        return step / n_warmup
    if recipe.schedule == "constant":
        return 1.0
    return max(0.0, (n_steps - step) / max(1, n_steps - n_warmup))


def class_weights(recipe: FinetuneRecipe, labels: IntArray, n_classes: int) -> Float32Array:
    """Return the weight of every class in the training loss ``[n_classes]``; 1 for a class without examples.

    ``balanced``: n / (n_classes_seen * n of the class) (King and Zeng 2001).
    """
    weights = np.ones(n_classes, dtype=np.float32)
    if recipe.class_weights == "balanced":
        sizes = np.bincount(labels, minlength=n_classes)
        seen = sizes > 0
        weights[seen] = len(labels) / (seen.sum() * sizes[seen])
    return weights
