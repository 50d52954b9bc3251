"""Upper bound: the best order of acquisition that simulated annealing finds by looking at the answers and the test."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.seeding import tie_keys
from al_ray.core.types import BoolArray, Float64Array, FloatArray, IntArray, PoolView
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

ANNEAL_FACTOR = 0.1  # the temperature of step i is 1 / (0.1 * (i + 1))
TOLERANCE_NATS = 1e-3
MAX_FIT_STEPS = 500


@strategies.register("optimal")
@dataclass(frozen=True)
class Optimal(QueryStrategy):
    """A bound, not a rival: the order of all queries that a search finds which sees every answer and the test split.

    Zhou et al. 2021 (arXiv 2101.00977): the order of acquisition is annealed. A step swaps an example with one of
    another batch or with one outside the budget, half of the steps each; step i = 0, 1, ... is accepted with
    probability exp(gain * 0.1 * (i + 1)), and the greedy steps that follow start from the best order so far and take
    only what is better. The quality of an order is the mean accuracy over the learning curve, the initial query
    included. The search runs once a cell, before the first query; the scores that it gives are recorded, and later
    rounds go on with them. What one search finds is a lower bound of the best that is possible.

    Deviation: the quality is measured on the test split that the report shows; the paper searches on a validation
    split, and its orders lose some of their lead on the test split.
    Deviation: inside the search the learner is multinomial logistic regression with L2 on the frozen learner's
    features, rotated to the ``max_features`` directions that hold most of their second moment. It is the cell's own
    learner with ``solver: lbfgs``, softmax and as many features as the encoder has, but for ``TOLERANCE_NATS``: a fit
    starts from that of the order before and ends where a step would lower the summed loss by no more.
    Deviation: pools of more than ``max_candidates`` are subsampled at random, once; the rest is never asked for.
    Deviation: answers are those of the data set, also where the oracle makes mistakes; texts of no class are not asked
    for while there are others.

    Attributes:
        n_annealed: steps of annealing.
        n_greedy: greedy steps after them.
        max_candidates: pool examples at most.
        max_features: directions of the features at most.
        l2: penalty of the learner inside, as ``l2`` of the frozen learner.
    """

    source: ClassVar[str] = "Zhou et al. 2021, arXiv 2101.00977"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True
    needs_hindsight: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    n_annealed: Annotated[int, Within(ge=0, advice="40000 is the paper's value.")] = 40_000
    n_greedy: Annotated[int, Within(ge=0, advice="5000 is the paper's value.")] = 5_000
    max_candidates: Annotated[int, Within(ge=1, le=20_000, advice="800 is the paper's pool.")] = 800
    max_features: Annotated[int, Within(ge=1, advice="32 is fast, 768 all of a base model.")] = 32
    l2: Annotated[float, Within(gt=0, finite=True, advice="0.1 is the frozen learner's default.")] = 0.1

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return how early each example comes in the order ``[n_pool]``; 0 outside it."""
        assert pool.last_scores is not None, "optimal needs PoolView.last_scores"
        known = ~np.isnan(pool.last_scores)
        if known.any():
            return np.where(known, pool.last_scores, 0.0)
        assert pool.truth is not None, "optimal needs PoolView.truth"
        by_hash = np.argsort(tie_keys(pool.ids, int(stream.integers(2**62))))
        rows = np.sort(by_hash[pool.truth[by_hash] >= 0][: self.max_candidates])
        order = self._search(pool, rows, stream)
        scores = np.zeros(len(pool))
        scores[rows[order]] = np.arange(len(order), 0, -1)
        return scores

    def _search(self, pool: PoolView, rows: IntArray, stream: np.random.Generator) -> IntArray:
        """Return the places among ``rows`` to ask for, first things first."""
        future = pool.hindsight
        assert future is not None, "optimal needs PoolView.hindsight"
        assert pool.truth is not None
        assert pool.features is not None, "optimal needs PoolView.features"
        assert pool.labeled_features is not None, "optimal needs PoolView.labeled_features"
        points, labeled, test = _rotated(
            (pool.features[rows], pool.labeled_features, future.test_features), self.max_features
        )
        curves = Curves(
            points=points,
            labels=pool.truth[rows],
            labeled_points=labeled,
            labeled=pool.labeled.labels,
            test_points=test,
            test_labels=future.test_labels,
            n_classes=pool.n_classes,
            query_size=future.query_size,
            l2=self.l2,
        )
        n_asked = min(future.n_queries * future.query_size, len(rows))
        return anneal(curves, n_asked, self.n_annealed, self.n_greedy, stream)[0]


class Curves:
    """Learning curves of logistic regression along orders of acquisition.

    Args:
        points: of the candidates ``[n_candidates, n_features]``.
        labels: of the candidates ``[n_candidates]``.
        labeled_points: what is labelled from the start ``[n_labeled, n_features]``.
        labeled: its labels ``[n_labeled]``.
        test_points: ``[n_test, n_features]``.
        test_labels: ``[n_test]``.
        n_classes: of the data set.
        query_size: examples that a point of the curve has more than the one before.
        l2: half of the squared weights, the intercepts among them, counts so much beside the summed loss.
    """

    def __init__(
        self,
        *,
        points: Float64Array,
        labels: IntArray,
        labeled_points: Float64Array,
        labeled: IntArray,
        test_points: Float64Array,
        test_labels: IntArray,
        n_classes: int,
        query_size: int,
        l2: float,
    ) -> None:
        self._points, self._labeled_points, self._test_points = map(
            _with_intercept, (points, labeled_points, test_points)
        )
        self._targets, self._labeled_targets = np.eye(n_classes)[labels], np.eye(n_classes)[labeled]
        self._test_labels, self._n_classes, self._l2 = test_labels, n_classes, l2
        self.query_size, self.n_candidates = query_size, len(points)

    def n_queries(self, n_asked: int) -> int:
        """Return how many queries ask for so many examples; the last may be smaller."""
        return -(-n_asked // self.query_size)

    def start(self, n_asked: int) -> Float64Array:
        """Return weights to start from, of the initial query and after each query ``[n_queries + 1, C, D]``."""
        return np.zeros((1 + self.n_queries(n_asked), self._n_classes, self._points.shape[1]))

    def accuracies(
        self, order: IntArray, weights: Float64Array, first: int, stop: int
    ) -> tuple[Float64Array, Float64Array]:
        """Fit and measure the points ``first`` to ``stop - 1`` of the curve of an order, 0 being the initial query.

        Args:
            order: candidates ``[n_asked]``, first things first.
            weights: from where fits start ``[n_queries + 1, n_classes, n_features + 1]``.
            first: first point.
            stop: point before which to stop.

        Returns:
            accuracies on the test split ``[stop - first]``, and the fitted weights of these points.
        """
        sizes = np.minimum(np.arange(first, stop) * self.query_size, len(order))
        asked = order[: sizes[-1]]
        points = np.concatenate([self._labeled_points, self._points[asked]])
        targets = np.concatenate([self._labeled_targets, self._targets[asked]])
        is_in = np.arange(len(points)) < (len(self._labeled_points) + sizes)[:, None]
        fitted = fit_nested(points, targets, is_in, weights[first:stop], self._l2)
        predicted = (fitted @ self._test_points.T).argmax(axis=1)
        return (predicted == self._test_labels).mean(axis=1), fitted


def anneal(
    curves: Curves, n_asked: int, n_annealed: int, n_greedy: int, stream: np.random.Generator
) -> tuple[IntArray, float]:
    """Return the best order of acquisition that a search finds ``[n_asked]``, and its mean accuracy.

    Args:
        curves: what is measured.
        n_asked: examples that all queries ask for together.
        n_annealed: steps of simulated annealing.
        n_greedy: steps after them, from the best order so far, that take only what is better.
        stream: of the search.
    """
    all_ = stream.permutation(curves.n_candidates)
    accuracies, weights = curves.accuracies(all_[:n_asked], curves.start(n_asked), 0, curves.n_queries(n_asked) + 1)
    best = (all_.copy(), accuracies.copy(), weights.copy())
    for step in range(n_annealed + n_greedy):
        if step == n_annealed:
            all_, accuracies, weights = best[0].copy(), best[1].copy(), best[2].copy()
        swap = _swap(n_asked, len(all_), curves.query_size, stream)
        if swap is None:
            break
        i, j = swap
        # Only models after the earlier of the two places, and up to the later one, are fitted on other examples.
        changed = slice(i // curves.query_size + 1, min(j // curves.query_size + 1, len(accuracies)))
        all_[[i, j]] = all_[[j, i]]
        new, fitted = curves.accuracies(all_[:n_asked], weights, changed.start, changed.stop)
        gain = float((new - accuracies[changed]).sum()) / len(accuracies)
        if step < n_annealed:
            is_taken = gain >= 0 or stream.random() < np.exp(gain * ANNEAL_FACTOR * (step + 1))
        else:
            is_taken = gain > 0
        if not is_taken:
            all_[[i, j]] = all_[[j, i]]
            continue
        accuracies[changed], weights[changed] = new, fitted
        if accuracies.mean() > best[1].mean():
            best = (all_.copy(), accuracies.copy(), weights.copy())
    return best[0][:n_asked], float(best[1].mean())


def _swap(n_asked: int, n_all: int, query_size: int, stream: np.random.Generator) -> tuple[int, int] | None:
    """Draw two places of different batches to swap, the earlier first: half of them with one outside the budget.

    None where there is one batch and nothing outside.
    """
    can_stay, can_leave = n_asked > query_size, n_all > n_asked
    if not (can_stay or can_leave):
        return None
    i = int(stream.integers(n_asked))
    if can_leave and (not can_stay or stream.random() < 0.5):
        return i, int(stream.integers(n_asked, n_all))
    j = int(stream.integers(n_asked))
    while i // query_size == j // query_size:
        i, j = (int(place) for place in stream.integers(n_asked, size=2))
    return min(i, j), max(i, j)


def fit_nested(
    points: Float64Array, targets: Float64Array, is_in: BoolArray, weights: Float64Array, l2: float
) -> Float64Array:
    """Fit several multinomial logistic regressions at once, each on some of the same rows.

    Each minimises ``sum_i -log p_i,y + l2/2 |W|^2`` by steps that a bound of the Hessian allows, ``1/2 X'X + l2``
    (Boehning 1992, doi 10.1007/BF00048682), with Nesterov's momentum, which starts anew where it leads uphill.

    Args:
        points: ``[n, n_features]``.
        targets: one-hot labels ``[n, n_classes]``.
        is_in: which rows each is fitted on ``[n_fits, n]``.
        weights: from where each starts ``[n_fits, n_classes, n_features]``.
        l2: weight of the penalty.

    Returns:
        weights ``[n_fits, n_classes, n_features]``, from which a step would lower no loss by more than
        ``TOLERANCE_NATS``.
    """
    n_fits, n_classes, n_features = weights.shape
    curvature = np.stack([0.5 * points[rows].T @ points[rows] for rows in is_in]) + l2 * np.eye(n_features)
    inverse = np.linalg.inv(curvature)
    left_out = ~is_in[:, None, :]
    one_hot: Float64Array = targets.T
    last = at = weights
    momentum = np.ones(n_fits)
    for _ in range(MAX_FIT_STEPS):
        logits = (at.reshape(-1, n_features) @ points.T).reshape(n_fits, n_classes, -1)
        logits -= logits.max(axis=1, keepdims=True)
        residual = np.exp(logits, out=logits)
        residual /= residual.sum(axis=1, keepdims=True)
        residual -= one_hot
        np.copyto(residual, 0.0, where=left_out)
        gradient = (residual.reshape(n_fits * n_classes, -1) @ points).reshape(weights.shape) + l2 * at
        step = gradient @ inverse
        new = at - step
        if np.einsum("kcd,kcd->k", gradient, step).max() <= TOLERANCE_NATS:
            return new
        moved = new - last
        momentum[np.einsum("kcd,kcd->k", gradient, moved) > 0] = 1.0
        further = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        at = new + ((momentum - 1) / further)[:, None, None] * moved
        last, momentum = new, further
    return last


def _with_intercept(points: FloatArray) -> Float64Array:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1, dtype=np.float64)


def _rotated(parts: tuple[FloatArray, ...], n: int) -> list[Float64Array]:
    """Rotate points to the ``n`` directions that hold most of the second moment of the first two parts.

    A rotation without a shift changes nothing for a learner with L2; only directions that are dropped do.
    """
    exact = [np.asarray(part, dtype=np.float64) for part in parts]
    if exact[0].shape[1] <= n:
        return exact
    known = np.concatenate(exact[:2])
    directions = np.linalg.eigh(known.T @ known)[1][:, ::-1][:, :n]
    return [part @ directions for part in exact]
