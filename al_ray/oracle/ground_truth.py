"""Ground truth: the data set's own labels answer every query."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.types import NO_CLASS, Annotation, IntArray, LabeledSet
from al_ray.oracle import Oracle, oracles


@oracles.register("ground_truth")
@dataclass(frozen=True)
class GroundTruth(Oracle):
    """Answers with the label in the data set: the simulation that active-learning papers report.

    Of a text that the data set puts into no class (an open set) it says so: the text was asked for, and has no label.
    """

    may_abstain: ClassVar[bool] = True

    def label(self, ids: IntArray, truth: LabeledSet) -> Annotation:
        """Look every id up in ``truth``; abstains where that is of no class."""
        at = np.searchsorted(truth.ids, ids)
        assert np.array_equal(truth.ids[at], ids), "the query holds an id that is not in the training split"
        return Annotation(ids=ids, labels=truth.labels[at], abstained=truth.labels[at] == NO_CLASS)
