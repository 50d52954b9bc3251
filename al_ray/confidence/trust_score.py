"""Trust score: distances to the nearest labelled examples of the predicted class and of the others."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.confidence import ConfidenceMethod, State, confidences
from al_ray.core.types import BoolArray, Float64Array, FloatArray, IntArray, ModelOutputs
from al_ray.core.uncertainty import least_confidence, log_softmax, mean_log_probs
from al_ray.registry import Within

RATIO_LIMIT = 1e12
DISTANCE_GUARD = 1e-12
BLOCK_ROWS = 4096
BLOCK_VALUES = 2**23


@confidences.register("trust_score")
@dataclass(frozen=True)
class TrustScore(ConfidenceMethod):
    """Distance to the nearest labelled example of another class over the distance to one of the predicted class.

    Jiang et al. 2018 (arXiv 1805.11783, algorithms 1 and 2): in each class the share ``alpha`` of labelled examples in
    the thinnest places (greatest distance to the ``n_neighbors``-th neighbour, itself counted) is left out. The ratio
    ``xi = d(nearest other class) / (d(predicted class) + 1e-12)`` is Euclidean, between features of this round's model,
    and the predicted class is that of the mean softmax over the draws. A class without labelled examples is infinitely
    far; a predicted class without any is not trusted at all.

    Deviation: the ratio is no probability. So that strategies that read probabilities can use it, the predicted class
    gets ``1 / C + (1 - 1 / C) xi / (1 + xi)`` and the others share the rest evenly: greater ratios are greater
    probabilities, and the prediction stays. For that ``xi`` is held within [1e-12, 1e12].

    Attributes:
        n_neighbors: neighbour whose distance measures density, at least 1; in a smaller class its size.
        alpha: share of each class that may be left out, in [0, 1); 0 keeps all.
    """

    source: ClassVar[str] = "Jiang et al. 2018, arXiv 1805.11783"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True
    has_uncertainty: ClassVar[bool] = True
    n_neighbors: Annotated[int, Within(ge=1, advice="10 is usual.")] = 10
    alpha: Annotated[float, Within(ge=0, lt=1, advice="0.1 leaves out 10 % of each class.")] = 0.1

    def calibrate(self, outputs: ModelOutputs, labels: IntArray) -> State:
        """Return ``features [n_kept, n_features]`` and ``labels [n_kept]`` of the examples in dense places."""
        features = _features(outputs)
        kept = np.zeros(len(features), dtype=np.bool_)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            kept[rows] = in_dense_places(features[rows], self.n_neighbors, self.alpha)
        return {"features": features[kept], "labels": np.asarray(labels)[kept]}

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the mapped ratio, alike in every draw; the plain softmax without a state."""
        plain = log_softmax(outputs.logits)
        if state is None:
            return plain
        predicted = mean_log_probs(plain).argmax(axis=1)
        ratio = self._ratio(outputs, predicted, state)[:, None, None]
        n_classes = plain.shape[2]
        is_predicted = np.arange(n_classes) == predicted[:, None, None]
        believed = np.log1p(-(1 - 1 / n_classes) / (1 + ratio))
        values = np.where(is_predicted, believed, -math.log(n_classes) - np.log1p(ratio))
        return np.repeat(values, plain.shape[1], axis=1)

    def uncertainty(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return ``-ln xi`` ``[n]``, in [-27.7, 27.7], 0 = as near to another class; without a state ``1 - max p``."""
        beliefs = mean_log_probs(log_softmax(outputs.logits))
        if state is None:
            return least_confidence(beliefs)
        return -np.log(self._ratio(outputs, beliefs.argmax(axis=1), state))

    def _ratio(self, outputs: ModelOutputs, predicted: IntArray, state: State) -> Float64Array:
        return trust_ratio(_features(outputs), predicted, state["features"], state["labels"])


def _features(outputs: ModelOutputs) -> FloatArray:
    assert outputs.features is not None, "trust_score needs features"
    return outputs.features


def in_dense_places(features: FloatArray, n_neighbors: int, alpha: float) -> BoolArray:
    """Tell which examples of one class stay: all but at most ``floor(alpha n)`` of the greatest radii.

    The radius is the distance to the ``n_neighbors``-th nearest, the example itself counted as the first. Examples
    whose radius equals the greatest one kept stay too (Jiang et al. 2018, arXiv 1805.11783, algorithm 1).
    """
    k = min(n_neighbors, len(features))
    centre = features.mean(axis=0, dtype=np.float64)
    others = features - centre
    radii = np.empty(len(features))
    for rows in _blocks(len(features), len(features)):
        at = np.argpartition(_squared_distances(others[rows], others), k - 1, axis=1)[:, k - 1]
        radii[rows] = _distances(others[rows], others[at])
    n_out = math.floor(alpha * len(features) + 1e-9)
    return radii <= np.sort(radii)[len(features) - 1 - n_out]


def trust_ratio(features: FloatArray, predicted: IntArray, labeled: FloatArray, labels: IntArray) -> Float64Array:
    """Return the distance to the nearest other class over that to the predicted one, held within [1e-12, 1e12].

    Args:
        features: ``[n, n_features]``.
        predicted: class of each ``[n]``.
        labeled: features of the labelled examples ``[n_labeled, n_features]``.
        labels: their classes ``[n_labeled]``.
    """
    centre = labeled.mean(axis=0, dtype=np.float64) if len(labeled) else 0.0
    others = labeled - centre
    ratio = np.empty(len(features))
    for rows in _blocks(len(features), len(labeled)):
        points = features[rows] - centre
        squared = _squared_distances(points, others)
        is_own = labels == predicted[rows, None]
        own = _nearest(points, others, np.where(is_own, squared, np.inf))
        other = _nearest(points, others, np.where(is_own, np.inf, squared))
        ratio[rows] = np.where(np.isinf(own), 0.0, other / (np.where(np.isinf(own), 1.0, own) + DISTANCE_GUARD))
    return np.clip(ratio, 1 / RATIO_LIMIT, RATIO_LIMIT)


def _nearest(points: Float64Array, others: Float64Array, squared: Float64Array) -> Float64Array:
    """Return the distance to the nearest of ``others``, infinite where ``squared`` allows none."""
    if not len(others):
        return np.full(len(points), np.inf)
    at = squared.argmin(axis=1)
    is_allowed = np.isfinite(np.take_along_axis(squared, at[:, None], axis=1)[:, 0])
    return np.where(is_allowed, _distances(points, others[at]), np.inf)


def _squared_distances(points: Float64Array, others: Float64Array) -> Float64Array:
    """Find neighbours fast; near 0 the terms cancel, so that the distance itself is measured by :func:`_distances`."""
    norms = np.einsum("ij,ij->i", points, points)[:, None] + np.einsum("ij,ij->i", others, others)
    return norms - 2 * points @ others.T


def _distances(one: Float64Array, two: Float64Array) -> Float64Array:
    gap = one - two
    return np.sqrt(np.einsum("ij,ij->i", gap, gap))


def _blocks(n: int, width: int) -> Iterator[slice]:
    size = max(1, min(BLOCK_ROWS, BLOCK_VALUES // max(1, width)))
    return (slice(start, start + size) for start in range(0, n, size))
