"""Evaluations: how good the model is, estimated from texts whose labels are paid for, without a test set.

A part of the pool is held out at the start by a hash of the ids, the *test pool*: it is never trained on. From it an
evaluation draws, round after round, texts that are answered like others. What is estimated is the mean loss over the
test pool, which is a random sample of the pool.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from al_ray.core.types import Draws, Float64Array, FloatArray, IntArray
from al_ray.registry import Plugin, Registry


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimated mean loss.

    Attributes:
        value: the estimate; of an accuracy it is 1 minus this.
        low: lower end of the 95 % interval.
        high: upper end.
        n: answers that it rests on.
    """

    value: float
    low: float
    high: float
    n: int


class Evaluation(Plugin, Protocol):
    """Draws the texts by which the model is measured, and estimates its mean loss from them.

    Attributes:
        source: authors, year and arXiv number or DOI.
        needs_probs: whether drawing reads the model's probabilities for the test pool.
    """

    source: ClassVar[str]
    needs_probs: ClassVar[bool] = False

    def n_held_out(self, n_pool: int) -> int:
        """Return how many texts of a pool of this size are held out as the test pool, fewer than all."""
        ...

    def n_per_round(self, query_size: int) -> int:
        """Return how many texts are drawn beside a query of this size, as long as any are left to draw."""
        ...

    def draw(self, ids: IntArray, probs: FloatArray | None, drawn: Draws, n: int, stream: np.random.Generator) -> Draws:
        """Draw further texts.

        Args:
            ids: the whole test pool ``[n_test_pool]``, ascending.
            probs: class probabilities of the present model ``[n_test_pool, n_classes]``, rows as ``ids``; None before
                there is a model, or where not asked for.
            drawn: what was drawn before.
            n: how many more at most; fewer come where the evaluation has enough or the test pool has no more.
            stream: of this round's draws.

        Returns:
            the new ones alone.
        """
        ...

    def estimate(self, drawn: Draws, losses: Float64Array, n_test_pool: int) -> Estimate | None:
        """Estimate the mean loss over the test pool.

        Args:
            drawn: all texts drawn so far.
            losses: of the present model on each of them ``[n_drawn]``, in [0, 1] for the error rate; NaN where the text
                has no answer (yet), or the annotator abstained.
            n_test_pool: texts of the test pool.

        Returns:
            the estimate, or None where there is no answer.
        """
        ...


evaluations: Registry[Evaluation] = Registry("evaluation", "al_ray.evaluation")
