"""Classification change: stop when another round of labels hardly changes a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from al_ray.core.types import RoundRecord
from al_ray.registry import Within
from al_ray.stopping import StoppingRule, recent, stopping_rules


@stopping_rules.register("classification_change")
@dataclass(frozen=True)
class ClassificationChange(StoppingRule):
    """Stop when ``patience`` rounds in a row change the predicted class of almost no example (Zhu et al. 2008).

    Zhu, Wang and Hovy, "Multi-criteria-based strategy to stop active learning for data annotation", COLING 2008
    (C08-1142), "classification-change".

    Deviation: the paper looks at all unlabelled examples and waits until none changes; a transformer fine-tuned from
    the start every round always moves a few, so that a share of ``threshold`` may change, of the stop set.

    Attributes:
        threshold: share of the stop set that may change, in [0, 1); 0 is the paper's.
        patience: successive pairs of models in a row; 2 is the paper's.
    """

    source: ClassVar[str] = "Zhu et al. 2008, COLING C08-1142"
    needs_stop_set: ClassVar[bool] = True
    threshold: Annotated[float, Within(ge=0, lt=1, advice="0.005 lets 0.5 % change.")] = 0.005
    patience: Annotated[int, Within(ge=1)] = 2

    def reason(self, rounds: Sequence[RoundRecord], n_pool: int, query_size: int) -> str | None:
        """Return the reason once the last ``patience`` rounds have all changed little."""
        changed = recent(rounds, "stop_set_changed", self.patience)
        if changed is None or not all(share <= self.threshold for share in changed):
            return None
        shown = ", ".join(f"{share:.4f}" for share in changed)
        return (
            f"classification change: {shown} of the stop set changed its class in the last {self.patience} round(s), "
            f"the threshold is {self.threshold}"
        )
