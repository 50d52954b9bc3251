"""Stratified start as the reference code of Gonsior et al. 2022 (arXiv 2210.03005) draws it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.apportioning import draw_seats, gonsior2022_seats
from al_ray.core.types import IntArray, StartPool
from al_ray.initial import InitialQuery, initial_queries


@initial_queries.register("gonsior2022/stratified")
@dataclass(frozen=True)
class Gonsior2022Stratified(InitialQuery):
    """Class proportions of the training split, rounded at the cost of the first classes.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. Where a class is too rare for a seat of its own, all get
    one more than the whole part of their share, and the first class that has some to spare pays for all of them: 25 of
    TREC-6 are 1, 3, 6, 6, 4, 5 where ``stratified`` gives 1, 6, 5, 5, 4, 4. Elsewhere seats that are left over are
    drawn with chances by class size, so that two classes of one size share 25 as 12 and 13 or as 13 and 12. With no
    more seats than classes a class may go without.
    """

    source: ClassVar[str] = "Gonsior et al. 2022, arXiv 2210.03005 (as its code computes it)"
    needs_truth: ClassVar[bool] = True

    def pick(self, pool: StartPool, size: int, stream: np.random.Generator) -> IntArray:
        """Return ``size`` ids, drawn at random within each class."""
        truth = pool.truth.of_a_class()
        seats = gonsior2022_seats(np.bincount(truth.labels), size, stream)
        return draw_seats(truth, seats, stream)
