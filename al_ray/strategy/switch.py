"""Switch: one strategy while labels are few, another one from a number of labels or a coverage of the pool on."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from al_ray.core.distances import nearest, single
from al_ray.core.seeding import stream as named_stream
from al_ray.core.seeding import tie_keys
from al_ray.core.types import FloatArray, IntArray, PoolView, Ranking
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies
from al_ray.strategy.arms import TYPICAL, UNSURE, Arm, ChoosesAmong
from al_ray.strategy.prob_cover import largest_pure_delta

COVERAGE_SAMPLE = 5000
PURITY = 0.95  # of prob_cover


@strategies.register("switch")
@dataclass(frozen=True)
class Switch(ChoosesAmong):
    """Typical examples while labels are few, unsure ones after that.

    Hacohen, Dekel and Weinshall 2022 (arXiv 2202.02794): opposite strategies suit low and high budgets. Where they
    cross depends on the data. Either a number of labels says so, which a study over initial sizes finds, or the share
    of the pool that lies nearer than delta to a labelled example, in embeddings, as Mishal and Weinshall 2024
    (arXiv 2407.01804) weigh coverage against margin; delta is estimated as ``prob_cover`` does.

    Deviation: the papers leave the crossing to the reader, or weigh one against the other by a smooth function of the
    coverage; the sharp switch and its default values are ours (about 100 typical labels cover 0.2 of 2,000 tickets).
    Coverage is that of at most 5,000 examples of the pool.

    Attributes:
        low: the strategy while labels are few.
        high: the strategy after that.
        when: what decides: the number of ``labels``, or the ``coverage`` of the pool.
        after: number of labels from which on ``high`` chooses; counts with ``when: labels``.
        covered: share of the pool from which on ``high`` chooses; counts with ``when: coverage``.
    """

    source: ClassVar[str] = "Hacohen, Dekel and Weinshall 2022, arXiv 2202.02794"
    low: Arm = TYPICAL
    high: Arm = UNSURE
    when: Literal["labels", "coverage"] = "labels"
    after: Annotated[int, Within(ge=1, advice="100 is a first guess; a study over initial sizes finds yours.")] = 100
    covered: Annotated[float, Within(gt=0, le=1, advice="0.2 waits for a fifth of the pool.")] = 0.2

    @property
    def arms(self) -> tuple[QueryStrategy, ...]:
        """The strategies for few and for many labels."""
        return self.low, self.high

    @property
    def ranks(self) -> bool:  # type: ignore[override]
        """Whether both order single examples."""
        return self.low.ranks and self.high.ranks

    @property
    def needs_embeddings(self) -> bool:  # type: ignore[override]
        """Whether one of them reads embeddings, or the coverage is measured in them."""
        return self.when == "coverage" or self.low.needs_embeddings or self.high.needs_embeddings

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the acquisition values of the strategy whose turn it is ``[n_pool]``."""
        return self.arms[self._turn(pool)].score(pool, stream)

    def choose(
        self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator
    ) -> tuple[IntArray, IntArray | None]:
        """Return the ids of the query ``[n]``, all chosen by the strategy whose turn it is."""
        turn = self._turn(pool)
        if self.when == "coverage":
            # Where filters took candidates out since, more or less is covered, and the ranking may be the other's.
            found = np.asarray(self.arms[turn].score(pool, stream.spawn(1)[0]), dtype=np.float64)
            scores = found[np.searchsorted(pool.ids, ranking.ids)]
            order = np.argsort(-scores, kind="stable")
            ranking = Ranking(ids=ranking.ids[order], scores=scores[order])
        return self.arms[turn].pick(pool, ranking, n, stream), np.full(n, turn, dtype=np.int64)

    def _turn(self, pool: PoolView) -> int:
        """Return 0 while labels are few and 1 after that; the same for any order of the pool."""
        if self.when == "labels":
            return int(len(pool.labeled) >= self.after)
        return int(coverage(pool) >= self.covered)


def coverage(pool: PoolView) -> float:
    """Return the share of the pool that is nearer to a labelled example than the balls are pure, in [0, 1].

    The radius is :func:`~al_ray.strategy.prob_cover.largest_pure_delta` of a sample of the pool.
    """
    assert pool.embeddings is not None, "switch with coverage needs PoolView.embeddings"
    assert pool.labeled_embeddings is not None, "switch with coverage needs PoolView.labeled_embeddings"
    if not len(pool.labeled_embeddings):
        return 0.0
    sample = np.argsort(tie_keys(pool.ids, 0))[:COVERAGE_SAMPLE]
    points = single(pool.embeddings[sample].read())
    clusters = min(pool.n_classes, len(points))
    delta = largest_pure_delta(points, clusters, PURITY, named_stream(0, "coverage"))
    return float((nearest(points, pool.labeled_embeddings)[1] < delta**2).mean())
