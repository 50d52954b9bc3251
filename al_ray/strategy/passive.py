"""Passive learning: one fine-tune on the whole training split, the upper reference."""

from dataclasses import dataclass
from typing import ClassVar

from al_ray.strategy import QueryStrategy, strategies


@strategies.register("passive")
@dataclass(frozen=True)
class Passive(QueryStrategy):
    """The model fine-tuned once on the whole training split (Gonsior et al. 2022, arXiv 2210.03005, "Pass").

    What it gets wrong on the training split is that paper's definition of an outlier, so its cell records the
    predictions on every training example too.
    """

    source: ClassVar[str] = "Gonsior et al. 2022, arXiv 2210.03005"
    needs_scores: ClassVar[bool] = False
    labels_everything: ClassVar[bool] = True
