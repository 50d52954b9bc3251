"""Initial queries: which examples are labelled before there is a model."""

from typing import ClassVar, Protocol

import numpy as np

from al_ray.core.types import IntArray, LabeledSet
from al_ray.registry import Registry


class InitialQuery(Protocol):
    """Chooses the first examples, the seed set of the loop.

    Attributes:
        name: what a study file calls it.
    """

    name: ClassVar[str]

    def pick(self, truth: LabeledSet, n_classes: int, size: int, stream: np.random.Generator) -> IntArray:
        """Return ``size`` ids of the training split.

        Args:
            truth: ids (ascending) and labels of the training split; only simulations may look at the labels.
            n_classes: number of classes.
            size: how many to choose.
            stream: the cell's stream for the initial query.
        """
        ...


initial_queries: Registry[InitialQuery] = Registry("initial query", "al_ray.initial")
