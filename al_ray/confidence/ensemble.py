"""Deep ensemble: ask several models that were fine-tuned on the same answers."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from al_ray.confidence import ConfidenceMethod, confidences
from al_ray.core.types import Sampling
from al_ray.registry import Within


@confidences.register("ensemble")
@dataclass(frozen=True)
class Ensemble(ConfidenceMethod):
    """Softmax of several models fine-tuned on the same answers with other seeds; a committee that can disagree.

    Lakshminarayanan et al. 2017 (arXiv 1612.01474, section 2.4): the prediction is the mean of the members'
    probabilities, and each member sees all answers (no bagging). As a committee for queries: Seung et al. 1992
    (doi 10.1145/130385.130417).

    Deviation: members differ by the classifier's start, dropout, the order of batches and the held-out examples, for
    they share the pretrained encoder; there is no adversarial training.

    Attributes:
        n_members: models, at least 2; every one is a fine-tune and a pass over the pool.
    """

    source: ClassVar[str] = "Lakshminarayanan et al. 2017, arXiv 1612.01474"
    n_members: Annotated[int, Within(ge=2, advice="5 is usual; 1 is 'softmax'.")] = 5

    @property
    def sampling(self) -> Sampling:
        """Several members, one pass through each."""
        return Sampling(n_members=self.n_members)
