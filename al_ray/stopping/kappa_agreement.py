"""Kappa agreement: stop when successive models agree beyond chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from al_ray.core.types import RoundRecord
from al_ray.registry import Within
from al_ray.stopping import StoppingRule, recent, stopping_rules


@stopping_rules.register("kappa_agreement")
@dataclass(frozen=True)
class KappaAgreement(StoppingRule):
    """Stop when successive models agree on a stop set (Bloodgood and Vijay-Shanker 2009, arXiv 1409.5165).

    The mean of Cohen's kappa over the last ``window`` pairs of successive models reaches ``threshold``; "stabilizing
    predictions". A lower threshold stops earlier.

    Attributes:
        threshold: mean kappa, above 0 and at most 1.
        window: pairs of successive models.
    """

    source: ClassVar[str] = "Bloodgood and Vijay-Shanker 2009, arXiv 1409.5165"
    needs_stop_set: ClassVar[bool] = True
    threshold: Annotated[float, Within(gt=0, le=1, advice="0.99 is the paper's; a lower one stops earlier.")] = 0.99
    window: Annotated[int, Within(ge=1)] = 3

    def reason(self, rounds: Sequence[RoundRecord], n_pool: int, query_size: int) -> str | None:
        """Return the reason once the mean kappa of the last ``window`` pairs reaches the threshold."""
        kappas = recent(rounds, "stop_set_kappa", self.window)
        if kappas is None or not sum(kappas) / len(kappas) >= self.threshold:
            return None
        return (
            f"kappa agreement: the last {self.window} pair(s) of successive models agree with a mean kappa of "
            f"{sum(kappas) / len(kappas):.4f}, the threshold is {self.threshold}"
        )
