"""Embedding k-means: the example nearest to each of as many k-means centres as are asked for."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.clustering import representatives
from al_ray.core.types import IntArray, PoolView, Ranking
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("embedding_kmeans")
@dataclass(frozen=True)
class EmbeddingKMeans(QueryStrategy):
    """The example nearest to each centre of as many k-means clusters as are asked for.

    Cluster-based selection (Yuan et al. 2020, arXiv 2010.09535) on the features of the fine-tuned model; the
    largest cluster first. Small problems by Lloyd's algorithm, large ones on mini-batches. Where fewer examples are
    distinct than asked for, the rest is drawn at random.

    Deviation: ALPS clusters surprisal embeddings of the masked language model, which a classifier does not have; plain
    features are the paper's baseline of clustered BERT embeddings, there of the pretrained model.
    """

    source: ClassVar[str] = "Yuan et al. 2020, arXiv 2010.09535"
    needs_features: ClassVar[bool] = True
    ranks: ClassVar[bool] = False

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids, one a cluster."""
        assert pool.features is not None, "embedding_kmeans needs PoolView.features"
        return pool.ids[representatives(pool.features, n, stream)]
