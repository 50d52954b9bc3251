"""The fine-tuning recipe: what is done with the labelled examples of a round; identity of a cell."""

from dataclasses import dataclass
from typing import Literal

from al_ray.errors import ConfigError


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

    learning_rate: float = 2e-5
    epochs: int = 10
    batch_size: int = 32
    weight_decay: float = 0.01
    schedule: Literal["constant", "linear"] = "constant"
    warmup_fraction: float = 0.0
    gradient_clip: float = 1.0
    validation_fraction: float = 0.1
    patience: int = 5
    class_weights: Literal["none", "balanced"] = "none"
    frozen_layers: int = 0

    def __post_init__(self) -> None:
        self._require(0 < self.learning_rate < 1, "learning_rate", "above 0 and below 1, such as 2e-5")
        self._require(self.epochs >= 1, "epochs", "at least 1")
        self._require(self.batch_size >= 1, "batch_size", "at least 1")
        self._require(0 <= self.weight_decay < 1, "weight_decay", "at least 0 and below 1; 0 turns it off")
        self._require(self.schedule in ("constant", "linear"), "schedule", "'constant' or 'linear'")
        self._require(0 <= self.warmup_fraction <= 1, "warmup_fraction", "between 0 and 1")
        self._require(0 <= self.gradient_clip < float("inf"), "gradient_clip", "at least 0; 0 turns it off")
        self._require(0 <= self.validation_fraction <= 0.5, "validation_fraction", "between 0 and 0.5; 0 turns it off")
        self._require(self.patience >= 0, "patience", "at least 0; 0 turns it off")
        self._require(self.class_weights in ("none", "balanced"), "class_weights", "'none' or 'balanced'")
        self._require(self.frozen_layers >= 0, "frozen_layers", "at least 0; 0 freezes nothing")

    def _require(self, holds: bool, field: str, right: str) -> None:
        if not holds:
            raise ConfigError(
                f"option {field!r} of the fine-tuning recipe is {getattr(self, field)!r}. It must be {right}."
            )
