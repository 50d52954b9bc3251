"""Label smoothing: train towards targets that are never quite certain."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from al_ray.confidence import ConfidenceMethod, Loss, confidences
from al_ray.registry import Within

if TYPE_CHECKING:
    from torch import Tensor


@confidences.register("label_smoothing")
@dataclass(frozen=True)
class LabelSmoothing(ConfidenceMethod):
    """The softmax of a model trained on labels that keep some doubt, so that it is less overconfident.

    Szegedy et al. 2016 (arXiv 1512.00567, section 7); what it does to calibration: Mueller et al. 2019
    (arXiv 1906.02629). The target is ``1 - alpha + alpha / n_classes`` for the answer and ``alpha / n_classes`` for
    every other class.

    Attributes:
        alpha: share of the target spread evenly over all classes, in [0, 1); 0 is plain cross entropy. 0.2 as in
            Gonsior et al. 2022 (arXiv 2210.03005); Szegedy et al. use 0.1 for 1,000 classes.
    """

    source: ClassVar[str] = "Szegedy et al. 2016, arXiv 1512.00567"
    alpha: Annotated[float, Within(ge=0, lt=1, advice="0.2 spreads 20 % over all classes.")] = 0.2

    def new_loss(self) -> Loss:
        """Return the cross entropy against smoothed targets."""
        return partial(smoothed_cross_entropy, alpha=self.alpha)


def smoothed_cross_entropy(logits: "Tensor", targets: "Tensor", epoch: int, *, alpha: float) -> "Tensor":
    """Return ``-sum_c target_c log p_c`` of every example ``[n]``, in nats."""
    from torch.nn import functional

    return functional.cross_entropy(logits, targets, reduction="none", label_smoothing=alpha)
