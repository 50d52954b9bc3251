"""Ablation: ask only for the easiest share of the pool, as judged by a model that was trained on every answer."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.types import IntArray, UnscoredPool
from al_ray.filtering import CandidateFilter, filters
from al_ray.registry import Within


@filters.register("exclude_hardest")
@dataclass(frozen=True)
class ExcludeHardest(CandidateFilter):
    """Take the examples out that a model trained on everything learns worst, and see what active learning does without.

    Karamcheti et al. 2021 (arXiv 2107.02331, section 5): is it collective outliers that a strategy spends its labels
    on? Examples are ranked by how often their label was predicted over the epochs of that model, correctness, then by
    the label's mean probability, confidence (Swayamdipta et al. 2020, arXiv 2009.10795). It is fitted once a cell,
    before the first round, with a stream of its own, and reads every answer: an ablation that nobody can use on a pool
    without labels.

    Deviation: the paper removes the hardest from the training split, the initial query included; here the initial query
    is drawn from all of it.
    Deviation: with ``solver: lbfgs``, which has no epochs, the final model alone judges.

    Attributes:
        keep: share of the training split that may be asked for, the easiest.
    """

    source: ClassVar[str] = "Karamcheti et al. 2021, arXiv 2107.02331"
    needs_hardness: ClassVar[bool] = True
    keep: Annotated[float, Within(gt=0, le=1, advice="The paper keeps 0.5, 0.6, 0.75 and 0.9.")] = 0.75

    def select(self, pool: UnscoredPool, stream: np.random.Generator) -> IntArray:
        """Return the ids among the easiest ``keep``."""
        assert pool.hardness is not None, "exclude_hardest needs UnscoredPool.hardness"
        return pool.ids[pool.hardness <= self.keep]

    def n_excluded(self, n_train: int, n_no_class: int = 0) -> int:
        """Return how many of ``n_train`` examples are never candidates: those of no class are all as hard as can be."""
        n_hard = n_train - int(np.count_nonzero(np.arange(1, n_train + 1) / max(n_train, 1) <= self.keep))
        return max(n_hard, n_no_class) if n_hard else 0
