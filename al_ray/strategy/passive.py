"""Passive learning: one fine-tune on the whole training split, the upper reference."""

from dataclasses import dataclass
from typing import ClassVar

from al_ray.strategy import QueryStrategy, strategies


@strategies.register("passive")
@dataclass(frozen=True)
class Passive(QueryStrategy):
    """The model fine-tuned once on the whole training split (Gonsior et al. 2022, arXiv 2210.03005, "Pass").

    What it gets wrong on the training split is that paper's definition of an outlier, so its cell records the
    predictions on every training example too, and where each lies on the map of the data set (Swayamdipta et al. 2020,
    arXiv 2009.10795): confidence, variability and correctness of its label over the epochs of the fit.

    Deviation: of a larger training split 10,000 examples are followed over the epochs, chosen by a hash of their ids;
    ``solver: lbfgs`` has no epochs, so that its map is that of the final model, without variability.
    """

    source: ClassVar[str] = "Gonsior et al. 2022, arXiv 2210.03005"
    needs_scores: ClassVar[bool] = False
    labels_everything: ClassVar[bool] = True
