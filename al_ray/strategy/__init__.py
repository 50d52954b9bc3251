"""Query strategies: which examples to ask for next, from arrays about the pool."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

import numpy as np

from al_ray.core.types import FloatArray, IntArray, PoolView, Ranking
from al_ray.registry import Plugin, Registry

C = TypeVar("C", bound=type)


class QueryStrategy(Plugin, Protocol):
    """Scores the pool, high = query first, and picks from the ranking. Pure: the same view and stream, the same query.

    A strategy inherits from this class and declares only what differs from the defaults. One that looks at single
    examples has a :meth:`score`; one that looks at the batch as a whole has a :meth:`pick` too.

    Attributes:
        source: authors, year and arXiv number or DOI.
        min_draws: predictions per example that it needs.
        needs_consistent_draws: whether a draw has to be one model for all examples.
        needs_scores: whether the pool has to be scored by the model at all.
        needs_logits: whether it reads ``logits`` of the pool.
        needs_features: whether it reads ``features`` of the pool.
        needs_embeddings: whether it reads ``embeddings`` of pool and labelled examples.
        needs_labeled: whether it reads ``labeled_log_probs`` (with ``needs_features`` also ``labeled_features``, with
            ``needs_uncertainty`` also ``labeled_uncertainty``).
        needs_labeled_dynamics: whether it reads ``labeled_dynamics``, which takes a fit with epochs.
        needs_rejected: whether it reads ``rejected`` (with ``needs_features`` also ``rejected_features``, with
            ``needs_embeddings`` also ``rejected_embeddings``).
        needs_predicted: whether it reads ``predicted``.
        needs_uncertainty: whether it reads ``uncertainty``, which not every confidence method has.
        needs_history: whether it reads ``history``.
        needs_hindsight: whether it reads ``truth``, ``last_scores`` and ``hindsight``, which makes it an upper bound
            that nobody can use; its scores are recorded.
        ranks: whether its score orders single examples, so that clipping the top of the ranking means something.
        labels_everything: whether the initial query is the whole pool, so that nothing is left to choose.
    """

    source: ClassVar[str]
    min_draws: ClassVar[int] = 1
    needs_consistent_draws: ClassVar[bool] = False
    needs_scores: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    needs_features: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = False
    needs_labeled: ClassVar[bool] = False
    needs_labeled_dynamics: ClassVar[bool] = False
    needs_rejected: ClassVar[bool] = False
    needs_predicted: ClassVar[bool] = False
    needs_uncertainty: ClassVar[bool] = False
    needs_history: ClassVar[bool] = False
    needs_hindsight: ClassVar[bool] = False
    ranks: ClassVar[bool] = True
    labels_everything: ClassVar[bool] = False

    @property
    def n_watched(self) -> int:
        """Pool examples whose predictions are recorded after every epoch of fine-tuning; 0 = none.

        A larger pool is subsampled to so many at random, and only they are candidates.
        """
        return 0

    @property
    def arms(self) -> "tuple[QueryStrategy, ...]":
        """The strategies that it chooses among; none mostly."""
        return ()

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the acquisition value of every example ``[n_pool]``; zeros where only the batch as a whole counts."""
        return np.zeros(len(pool))

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return the ids of the query ``[n]``, in the order of choice.

        Args:
            pool: the candidates that the filters left, at least ``n``; ids ascending.
            ranking: the same candidates by falling score.
            n: how many to pick.
            stream: the round's stream for picking.
        """
        return ranking.ids[:n]

    def choose(
        self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator
    ) -> tuple[IntArray, IntArray | None]:
        """Return the ids of the query as :meth:`pick` does, and which of :attr:`arms`, if any, chose each ``[n]``."""
        return self.pick(pool, ranking, n, stream), None


strategies: Registry[QueryStrategy] = Registry("query strategy", "al_ray.strategy")


def declares_for(parts: Callable[[Any], Iterable[QueryStrategy]]) -> Callable[[C], C]:
    """Let a class of strategies that are made of others need whatever one of these needs.

    That is every ``needs_...`` of the family, also what is added there later, ``min_draws`` and ``n_watched``.

    Args:
        parts: returns the strategies that one of the class is made of.
    """

    def of_any(flag: str) -> property:
        return property(lambda self: any(getattr(part, flag) for part in parts(self)))

    def of_most(number: str) -> property:
        return property(lambda self: max(getattr(part, number) for part in parts(self)))

    def add(cls: C) -> C:
        for flag in get_type_hints(QueryStrategy):
            if flag.startswith("needs_"):
                setattr(cls, flag, of_any(flag))
        for number in ("min_draws", "n_watched"):
            setattr(cls, number, of_most(number))
        return cls

    return add
