"""Confidence methods: how sure the model is, as log-probabilities read from its outputs."""

from typing import Any, ClassVar, Protocol

from al_ray.core.types import FloatArray, ModelOutputs
from al_ray.registry import Registry


class ConfidenceMethod(Protocol):
    """Turns what the model returned into log-probabilities.

    A method may also have ``loss(logits, targets, epoch)``, per-example losses for fine-tuning on tensors
    ``[n, n_classes]`` and ``[n]``; without it the cell fine-tunes with cross-entropy.

    Attributes:
        name: what a study file calls it.
        n_draws: predictions per example that it gives.
        needs_features: whether it reads ``ModelOutputs.features``.
    """

    name: ClassVar[str]
    n_draws: ClassVar[int]
    needs_features: ClassVar[bool]

    def log_probs(self, outputs: ModelOutputs, state: Any = None) -> FloatArray:
        """Return natural log-probabilities ``[n, n_draws, n_classes]``, each row summing to one in probability."""
        ...


confidences: Registry[ConfidenceMethod] = Registry("confidence", "al_ray.confidence")
