"""The fine-tuning recipe, and its arithmetic: who validates, in which order, how fast, with which weight.

Knows no model and no torch. What is named ``gonsior2022_...`` is computed as in the code of Gonsior et al. 2022 (arXiv
2210.03005), for losses that ask for it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import GetJsonSchemaHandler

from al_ray.core.apportioning import gonsior2022_seats
from al_ray.core.types import BoolArray, Float32Array, Float64Array, IntArray
from al_ray.errors import ConfigError
from al_ray.registry import LATER, Within, build_dataclass, check_options, later_options, options_model

# A head on fixed features wants other steps than a whole encoder: chosen on TREC-6, at 25, 100 and 525 labels.
HEAD_DEFAULTS: Mapping[str, Any] = {
    "learning_rate": 0.05,
    "epochs": 30,
    "batch_size": 256,
    "schedule": "linear",
    "gradient_clip": 0.0,
    "validation_fraction": 0.0,
    "patience": 0,
}
# Adapters are few and start without effect, so that they bear larger steps. Hu et al. 2022 take 2e-4 to 5e-4, over many
# more steps than a few hundred labels give; measured on TREC-6, MiniLM, 200 labels: 0.74 at 5e-4, 0.85 at 1e-3.
LORA_DEFAULTS: Mapping[str, Any] = {"learning_rate": 1e-3}
_OF_FROZEN_LEARNER = ("features", "n_components", "solver", "l2")
_OF_LBFGS = ("frozen_layers", "features", "n_components", "solver", "l2", "class_weights")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters beside linear layers of the encoder, trained in their place (Hu et al. 2022, arXiv 2106.09685).

    A layer's output gets ``alpha / rank * B A x`` added; A is drawn, B starts at zero.

    Attributes:
        rank: of the two matrices.
        alpha: scale of the adapters, over the rank.
        dropout: share of an adapter's input that is dropped in training.
        targets: last part of the names of the linear layers that get adapters; auto = the projections of queries and
            values, as in the paper.
    """

    rank: Annotated[int, Within(ge=1, le=1024, advice="8 is usual")] = 8
    alpha: Annotated[float, Within(gt=0, finite=True, advice="twice the rank is usual")] = 16.0
    dropout: Annotated[float, Within(ge=0, lt=1, advice="0 turns it off")] = 0.0
    targets: tuple[str, ...] | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        check_options(self, "lora")
        if not self.targets or (self.targets != "auto" and len(set(self.targets)) < len(self.targets)):
            raise ConfigError(
                f"option 'targets' of lora is {list(self.targets)}. Name each kind of linear layer once, such as "
                "[query, value], or use 'auto'."
            )

    @classmethod
    def of(cls, options: Any) -> "Lora":
        """Build it from the option of a study file.

        Raises:
            ConfigError: an unknown option or a bad value.
        """
        if not isinstance(options, Mapping):
            raise ConfigError(f"finetune.lora is {options!r}, it must be a mapping of options such as {{rank: 8}}.")
        targets = options.get("targets")
        tuples = {"targets": tuple(targets)} if isinstance(targets, list) else {}
        return build_dataclass(cls, {**options, **tuples}, "finetune.lora")


class _LoraSchema:
    """JSON schema of ``lora``."""

    @staticmethod
    def __get_pydantic_json_schema__(schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(options_model(Lora).__pydantic_core_schema__), {"type": "null"}]}


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """How a pretrained encoder is fine-tuned on the answers so far, from fresh weights every round.

    AdamW with epsilon 1e-8 and weight decay on every weight; the defaults are the protocol of Gonsior et al. 2022
    (arXiv 2210.03005). With ``frozen_layers: all`` a linear head alone is fitted, on one embedding a text: the frozen
    learner, whose defaults are :data:`HEAD_DEFAULTS`.

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
        frozen_layers: lowest encoder layers that keep their weights, and the embeddings with them; they run without
            dropout, and their output is computed once. 0 = nothing frozen; all = the frozen learner.
        features: what the frozen learner sees of a text: the mean of the encoder's output over the tokens, at unit
            length, or the output at the first token.
        n_components: the frozen learner sees of these so many principal components, fitted once on the features of the
            whole pool, answered or not (Pearson 1901); None = all features as they are.
        solver: of the frozen learner: AdamW, or L-BFGS, which is multinomial logistic regression with L2 (convex, so
            that the seed changes nothing).
        l2: with L-BFGS half of the squared weights, the intercepts among them, counts so much beside the summed loss;
            1 / C of scikit-learn.
        lora: train low-rank adapters and the head instead of the encoder's weights; its defaults are
            :data:`LORA_DEFAULTS`.
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
    frozen_layers: Annotated[int, Within(ge=0, advice="0 freezes nothing")] | Literal["all"] = 0
    features: Literal["mean", "first_token"] = "mean"
    n_components: Annotated[Annotated[int, Within(ge=1, advice="leave it out for all features")] | None, LATER] = None
    solver: Literal["adamw", "lbfgs"] = "adamw"
    l2: Annotated[float, Within(gt=0, finite=True, advice="0.1 is usual here, 1 in scikit-learn")] = 0.1
    lora: Annotated[Lora | None, _LoraSchema] = None

    def __post_init__(self) -> None:
        check_options(self, "the fine-tuning recipe")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "FinetuneRecipe":
        """Build a recipe from the options of a study file, or from :meth:`to_json`.

        Raises:
            ConfigError: an unknown option, a bad value, or an option that has no meaning beside the others.
        """
        given = dict(options)
        if given.get("frozen_dropout") is False and given.get("frozen_layers", 0) not in (0, "all"):
            del given["frozen_dropout"]  # as to_json says it, of recipes for which it has a meaning
        for later, default in later_options(FinetuneRecipe).items():
            if given.get(later) == default:
                given.pop(later, None)
        if given.get("lora") is None:
            given.pop("lora", None)
        elif not isinstance(given["lora"], Lora):
            given["lora"] = Lora.of(given["lora"])
        is_frozen = given.get("frozen_layers") == "all"
        others = HEAD_DEFAULTS if is_frozen else LORA_DEFAULTS if "lora" in given else {}
        recipe = build_dataclass(cls, {**others, **given}, "finetune")
        recipe._check_meaning(given)
        return recipe

    @property
    def is_frozen(self) -> bool:
        """Whether the whole encoder stays as it is, and a head is fitted on its features."""
        return self.frozen_layers == "all"

    @property
    def n_frozen(self) -> int:
        """Lowest layers whose output is computed once; 0 also for the frozen learner, which has no layers."""
        return 0 if self.frozen_layers == "all" else self.frozen_layers

    def to_json(self) -> dict[str, Any]:
        """Return the options that mean something beside each other, and no others."""
        options = asdict(self)
        if self.is_frozen:
            meant, later = self._meaningful(), later_options(FinetuneRecipe)
            kept = {key: value for key, value in options.items() if key in meant}
            return {key: value for key, value in kept.items() if key not in later or value != later[key]}
        without = _OF_FROZEN_LEARNER if self.lora else (*_OF_FROZEN_LEARNER, "lora")
        kept = {key: value for key, value in options.items() if key not in without}
        # The first edition let dropout act in frozen layers, which is another computation.
        return {**kept, "frozen_dropout": False} if self.n_frozen else kept

    def _meaningful(self) -> tuple[str, ...]:
        if self.solver == "lbfgs":
            return _OF_LBFGS
        return tuple(key for key in asdict(self) if key not in ("l2", "lora"))

    def _check_meaning(self, given: Mapping[str, Any]) -> None:
        if not self.is_frozen:
            if odd := [key for key in given if key in _OF_FROZEN_LEARNER]:
                raise ConfigError(
                    f"finetune: option {odd[0]!r} is {given[odd[0]]!r}, which only the frozen learner has. Drop it, "
                    "from 'defaults' too, or add 'frozen_layers: all'."
                )
            return
        if self.lora is not None:
            raise ConfigError(
                "finetune: 'lora' adapts layers, and 'frozen_layers: all' leaves none to run. Drop one of the two, or "
                "freeze fewer layers."
            )
        if odd := [key for key in given if key not in self._meaningful()]:
            other = "adamw" if self.solver == "lbfgs" else "lbfgs"
            raise ConfigError(
                f"finetune: option {odd[0]!r} is {given[odd[0]]!r}, which has no meaning with 'solver: {self.solver}'. "
                f"Drop it, from 'defaults' too, or use 'solver: {other}'."
            )


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
