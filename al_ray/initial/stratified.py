"""Stratified start: a sample with the class shares of the training split, at least one of every class."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.apportioning import draw_seats
from al_ray.core.types import IntArray, StartPool
from al_ray.errors import ConfigError
from al_ray.initial import InitialQuery, initial_queries


@initial_queries.register("stratified")
@dataclass(frozen=True)
class StratifiedInitial(InitialQuery):
    """Class proportions of the training split, each class at least once (Gonsior et al. 2022, arXiv 2210.03005).

    It needs to know the labels, so it exists in simulations alone. It takes no text of no class.
    """

    source: ClassVar[str] = "Gonsior et al. 2022, arXiv 2210.03005"
    needs_truth: ClassVar[bool] = True

    def pick(self, pool: StartPool, size: int, stream: np.random.Generator) -> IntArray:
        """Return ``size`` ids, apportioned by largest remainder after one example a class.

        Raises:
            ConfigError: ``size`` is below the number of classes.
        """
        truth = pool.truth.of_a_class()
        return draw_seats(truth, apportion(np.bincount(truth.labels), size), stream)


def apportion(counts: IntArray, size: int) -> IntArray:
    """Share ``size`` seats among classes by their counts: one each first, then by largest remainder.

    Args:
        counts: examples of each class ``[n_classes]``.
        size: seats in all; at most ``counts.sum()``.

    Returns:
        seats ``[n_classes]``, summing to ``size``, never above ``counts``.

    Raises:
        ConfigError: ``size`` is below the number of classes that occur.
    """
    present: IntArray = (counts > 0).astype(np.int64)
    if size < present.sum():
        raise ConfigError(
            f"initial_size is {size}, but a stratified initial query takes at least one example of each of the "
            f"{int(present.sum())} classes. Raise initial_size, or use 'random'."
        )
    seats: IntArray = present.copy()
    while seats.sum() < size:
        wanted = counts / counts.sum() * size - seats
        wanted[seats >= counts] = -np.inf
        seats[int(np.argmax(wanted))] += 1
    return seats
