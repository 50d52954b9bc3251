"""LDM-S: examples whose prediction flips under the smallest change of the last layer, seeded diversely."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from al_ray.core.clustering import draw_row
from al_ray.core.disagreement import finite_log_probs
from al_ray.core.distances import row_blocks, single, unit_rows
from al_ray.core.logistic import logistic_regression
from al_ray.core.seeding import tie_keys
from al_ray.core.types import BoolArray, Float32Array, Float64Array, FloatArray, IntArray, PoolView, Ranking
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

SIGMAS = 10.0 ** (np.arange(-50, 1) / 10)
"""Standard deviations of the change of the weights, one after the other."""

SAME_DIRECTION = 1e-5
"""A cosine distance below this is zero but for rounding."""

L2 = 0.1
"""Penalty of a head that is fitted again, as the frozen learner's."""

NOT_LOOKED_AT = -2.0
"""Score of a candidate that is not in the sample: below that of any disagreement, which is at most 1."""


@strategies.register("ldm_s")
@dataclass(frozen=True)
class LdmS(QueryStrategy):
    """Examples near the decision boundary by how small a change of the classifier flips them, unlike one another.

    Querying easily flip-flopped samples (Cho et al. 2024, arXiv 2401.09787). The weights of the last layer are changed
    by normal noise of standard deviation sigma = 1e-5, 10^-4.9, ... 1; a change that flips a share rho of the
    candidates' labels gives rho to all that it flips, and the least disagree metric (LDM) of a candidate is the
    smallest it was given, 1 where nothing flips it. At each sigma, changes are drawn until ``n_idle`` in a row have
    made no LDM smaller. The batch is seeded as by k-means++ on the cosine distance D of the features with weights
    (gamma D)^2, the smallest LDM first: gamma = exp(-max(LDM - q, 0) / q) for the LDM q of rank n, scaled beyond rank n
    so that it adds up to n there, and at most 1. Once all that is left has no weight, the ranking decides.

    No weights are needed: a change Z of a linear layer adds Z h to logits that are known but for one constant an
    example, as the logarithms of probabilities.

    Deviation: pools of more than ``max_candidates`` are subsampled at random, anew in every round (as the authors' code
    does), and rho is measured on that sample, where the paper draws one of its own from the training set.
    Deviation: where the head has hidden layers, Z acts on what the first of them reads.
    Deviation: a confidence method's probabilities stand for the logits, averaged over draws as logarithms; what
    rescales logits changes how large a sigma is beside them.

    Attributes:
        head: whose labels flip: the ``model``'s own, or those of a head ``refitted`` to the labelled examples, a
            multinomial logistic regression on the features with a penalty of 0.1.
        n_idle: changes in a row without effect that end a sigma.
        max_candidates: pool examples at most; time grows faster than their number, and with that of classes.
    """

    source: ClassVar[str] = "Cho et al. 2024, arXiv 2401.09787"
    needs_features: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    head: Literal["model", "refitted"] = "model"
    n_idle: Annotated[int, Within(ge=1, advice="10 is the paper's value.")] = 10
    max_candidates: Annotated[int, Within(ge=2, advice="4000 is the authors' value for CIFAR-10.")] = 4000

    @property
    def needs_labeled(self) -> bool:  # type: ignore[override]
        """Whether a head is fitted to the labelled examples."""
        return self.head == "refitted"

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return minus the LDM ``[n_pool]``, in [-1, 0), and -2 for candidates that were not looked at."""
        assert pool.features is not None, "ldm_s needs PoolView.features"
        rows = np.argsort(tie_keys(pool.ids, int(stream.integers(2**62))))[: self.max_candidates]
        features = single(pool.features[rows])
        logits = self._refitted(pool, features) if self.head == "refitted" else _mean_logits(pool.log_probs[rows])
        scores = np.full(len(pool), NOT_LOOKED_AT)
        scores[rows] = -least_disagreement(features, logits, self.n_idle, stream)
        return scores

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids; the first is the top of the ranking."""
        assert pool.features is not None, "ldm_s needs PoolView.features"
        ids = ranking.ids[ranking.scores > NOT_LOOKED_AT]
        if not len(ids):  # filters may have left none of the sample
            return ranking.ids[:n]
        gamma = closeness(-ranking.scores[: len(ids)], n)
        directions = unit_rows(pool.features[np.searchsorted(pool.ids, ids)])
        chosen, nearest = [0], np.full(len(ids), np.inf)
        while len(chosen) < n:
            distances = 1.0 - (directions @ directions[chosen[-1]]).astype(np.float64)
            np.minimum(nearest, np.where(distances < SAME_DIRECTION, 0.0, distances), out=nearest)
            nearest[chosen] = 0.0
            row = draw_row((gamma * nearest) ** 2, stream)
            if row < 0:
                break
            chosen.append(row)
        return np.concatenate([ids[chosen], ranking.ids[~np.isin(ranking.ids, ids[chosen])]])[:n]

    def _refitted(self, pool: PoolView, features: Float32Array) -> Float64Array:
        """Return the logits of a head fitted to the labelled examples ``[n, n_classes]``."""
        assert pool.labeled_features is not None, "ldm_s with a refitted head needs PoolView.labeled_features"
        if not len(pool.labeled):
            # The penalty alone is smallest at no weights.
            return np.zeros((len(features), pool.n_classes))
        weight, bias, _, _ = logistic_regression(pool.labeled_features, pool.labeled.labels, pool.n_classes, l2=L2)
        return features @ weight.T + bias


def _mean_logits(log_probs: FloatArray) -> Float64Array:
    return finite_log_probs(log_probs).mean(axis=1)


def closeness(ldm: Float64Array, n: int) -> Float64Array:
    """Return the weight gamma of candidates by rising LDM ``[n_candidates]``, in [0, 1].

    Args:
        ldm: in (0, 1], rising.
        n: query size: to the candidates behind the first ``n`` belongs as much weight as to these at most.
    """
    q = ldm[min(n, len(ldm)) - 1]
    gamma = np.exp(-np.maximum(ldm - q, 0.0) / q)
    behind = gamma[n:].sum()
    if behind > 0:
        gamma[n:] *= n / behind
    return np.minimum(gamma, 1.0)


def least_disagreement(
    features: Float32Array, logits: Float64Array, n_idle: int, stream: np.random.Generator
) -> Float64Array:
    """Return the least disagree metric of every candidate ``[n]``, in [1/n, 1].

    Args:
        features: what a linear layer reads ``[n, n_features]``.
        logits: what it returns, up to one constant an example ``[n, n_classes]``.
        n_idle: changes in a row that make no value smaller, after which the next sigma follows.
        stream: draws the changes.
    """
    n, n_classes = logits.shape
    inputs = np.concatenate([features, np.ones((n, 1), dtype=np.float32)], axis=1)
    label = logits.argmax(axis=1)
    with np.errstate(over="ignore"):
        # In float64, so that a small change of large logits is no rounding error; infinite where none can make it up.
        ahead = (logits[np.arange(n), label, None] - logits).astype(np.float32)
    ldm = np.ones(n)
    for sigma in SIGMAS:
        idle = 0
        while idle < n_idle:
            # So many have to follow at least, whatever they do.
            changes = stream.standard_normal((n_idle - idle, n_classes, inputs.shape[1]), dtype=np.float32)
            for flips in _flips(inputs, ahead, label, np.float32(sigma) * changes):
                share = flips.mean()
                closer = flips & (ldm > share)
                ldm[closer] = share
                idle = 0 if closer.any() else idle + 1
    return ldm


def _flips(inputs: Float32Array, ahead: Float32Array, label: IntArray, changes: Float32Array) -> BoolArray:
    """Say whose label each change of the weights ``[n_changes, n_classes, n_inputs]`` flips ``[n_changes, n]``."""
    n_changes, n_classes, _ = changes.shape
    flips = np.empty((n_changes, len(inputs)), dtype=np.bool_)
    weights = changes.reshape(n_changes * n_classes, -1).T
    for rows in row_blocks(len(inputs), n_changes * n_classes):
        moved = (inputs[rows] @ weights).reshape(-1, n_changes, n_classes)
        moved -= ahead[rows, None]
        own = np.take_along_axis(moved, label[rows, None, None], axis=2)[..., 0]
        flips[:, rows] = (moved.max(axis=2) > own).T
    return flips
