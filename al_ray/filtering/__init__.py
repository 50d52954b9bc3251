"""Candidate filters: which examples a round may not ask for, whatever their score."""

from typing import ClassVar, Protocol

from al_ray.core.types import Ranking
from al_ray.registry import Registry


class CandidateFilter(Protocol):
    """Takes candidates out of a ranking and leaves the order of the rest.

    Attributes:
        name: what a study file calls it.
    """

    name: ClassVar[str]

    def apply(self, ranking: Ranking) -> Ranking:
        """Return the candidates that stay, in their order."""
        ...

    def n_removed(self, n_candidates: int) -> int:
        """Return how many of ``n_candidates`` it removes at most, for checking a study before it starts."""
        ...


filters: Registry[CandidateFilter] = Registry("filter", "al_ray.filtering")
