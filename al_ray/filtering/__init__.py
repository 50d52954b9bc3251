"""Candidate filters: which examples a round may not ask for, whatever their score."""

from typing import ClassVar, Protocol

import numpy as np

from al_ray.core.types import IntArray, PoolView, Ranking, UnscoredPool
from al_ray.registry import Plugin, Registry


class CandidateFilter(Plugin, Protocol):
    """Takes examples out of the pool before it is scored, or candidates out of the ranking afterwards.

    A filter inherits from this class and has a :meth:`select`, an :meth:`apply`, or both.

    Attributes:
        source: authors, year and arXiv number or DOI.
        clips: whether it removes by the order of the ranking, which needs a strategy that ranks.
        needs_embeddings: whether it reads embeddings of pool and labelled examples.
        needs_last_scores: whether it reads the last known acquisition values.
        needs_probs: whether it reads ``PoolView.log_probs``.
        needs_hardness: whether it reads how hard each example is for a model that is trained on every answer.
    """

    source: ClassVar[str]
    clips: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = False
    needs_last_scores: ClassVar[bool] = False
    needs_probs: ClassVar[bool] = False
    needs_hardness: ClassVar[bool] = False

    def select(self, pool: UnscoredPool, stream: np.random.Generator) -> IntArray:
        """Return the ids that the model shall score, a subset of the pool in any order."""
        return pool.ids

    def apply(self, ranking: Ranking, pool: PoolView, query_size: int) -> Ranking:
        """Return the candidates that stay, in their order.

        Args:
            ranking: the candidates by falling score.
            pool: a view that holds at least these candidates.
            query_size: how many the round will ask for.
        """
        return ranking

    def n_excluded(self, n_train: int, n_no_class: int = 0) -> int:
        """Return how many of ``n_train`` training examples are candidates in no round, whatever else is asked for.

        Args:
            n_train: training examples that may be asked for.
            n_no_class: how many of them are of no class, at most.
        """
        return 0

    def n_removed(self, n_candidates: int, query_size: int) -> int:
        """Return how many of ``n_candidates`` it removes at most, for checking a study before it starts.

        A filter that stops removing before fewer than ``query_size`` are left counts only up to there.
        """
        return 0


filters: Registry[CandidateFilter] = Registry("filter", "al_ray.filtering")
