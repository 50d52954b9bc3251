"""AnchorAL: score only examples near some labelled ones of every class."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from al_ray.core.seeding import tie_keys
from al_ray.core.types import Float64Array, FloatArray, IntArray, RowView, UnscoredPool
from al_ray.filtering import CandidateFilter, filters
from al_ray.registry import Within

_ANCHORS_PER_BLOCK = 64  # 120,000 candidates x 64 similarities are 31 MB
_DIGITS = 5  # beyond, where a row stands in a matrix product decides, and copies of a text would not tie


@filters.register("anchor_subpool")
@dataclass(frozen=True)
class AnchorSubpool(CandidateFilter):
    """Score what is most similar to a few labelled examples of each class (Lesci and Vlachos 2024, arXiv 2404.05623).

    "AnchorAL", for rare classes: per class some labelled examples are drawn as anchors by k-means++ on the embeddings,
    anew every round; each retrieves its nearest pool examples by cosine; a candidate's value is its mean similarity to
    the anchors that retrieved it, and the best ``size`` are scored. Fewer where the anchors retrieve fewer, and never
    fewer than the query needs: the next most similar to any anchor fill it up.

    Deviation: the search is exact and not by an approximate index, and k-means++ draws each anchor once and not as the
    best of several. A pool of ``size`` or fewer is left as it is.

    Attributes:
        size: candidates to score; not established for the paper, 500 is the default of small-text's version.
        anchors: labelled examples drawn per class, all where a class has fewer.
        neighbours: pool examples that each anchor retrieves.
    """

    source: ClassVar[str] = "Lesci and Vlachos 2024, arXiv 2404.05623"
    needs_embeddings: ClassVar[bool] = True
    size: Annotated[int, Within(ge=1)] = 500
    anchors: Annotated[int, Within(ge=1)] = 10
    neighbours: Annotated[int, Within(ge=1)] = 50

    def select(self, pool: UnscoredPool, stream: np.random.Generator) -> IntArray:
        """Return the ids of the sub-pool."""
        if len(pool) <= max(self.size, pool.query_size) or not len(pool.labeled):
            return pool.ids
        assert pool.embeddings is not None
        keys = tie_keys(pool.ids, int(stream.integers(2**62)))
        values, n_retrieved = self._values(pool.embeddings, self._draw_anchors(pool, stream), keys)
        n_kept = max(min(self.size, n_retrieved), pool.query_size)
        return pool.ids[_top(values, keys, n_kept)]

    def n_removed(self, n_candidates: int, query_size: int) -> int:
        """Return all but what one anchor retrieves, and but the query: anchors may all retrieve the same."""
        return max(n_candidates - max(min(self.size, self.neighbours), query_size), 0)

    def _draw_anchors(self, pool: UnscoredPool, stream: np.random.Generator) -> FloatArray:
        assert pool.labeled_embeddings is not None
        of_class = (pool.labeled_embeddings[pool.labeled.labels == c] for c in range(pool.n_classes))
        return np.concatenate([points[_spread(points, self.anchors, stream)] for points in of_class if len(points)])

    def _values(
        self, embeddings: RowView, anchors: FloatArray, keys: npt.NDArray[np.uint64]
    ) -> tuple[Float64Array, int]:
        """Return what the sub-pool is chosen by ``[n_pool]``, and how many candidates were retrieved.

        Cosines are in [-1, 1]: what was not retrieved gets its largest one less 3, below all that was.
        """
        total, n_hits = np.zeros(len(embeddings)), np.zeros(len(embeddings), np.int64)
        nearest = np.full(len(embeddings), -1.0)
        for start in range(0, len(anchors), _ANCHORS_PER_BLOCK):
            of_anchors = anchors[start : start + _ANCHORS_PER_BLOCK]
            similarities = np.empty((len(of_anchors), len(embeddings)), dtype=of_anchors.dtype)
            for places, rows in embeddings.blocks():
                similarities[:, places] = of_anchors @ rows.T
            for similarity in np.round(similarities, _DIGITS, out=similarities):
                hits = _top(similarity, keys, self.neighbours)
                total[hits] += similarity[hits]
                n_hits[hits] += 1
                np.maximum(nearest, similarity, out=nearest)
        retrieved = n_hits > 0
        values = np.where(retrieved, total / np.maximum(n_hits, 1), nearest - 3.0)
        return values, int(retrieved.sum())


def _spread(points: FloatArray, n: int, stream: np.random.Generator) -> IntArray:
    """Draw distinct rows by k-means++: each with a chance as its squared distance to the nearest row drawn before."""
    if n >= len(points):
        return np.arange(len(points))
    exact = np.asarray(points, dtype=np.float64)
    chance = np.ones(len(points))
    chosen: list[int] = []
    for _ in range(n):
        if not chance.any():  # only copies of the chosen rows are left
            chance[np.setdiff1d(np.arange(len(points)), chosen)] = 1.0
        row = int(stream.choice(len(points), p=chance / chance.sum()))
        squared = ((exact - exact[row]) ** 2).sum(axis=1)
        chance = squared if not chosen else np.minimum(chance, squared)
        chosen.append(row)
    return np.asarray(chosen)


def _top(values: npt.NDArray[np.floating[Any]], keys: npt.NDArray[np.uint64], n: int) -> IntArray:
    """Return the rows of the ``n`` largest values, largest first; ties go by the keys."""
    if n < len(values):
        rows = np.flatnonzero(values >= np.partition(values, len(values) - n)[-n])
    else:
        rows = np.arange(len(values))
    return rows[np.lexsort((keys[rows], -values[rows]))][:n]
