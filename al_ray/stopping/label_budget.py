"""Label budget: stop when the labels that were paid for are spent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from al_ray.core.types import RoundRecord, asked_ids
from al_ray.registry import Within
from al_ray.stopping import StoppingRule, stopping_rules


@stopping_rules.register("label_budget")
@dataclass(frozen=True)
class LabelBudget(StoppingRule):
    """Stop before the query that would ask for more than ``n_labels`` answers in all.

    An abstained answer counts: the annotator was asked. A budget that is no multiple of the query size is not
    overspent, so up to ``query_size - 1`` labels may be left.

    Attributes:
        n_labels: answers to ask for at most, the initial query included.
    """

    source: ClassVar[str] = "baseline"
    n_labels: Annotated[int, Within(ge=1)]

    def reason(self, rounds: Sequence[RoundRecord], n_pool: int, query_size: int) -> str | None:
        """Return the reason once the next full query would overspend."""
        n_asked = len(asked_ids(rounds))
        if n_asked + query_size <= self.n_labels:
            return None
        return f"label budget: {n_asked} of {self.n_labels} labels asked"
