"""Mixture: fixed shares of every query by several strategies."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.types import IntArray, PoolView, Ranking
from al_ray.errors import ConfigError
from al_ray.registry import Within
from al_ray.strategy import strategies
from al_ray.strategy.arms import TYPICAL, UNSURE, Arm, ChoosesAmong, picked


@strategies.register("mixture")
@dataclass(frozen=True)
class Mixture(ChoosesAmong):
    """A fixed share of every query by each of some strategies; the first chooses first, from all that is there.

    What a policy that chooses among strategies has to beat (the uniform mixture of Zhang et al. 2023, arXiv
    2302.07317). Shares are kept exactly where they give whole numbers; else each strategy gets the whole number below
    or above its share, at random, so that the shares hold on average, with a query of one example as well.

    Deviation: the paper draws a strategy for every example, uniformly; here the shares of a round are fixed.

    Attributes:
        arms: the strategies, in the order in which they choose.
        shares: of the query, one a strategy, adding up to 1; None = equal ones.
    """

    source: ClassVar[str] = "Zhang et al. 2023, arXiv 2302.07317 (its uniform baseline)"
    ranks: ClassVar[bool] = False
    arms: tuple[Arm, ...] = (TYPICAL, UNSURE)
    shares: tuple[Annotated[float, Within(ge=0, le=1, advice="0.5 is half of the query.")], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shares is not None and (len(self.shares) != len(self.arms) or abs(sum(self.shares) - 1.0) >= 1e-9):
            raise ConfigError(
                f"shares are {list(self.shares)}, which add up to {sum(self.shares):g}, for {len(self.arms)} "
                "strategies. Give each strategy one share, adding up to 1, such as [0.5, 0.5]."
            )

    def choose(
        self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator
    ) -> tuple[IntArray, IntArray | None]:
        """Return the ids of the query ``[n]``, and which strategy chose each."""
        of_shares, *of_arms = stream.spawn(1 + len(self.arms))
        ids, arms, left = [], [], pool
        for at, size in enumerate(self._sizes(n, of_shares)):
            if size:
                ids.append(picked(self.arms[at], left, size, of_arms[at]))
                arms.append(np.full(size, at, dtype=np.int64))
                left = left.take(np.setdiff1d(left.ids, ids[-1], assume_unique=True))
        return np.concatenate(ids), np.concatenate(arms)

    def _sizes(self, n: int, stream: np.random.Generator) -> list[int]:
        """Return how many examples each strategy chooses, by systematic rounding of the shares."""
        shares = self.shares or (1 / len(self.arms),) * len(self.arms)
        ends = np.round(np.cumsum(shares) * n, 9)
        ends[-1] = n
        steps = np.floor(ends + stream.random())
        return np.diff(np.concatenate([[0.0], steps[:-1], [float(n)]])).astype(np.int64).tolist()
