"""Evidential deep learning: logits as the evidence of a Dirichlet distribution over class probabilities."""

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


@confidences.register("evidential")
@dataclass(frozen=True)
class Evidential(ConfidenceMethod):
    """Mean of a Dirichlet distribution over class probabilities, whose vacuity tells ignorance from ambiguity.

    Sensoy et al. 2018 (arXiv 1806.01768): evidence ``e = max(z, 0)``, ``alpha = e + 1``, ``S = sum alpha``;
    probabilities ``alpha / S``; vacuity ``n_classes / S``. The loss is the expected squared error under the Dirichlet
    (eq. 5) plus ``lambda KL(Dir(alpha~) || Dir(1))``, where ``alpha~`` lacks the evidence for the answer and
    ``lambda = min(1, epoch / annealing_epochs)``.

    The loss of one and the same model rises with ``lambda``; held-out examples are judged at that of the last epoch.

    Attributes:
        annealing_epochs: epochs, counted from 0, until the penalty has its full weight; at least 1.
    """

    source: ClassVar[str] = "Sensoy et al. 2018, arXiv 1806.01768"
    has_uncertainty: ClassVar[bool] = True
    annealing_epochs: Annotated[
        int, Within(ge=1, advice="10 is usual; 1 gives the penalty its full weight from the second epoch on.")
    ] = 10

    def new_loss(self) -> Loss:
        """Return the expected squared error with the annealed penalty on misleading evidence."""
        return partial(evidential_loss, annealing_epochs=self.annealing_epochs)

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the logarithm of the Dirichlet mean ``alpha / S``."""
        alpha = _concentration(outputs.logits)
        return np.log(alpha) - np.log(alpha.sum(axis=-1, keepdims=True))

    def uncertainty(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the vacuity ``n_classes / S`` ``[n]``, in (0, 1], averaged over the draws."""
        alpha = _concentration(outputs.logits)
        return (alpha.shape[-1] / alpha.sum(axis=-1)).mean(axis=1)


def _concentration(logits: FloatArray) -> FloatArray:
    return np.maximum(np.asarray(logits, dtype=np.float64), 0.0) + 1.0


def evidential_loss(logits: "Tensor", targets: "Tensor", epoch: int, *, annealing_epochs: int) -> "Tensor":
    """Return the evidential loss of every example ``[n]``; computed in float64, for its parts cancel."""
    from torch.nn import functional

    alpha = functional.relu(logits.double()) + 1
    answer = functional.one_hot(targets, logits.shape[1]).to(alpha)
    misleading = answer + (1 - answer) * alpha
    weight = min(1.0, epoch / annealing_epochs)
    return (expected_squared_error(alpha, answer) + weight * divergence_from_uniform(misleading)).to(logits.dtype)


def expected_squared_error(alpha: "Tensor", answer: "Tensor") -> "Tensor":
    """Return ``E |answer - p|^2`` for ``p ~ Dir(alpha)``: squared bias of the mean plus variance ``[n]``."""
    total = alpha.sum(dim=1, keepdim=True)
    mean = alpha / total
    return ((answer - mean) ** 2 + mean * (1 - mean) / (total + 1)).sum(dim=1)


def divergence_from_uniform(alpha: "Tensor") -> "Tensor":
    """Return ``KL(Dir(alpha) || Dir(1))`` ``[n]``, in nats."""
    import torch

    total = alpha.sum(dim=1)
    normaliser = torch.lgamma(total) - math.lgamma(alpha.shape[1]) - torch.lgamma(alpha).sum(dim=1)
    return normaliser + ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total)[:, None])).sum(dim=1)
