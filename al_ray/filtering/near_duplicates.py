"""Near-duplicate removal: drop candidates that nearly repeat a labelled or a higher-ranked text."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.types import BoolArray, FloatArray, PoolView, Ranking
from al_ray.filtering import CandidateFilter, filters
from al_ray.registry import Within


@filters.register("near_duplicates")
@dataclass(frozen=True)
class NearDuplicates(CandidateFilter):
    """Drop candidates that nearly repeat a labelled or a higher-ranked one (after Lee et al. 2022, arXiv 2107.06499).

    Among the first ``depth`` of the ranking, in its order, a candidate goes when the cosine of its embedding with a
    labelled example, or with a candidate that stays, is ``threshold`` or more. Where fewer than the query needs would
    be left, the best-ranked of those dropped stay after all.

    Deviation: the paper removes duplicates from training corpora by shared substrings and hashes; here it is the cosine
    of the pretrained encoder's embeddings, so that paraphrases count too.

    Attributes:
        threshold: cosine from which two texts count as the same, above 0 and below 1.
        depth: candidates that are looked at, from the top; the work grows with its square.
    """

    source: ClassVar[str] = "after Lee et al. 2022, arXiv 2107.06499"
    needs_embeddings: ClassVar[bool] = True
    threshold: Annotated[float, Within(gt=0, lt=1, advice="0.95 is a cosine of near copies.")] = 0.95
    depth: Annotated[int, Within(ge=1, advice="2000 looks at so many candidates.")] = 2000

    def apply(self, ranking: Ranking, pool: PoolView, query_size: int) -> Ranking:
        """Return the ranking without near-duplicates in its first ``depth``."""
        assert pool.embeddings is not None
        assert pool.labeled_embeddings is not None
        top = pool.embeddings[np.searchsorted(pool.ids, ranking.ids[: self.depth])].read()
        kept = np.ones(len(ranking), np.bool_)
        kept[: len(top)] = ~_repeats(top, pool.labeled_embeddings, self.threshold)
        missing = query_size - int(kept.sum())
        if missing > 0:
            kept[np.flatnonzero(~kept)[:missing]] = True
        return Ranking(ids=ranking.ids[kept], scores=ranking.scores[kept])

    def n_removed(self, n_candidates: int, query_size: int) -> int:
        """Return ``depth``, or all but the query where that is less."""
        return max(min(self.depth, n_candidates - query_size), 0)


def _repeats(points: FloatArray, known: FloatArray, threshold: float) -> BoolArray:
    """Mark each point within ``threshold`` of a known one or of an earlier unmarked one."""
    marked = np.zeros(len(points), np.bool_)
    if len(known):
        marked = np.asarray((points @ known.T).max(axis=1) >= threshold)
    for at in range(len(points) - 1):
        if not marked[at]:
            marked[at + 1 :] |= points[at + 1 :] @ points[at] >= threshold
    return marked
