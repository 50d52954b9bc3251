"""Initial queries: which examples are labelled before there is a model."""

from typing import ClassVar, Protocol

import numpy as np

from al_ray.core.types import IntArray, StartPool
from al_ray.registry import Plugin, Registry


class InitialQuery(Plugin, Protocol):
    """Chooses the first examples, the seed set of the loop.

    Attributes:
        source: authors, year and arXiv number or DOI.
        needs_embeddings: whether it reads the embeddings of the pretrained encoder.
        needs_class_embeddings: whether it reads the embeddings of the names of the classes by the same encoder.
        needs_truth: whether it reads labels, which only a simulation has before it asks.
    """

    source: ClassVar[str]
    needs_truth: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = False
    needs_class_embeddings: ClassVar[bool] = False

    def pick(self, pool: StartPool, size: int, stream: np.random.Generator) -> IntArray:
        """Return ``size`` ids of the pool.

        Args:
            pool: what may be asked for.
            size: how many to choose.
            stream: the cell's stream for the initial query.
        """
        ...


initial_queries: Registry[InitialQuery] = Registry("initial query", "al_ray.initial")
