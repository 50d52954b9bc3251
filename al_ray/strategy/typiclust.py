"""TypiClust: the most typical example of each large cluster without a label."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.clustering import typical_rows
from al_ray.core.types import IntArray, PoolView, Ranking
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("typiclust")
@dataclass(frozen=True)
class TypiClust(QueryStrategy):
    """The most typical example of each large cluster that has no label yet: for small budgets.

    Hacohen et al. 2022 (arXiv 2202.02794, algorithm 1): k-means over labelled examples and pool into as many clusters
    as there are labels after the round, at most 500; clusters are visited by (fewest labels, then size), those of at
    most 5 examples last, and give the example of highest 1 / (mean distance to its nearest neighbours + 1e-5), with
    min(20, half of the cluster) neighbours. After the last cluster comes the first again.

    Deviation: distances are plain Euclidean as in the paper; the authors' code averages squared ones.
    Deviation: embeddings of the pretrained encoder stand for the paper's self-supervised features of images.
    """

    source: ClassVar[str] = "Hacohen et al. 2022, arXiv 2202.02794"
    needs_scores: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = True
    ranks: ClassVar[bool] = False

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids in the order in which clusters are visited."""
        assert pool.embeddings is not None, "typiclust needs PoolView.embeddings"
        assert pool.labeled_embeddings is not None, "typiclust needs PoolView.labeled_embeddings"
        points = np.concatenate([pool.labeled_embeddings, pool.embeddings.read()], dtype=np.float32)
        n_labeled = len(pool.labeled)
        return pool.ids[typical_rows(points, n_labeled, n, stream) - n_labeled]
