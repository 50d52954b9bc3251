"""Dual diversity: typical texts of clusters by text and by guessed class, without a label."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.apportioning import even_seats
from al_ray.core.clustering import typical_rows
from al_ray.core.seeding import tie_keys
from al_ray.core.types import Float64Array, FloatArray, IntArray, StartPool
from al_ray.core.uncertainty import log_softmax
from al_ray.initial import InitialQuery, initial_queries
from al_ray.registry import LARGEST, Within


@initial_queries.register("dual_diversity")
@dataclass(frozen=True)
class DualDiversity(InitialQuery):
    """Typical texts of clusters by text and by guessed class, as many of each guessed class as of any other.

    After DEUCE (Guo et al. 2025, arXiv 2502.00305), which seeks a first query that is diverse in the texts and in the
    classes that a pretrained model guesses without a label. Here a class is guessed by the cosine between the embedding
    of a text and that of the class's name, standardised over the pool, since some names are near to everything: p =
    softmax of that. A text lies where its embedding and the square root of its p (so that distances are Hellinger's)
    say, both scaled to one mean squared distance from the centre. The places of the query are dealt evenly to the
    guessed classes, and in each class k-means finds as many clusters as it has places, of which the most typical
    text is taken, as in TypiClust (Hacohen et al. 2022, arXiv 2202.02794).

    Deviation: the paper guesses by prompts of a masked language model; here one encoder embeds texts and names.
    Deviation: the paper joins both neighbourhoods in a graph, clusters it by density, spreads uncertainty along it and
    takes farthest points; its constants could not be established. Here both distances are added, and doubt is not used.

    Attributes:
        prediction_weight: by which distances between guesses count against those between texts.
        max_candidates: of a larger pool so many random texts are looked at.
    """

    source: ClassVar[str] = "after Guo et al. 2025, arXiv 2502.00305"
    needs_embeddings: ClassVar[bool] = True
    needs_class_embeddings: ClassVar[bool] = True

    prediction_weight: Annotated[float, Within(ge=0, finite=True, advice="0 looks at the texts alone.")] = 0.5
    max_candidates: Annotated[int, Within(ge=2, le=LARGEST)] = 20_000

    def pick(self, pool: StartPool, size: int, stream: np.random.Generator) -> IntArray:
        """Return ``size`` ids, guessed class by guessed class; labels are not looked at."""
        assert pool.embeddings is not None, "the initial query 'dual_diversity' needs embeddings"
        assert pool.class_embeddings is not None, "the initial query 'dual_diversity' needs those of the class names"
        n_kept = max(self.max_candidates, size)
        kept = np.sort(np.argsort(tie_keys(pool.ids, int(stream.integers(2**62))))[:n_kept])
        embeddings = pool.embeddings[kept]
        probs = guessed_probs(embeddings, pool.class_embeddings)
        places = np.concatenate([_scaled(embeddings), self.prediction_weight * _scaled(np.sqrt(probs))], axis=1)
        guessed = probs.argmax(axis=1)
        chosen = []
        for c, n_seats in enumerate(even_seats(np.bincount(guessed, minlength=probs.shape[1]), size)):
            if n_seats:
                rows = np.flatnonzero(guessed == c)
                chosen.append(rows[typical_rows(places[rows], 0, int(n_seats), stream)])
        return pool.ids[kept[np.concatenate(chosen)]]


def guessed_probs(embeddings: FloatArray, class_embeddings: FloatArray) -> Float64Array:
    """Guess the classes of texts by the names of the classes alone.

    Args:
        embeddings: of the texts ``[n, n_embedding]``, unit length.
        class_embeddings: of the names ``[n_classes, n_embedding]``, unit length.

    Returns:
        probabilities ``[n, n_classes]``.
    """
    cosine = np.asarray(embeddings, dtype=np.float64) @ np.asarray(class_embeddings, dtype=np.float64).T
    spread = cosine.std(axis=0)
    return np.exp(log_softmax((cosine - cosine.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)))


def _scaled(points: FloatArray) -> Float64Array:
    """Return points with their centre at 0 and a mean squared distance of 1 from it; 0 where all are one."""
    centred = np.asarray(points, dtype=np.float64) - points.mean(axis=0, dtype=np.float64)
    length = float(np.sqrt(np.square(centred).sum(axis=1).mean()))
    return centred / length if length > 1e-9 else np.zeros_like(centred)
