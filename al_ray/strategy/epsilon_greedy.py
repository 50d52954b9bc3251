"""Epsilon-greedy: the strategy that found the rarest classes so far, or any one now and then."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.types import IntArray
from al_ray.registry import Within
from al_ray.strategy import strategies
from al_ray.strategy.arms import USUAL_ARMS, Arm, ArmCounts, Bandit, largest_at_random


@strategies.register("epsilon_greedy")
@dataclass(frozen=True)
class EpsilonGreedy(Bandit):
    """Each place goes to the strategy of the best mean reward so far, or with probability epsilon to any one.

    The bandit of Auer, Cesa-Bianchi and Fischer 2002 (doi 10.1023/A:1013689704352) with a constant epsilon, as a
    baseline for ``tailor``, with its reward: the rarer the class of an answer, the better; in [0, 1], nothing for a
    class that holds more than half of all labels. Equal rewards, as at the start, are settled at random.

    Attributes:
        arms: the strategies it chooses among.
        epsilon: probability of a strategy at random; 1 mixes them all, in equal shares on average.
    """

    source: ClassVar[str] = "Auer, Cesa-Bianchi and Fischer 2002, doi 10.1023/A:1013689704352"
    arms: tuple[Arm, ...] = USUAL_ARMS
    epsilon: Annotated[float, Within(ge=0, le=1, advice="0.1 explores with every tenth example.")] = 0.1

    def draw_arms(self, counts: ArmCounts, n: int, stream: np.random.Generator) -> IntArray:
        """Return which strategy fills each place ``[n]``."""
        rewards, n_arms = counts.mean_reward(), len(self.arms)
        explores = stream.random(n) < self.epsilon
        any_one = stream.integers(n_arms, size=n)
        return np.where(explores, any_one, [largest_at_random(rewards, stream) for _ in range(n)])
