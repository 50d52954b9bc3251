"""TypiClust start: the typical examples of large clusters."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.clustering import typical_rows
from al_ray.core.types import IntArray, StartPool
from al_ray.initial import InitialQuery, initial_queries


@initial_queries.register("typiclust")
@dataclass(frozen=True)
class TypiClustInitial(InitialQuery):
    """The most typical example of each of as many k-means clusters of pretrained embeddings as are asked for.

    Hacohen et al. 2022 (arXiv 2202.02794, algorithm 1) with nothing labelled; the largest cluster first, at most 500
    clusters, those of at most 5 examples last. Work grows with the square of a cluster's size.

    Deviation: embeddings of the pretrained encoder stand for the paper's self-supervised features of images.
    """

    source: ClassVar[str] = "Hacohen et al. 2022, arXiv 2202.02794"
    needs_embeddings: ClassVar[bool] = True

    def pick(self, pool: StartPool, size: int, stream: np.random.Generator) -> IntArray:
        """Return ``size`` ids, the most typical of the largest cluster first; labels are not looked at."""
        assert pool.embeddings is not None, "the initial query 'typiclust' needs embeddings"
        return pool.ids[typical_rows(pool.embeddings, 0, size, stream)]
