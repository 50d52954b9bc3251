"""Uncertainty clipping: leave out the most uncertain few percent, which tend to be outliers."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from al_ray.core.types import PoolView, Ranking
from al_ray.filtering import CandidateFilter, filters
from al_ray.registry import Within


@filters.register("uncertainty_clipping")
@dataclass(frozen=True)
class UncertaintyClipping(CandidateFilter):
    """Ignore the top ``fraction`` of the ranking, then query on (Gonsior et al. 2022, arXiv 2210.03005, "UC").

    Clipped examples come back into play in the next round, when the scores are new.

    Deviation: the paper's code takes the percentile over labelled and unlabelled examples together and gives clipped
    ones the constant 1; here it is the pool alone, on the uncertain side of every strategy, and clipped ones are out.
    Exactly ``floor(fraction * n_candidates)`` go, ties settled as in the ranking.

    Attributes:
        fraction: share of the candidates to leave out, in [0, 1); 0 is the identity.
    """

    source: ClassVar[str] = "Gonsior et al. 2022, arXiv 2210.03005"
    clips: ClassVar[bool] = True
    fraction: Annotated[float, Within(ge=0, lt=1, advice="0.05 clips 5 %.")] = 0.05

    def apply(self, ranking: Ranking, pool: PoolView, query_size: int) -> Ranking:
        """Return the ranking without its first ``floor(fraction * n_candidates)`` entries."""
        n = self.n_removed(len(ranking), query_size)
        return Ranking(ids=ranking.ids[n:], scores=ranking.scores[n:])

    def n_removed(self, n_candidates: int, query_size: int) -> int:
        """Return ``floor(fraction * n_candidates)``."""
        return math.floor(self.fraction * n_candidates)
