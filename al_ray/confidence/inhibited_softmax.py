"""Inhibited softmax: a constant extra logit, whose share grows where all classes have little evidence."""

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from al_ray.confidence import ConfidenceMethod, Loss, State, confidences
from al_ray.core.types import FloatArray, ModelOutputs
from al_ray.registry import Within

if TYPE_CHECKING:
    from torch import Tensor


@confidences.register("inhibited_softmax")
@dataclass(frozen=True)
class InhibitedSoftmax(ConfidenceMethod):
    """Softmax with a constant extra logit, whose share grows where all classes have little evidence.

    Mozejko et al. 2018 (arXiv 1810.01861): ``p_c = exp(z_c) / (sum_j exp(z_j) + inhibition)`` in training and
    prediction; the share of the constant, ``inhibition / (sum_j exp(z_j) + inhibition)``, is the uncertainty.

    Deviation: rows have to sum to one, so that the share of the constant is spread evenly over the classes in
    :meth:`log_probs`; the order of the classes stays. The paper writes the constant as ``exp(a)``; here it is the added
    amount itself. The paper also changes the layers before the softmax and penalises the evidence that they give; a
    pretrained classifier keeps its architecture here, and the penalty is ``evidence_penalty`` times the sum of the
    positive logits.

    Attributes:
        inhibition: amount added to the sum of exponentials, above 0; 1.5 as in Gonsior et al. 2022 (arXiv 2210.03005).
        evidence_penalty: weight of the sum of the positive logits in the loss, at least 0.
    """

    source: ClassVar[str] = "Mozejko et al. 2018, arXiv 1810.01861"
    has_uncertainty: ClassVar[bool] = True
    inhibition: Annotated[float, Within(gt=0, finite=True, advice="1.5 is usual; 'softmax' has none.")] = 1.5
    evidence_penalty: Annotated[float, Within(ge=0, finite=True, advice="1e-6 is usual; 0 is no penalty.")] = 1e-6

    def new_loss(self) -> Loss:
        """Return the cross entropy of the inhibited softmax plus the penalty on evidence."""
        return partial(inhibited_loss, inhibition=self.inhibition, evidence_penalty=self.evidence_penalty)

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the inhibited softmax, the share of the constant spread evenly over the classes."""
        z, rival = self._shifted(outputs.logits)
        total = np.logaddexp(np.logaddexp.reduce(z, axis=-1, keepdims=True), rival)
        return np.logaddexp(z, rival - math.log(z.shape[-1])) - total

    def uncertainty(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the share of the constant ``[n]``, in [0, 1], averaged over the draws."""
        z, rival = self._shifted(outputs.logits)
        total = np.logaddexp(np.logaddexp.reduce(z, axis=-1), rival[..., 0])
        return np.exp(rival[..., 0] - total).mean(axis=1)

    def _shifted(self, logits: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the logits and the constant's logit, both less the greatest of them all."""
        z, rival = np.asarray(logits, dtype=np.float64), math.log(self.inhibition)
        peak = np.maximum(z.max(axis=-1, keepdims=True), rival)
        return z - peak, rival - peak


def inhibited_loss(
    logits: "Tensor", targets: "Tensor", epoch: int, *, inhibition: float, evidence_penalty: float
) -> "Tensor":
    """Return ``-log p_y`` of the inhibited softmax plus the penalty on positive logits, for every example ``[n]``."""
    import torch
    from torch.nn import functional

    rival = torch.full_like(logits[:, :1], math.log(inhibition))
    losses = functional.cross_entropy(torch.cat([logits, rival], dim=1), targets, reduction="none")
    return losses + evidence_penalty * functional.relu(logits).sum(dim=1)
