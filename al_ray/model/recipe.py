"""The fine-tuning recipe: what is done with the labelled examples of a round; identity of a cell."""

from dataclasses import dataclass
from typing import Annotated, Literal

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
