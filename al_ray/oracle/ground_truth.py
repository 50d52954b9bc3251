"""Ground truth: the data set's own labels answer every query."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.types import Annotation, IntArray, LabeledSet
from al_ray.oracle import Oracle, oracles


@oracles.register("ground_truth")
@dataclass(frozen=True)
class GroundTruth(Oracle):
    """Answers with the label in the data set: the simulation that active-learning papers report."""

    may_abstain: ClassVar[bool] = False

    def label(self, ids: IntArray, truth: LabeledSet) -> Annotation:
        """Look every id up in ``truth``; never abstains."""
        at = np.searchsorted(truth.ids, ids)
        assert np.array_equal(truth.ids[at], ids), "the query holds an id that is not in the training split"
        return Annotation(ids=ids, labels=truth.labels[at], abstained=np.zeros(len(ids), dtype=np.bool_))
