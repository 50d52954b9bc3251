"""UCB1: the strategy that may, within its confidence bound, find the rarest classes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.types import IntArray
from al_ray.registry import Within
from al_ray.strategy import strategies
from al_ray.strategy.arms import USUAL_ARMS, Arm, ArmCounts, Bandit, largest_at_random


@strategies.register("ucb")
@dataclass(frozen=True)
class UCB(Bandit):
    """Each place goes to the strategy of the highest upper confidence bound of its mean reward.

    UCB1 (Auer, Cesa-Bianchi and Fischer 2002, doi 10.1023/A:1013689704352, figure 1): mean + sqrt(2 ln t / n_i) after
    t examples, n_i of them by strategy i, and each strategy once before any bound counts; as a baseline for ``tailor``,
    with its reward: the rarer the class of an answer, the better; in [0, 1].

    Deviation: all answers of a round come at its end, so that within a round only t and n_i move.

    Attributes:
        arms: the strategies it chooses among.
        width: factor of the square root; 1 is UCB1, 0 follows the mean alone.
    """

    source: ClassVar[str] = "Auer, Cesa-Bianchi and Fischer 2002, doi 10.1023/A:1013689704352"
    arms: tuple[Arm, ...] = USUAL_ARMS
    width: Annotated[float, Within(ge=0, finite=True, advice="1 is UCB1.")] = 1.0

    def draw_arms(self, counts: ArmCounts, n: int, stream: np.random.Generator) -> IntArray:
        """Return which strategy fills each place ``[n]``."""
        rewards, n_asked = counts.mean_reward(), counts.n_asked.astype(np.float64)
        arms = np.empty(n, dtype=np.int64)
        for place in range(n):
            if (n_asked == 0).any():
                bounds = np.where(n_asked == 0, 1.0, 0.0)
            else:
                bounds = rewards + self.width * np.sqrt(2.0 * np.log(n_asked.sum()) / n_asked)
            arms[place] = largest_at_random(bounds, stream)
            n_asked[arms[place]] += 1
        return arms
