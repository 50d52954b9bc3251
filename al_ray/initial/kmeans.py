"""K-means start: the example nearest to each centre of the pretrained embeddings."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.clustering import representatives
from al_ray.core.types import IntArray, StartPool
from al_ray.initial import InitialQuery, initial_queries


@initial_queries.register("kmeans")
@dataclass(frozen=True)
class KMeansInitial(InitialQuery):
    """The example nearest to each centre of as many k-means clusters of pretrained embeddings as are asked for.

    Cluster-based cold start (Hu et al. 2010, "Off to a good start"; Yuan et al. 2020, arXiv 2010.09535, whose baseline
    clusters BERT embeddings); the largest cluster first.
    """

    source: ClassVar[str] = "Yuan et al. 2020, arXiv 2010.09535"
    needs_embeddings: ClassVar[bool] = True

    def pick(self, pool: StartPool, size: int, stream: np.random.Generator) -> IntArray:
        """Return ``size`` ids, one a cluster; labels are not looked at."""
        assert pool.embeddings is not None, "the initial query 'kmeans' needs embeddings"
        return pool.ids[representatives(pool.embeddings, size, stream)]
