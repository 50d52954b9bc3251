"""Overall uncertainty: stop when the mean entropy of the stop set is small."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from al_ray.core.types import RoundRecord
from al_ray.registry import Within
from al_ray.stopping import StoppingRule, recent, stopping_rules


@stopping_rules.register("overall_uncertainty")
@dataclass(frozen=True)
class OverallUncertainty(StoppingRule):
    """Stop when the mean predictive entropy is small (Zhu et al. 2010, doi 10.1145/1753783.1753784).

    Deviation: the mean is over the stop set, the same examples in every round, and not over what is left of the pool.
    A confident model stops early whether or not it is right, so calibration decides what a threshold means.

    Attributes:
        threshold: mean entropy in nats below which to stop, above 0; ln(n_classes) is the most there can be.
    """

    source: ClassVar[str] = "Zhu et al. 2010, doi 10.1145/1753783.1753784"
    needs_stop_set: ClassVar[bool] = True
    threshold: Annotated[float, Within(gt=0, advice="0.05 is a mean entropy in nats.")] = 0.05

    def reason(self, rounds: Sequence[RoundRecord], n_pool: int, query_size: int) -> str | None:
        """Return the reason once the mean entropy of the last round is below the threshold."""
        entropy = recent(rounds, "stop_set_entropy", 1)
        if entropy is None or not entropy[0] < self.threshold:
            return None
        return (
            f"overall uncertainty: the mean entropy of the stop set is {entropy[0]:.4f} nats, "
            f"the threshold is {self.threshold}"
        )
