"""Target accuracy: stop when the accuracy on labelled validation examples reaches a target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from al_ray.core.types import RoundRecord
from al_ray.registry import Within
from al_ray.stopping import StoppingRule, recent, stopping_rules


@stopping_rules.register("target_accuracy")
@dataclass(frozen=True)
class TargetAccuracy(StoppingRule):
    """Stop when the accuracy on labelled validation examples reaches a target in ``patience`` rounds in a row.

    The validation examples are drawn at random, leave the pool and are never trained on. Their labels are paid for
    too: ``n_examples`` on top of what is asked. The standard error of an accuracy a is
    ``sqrt(a (1 - a) / n_examples)``, 2.1 points at 0.9 with 200.

    Attributes:
        target: accuracy to reach, above 0 and at most 1.
        n_examples: validation examples.
        patience: rounds in a row that have to reach it.
    """

    source: ClassVar[str] = "baseline"
    target: Annotated[float, Within(gt=0, le=1, advice="0.9 is an accuracy of 90 %.")]
    n_examples: Annotated[int, Within(ge=1)] = 200
    patience: Annotated[int, Within(ge=1)] = 1

    @property
    def n_validation(self) -> int:
        """The validation examples that it asks for."""
        return self.n_examples

    def reason(self, rounds: Sequence[RoundRecord], n_pool: int, query_size: int) -> str | None:
        """Return the reason once the last ``patience`` rounds have all reached the target."""
        reached = recent(rounds, "validation_accuracy", self.patience)
        if reached is None or not all(accuracy >= self.target for accuracy in reached):
            return None
        shown = ", ".join(f"{accuracy:.4f}" for accuracy in reached)
        return (
            f"target accuracy: {shown} on {self.n_examples} validation examples in the last {self.patience} round(s), "
            f"the target is {self.target}"
        )
