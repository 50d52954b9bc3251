"""The softmax of the logits, taken at its word: the baseline of every comparison."""

from dataclasses import dataclass
from typing import Any, ClassVar

from al_ray.confidence import confidences
from al_ray.core.types import FloatArray, ModelOutputs
from al_ray.core.uncertainty import log_softmax


@confidences.register("softmax")
@dataclass(frozen=True)
class Softmax:
    """Plain softmax probabilities (Gonsior et al. 2022, arXiv 2210.03005, the baseline)."""

    name: ClassVar[str]
    n_draws: ClassVar[int] = 1
    needs_features: ClassVar[bool] = False

    def log_probs(self, outputs: ModelOutputs, state: Any = None) -> FloatArray:
        """Return ``log softmax`` of every draw's logits ``[n, n_draws, n_classes]``."""
        return log_softmax(outputs.logits)
