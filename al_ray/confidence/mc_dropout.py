"""Monte Carlo dropout: several predictions with dropout on, as draws."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from al_ray.confidence import ConfidenceMethod, confidences
from al_ray.core.types import Sampling
from al_ray.registry import Within


@confidences.register("mc_dropout")
@dataclass(frozen=True)
class MCDropout(ConfidenceMethod):
    """Softmax of several passes with dropout on, as draws from an approximate posterior over models.

    Gal and Ghahramani 2016 (arXiv 1506.02142): every pass is one draw; their mean is the prediction.

    Deviation: ``where: head`` drops only the features that the classifier reads, so that the encoder runs once. It is
    Monte Carlo dropout of the last layer alone, at a fraction of the cost, and one mask serves all examples of a pass.

    Attributes:
        n_passes: passes a prediction, at least 2.
        where: ``network`` drops in every layer, with independent masks for examples; ``head`` only before the
            classifier, where every pass is one consistent model.
        rate: share that is dropped, between 0 and 1; None = as the model was trained.
    """

    source: ClassVar[str] = "Gal and Ghahramani 2016, arXiv 1506.02142"
    n_passes: Annotated[int, Within(ge=2, advice="10 is usual; more cost more time.")] = 10
    where: Literal["network", "head"] = "network"
    rate: Annotated[float, Within(gt=0, lt=1, advice="0.1 drops 10 %; null takes the model's own.")] | None = None

    @property
    def sampling(self) -> Sampling:
        """Several passes with dropout."""
        return Sampling(n_passes=self.n_passes, dropout=self.where, rate=self.rate)

    @property
    def has_consistent_draws(self) -> bool:
        """Whether one mask serves all examples of a pass."""
        return self.where == "head"
