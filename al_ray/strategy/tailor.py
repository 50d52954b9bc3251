"""TAILOR: Thompson sampling among strategies, by the classes that each of them finds."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.types import History, IntArray
from al_ray.registry import Within
from al_ray.strategy import strategies
from al_ray.strategy.arms import USUAL_ARMS, Arm, ArmCounts, Bandit


@strategies.register("tailor")
@dataclass(frozen=True)
class Tailor(Bandit):
    """Each place in the query goes to the strategy that, by Thompson sampling, promises the rarest classes.

    Zhang et al. 2023 (arXiv 2302.07317, "TAILOR"), for one class an example: the classes that strategy i finds are
    theta_i ~ Dirichlet(counts_i + 1), drawn anew for every place; the place goes to the largest theta_i . v, where v_c
    is 1 / (labels of class c), negative for a class that holds more than half of all labels. When the answers of a
    round come, older counts are multiplied by ``keep``. Counts start at 1, as in the authors' code; they follow from
    the records, so that a resumed cell draws what it would have drawn.

    Deviation: a strategy that chooses a whole batch chooses its own, of the query's size, and fills its places in that
    order; the authors tell every strategy of each example that another one chose.

    Attributes:
        arms: the strategies it chooses among.
        keep: share of the counts that is kept from round to round; the paper's forgetting factor.
    """

    source: ClassVar[str] = "Zhang et al. 2023, arXiv 2302.07317"
    arms: tuple[Arm, ...] = USUAL_ARMS
    keep: Annotated[float, Within(ge=0, le=1, advice="0.9 is the authors' value, 1 forgets nothing.")] = 0.9

    def count(self, history: History, n_classes: int) -> ArmCounts:
        """Return what the answers so far say about each strategy, recent ones more than old ones."""
        return ArmCounts.of(history, len(self.arms), n_classes, keep=self.keep, first=1.0)

    def draw_arms(self, counts: ArmCounts, n: int, stream: np.random.Generator) -> IntArray:
        """Return which strategy fills each place ``[n]``."""
        thetas = np.stack([stream.dirichlet(found + 1.0, size=n) for found in counts.found], axis=1)
        return (thetas @ counts.class_worth()).argmax(axis=1)
