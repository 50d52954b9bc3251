"""Disagreement of draws (committee members, ensemble members, dropout passes): votes and mutual information.

Shapes: ``log_probs [n, n_draws, n_classes]``, natural logarithm. Results are in nats, high = the draws disagree.
"""

import numpy as np

from al_ray.core.types import Float64Array, FloatArray, IntArray
from al_ray.core.uncertainty import mean_log_probs

LOWEST_LOG_PROB = -1e39
"""Stands for the logarithm of an exact zero: below any log-probability of finite float32 logits, and still finite."""

BLOCK_ROWS = 4096
"""Examples compared at once, so that memory does not grow with the pool."""


def finite_log_probs(log_probs: FloatArray) -> Float64Array:
    """Return the same log-probabilities in float64 with every ``-inf`` as a finite number whose ``exp`` is 0."""
    return np.maximum(np.asarray(log_probs, dtype=np.float64), LOWEST_LOG_PROB)


def vote_counts(log_probs: FloatArray) -> IntArray:
    """Count how many draws vote for each class ``[n, n_classes]``; a tie within a draw goes to the lower class."""
    n, _, n_classes = log_probs.shape
    votes = np.asarray(log_probs).argmax(axis=2)
    cells = votes + np.arange(n)[:, None] * n_classes
    return np.bincount(cells.ravel(), minlength=n * n_classes).reshape(n, n_classes)


def vote_entropy(log_probs: FloatArray) -> Float64Array:
    """Return the entropy of the hard votes ``[n]``, in [0, ln min(n_draws, n_classes)] (Dagan and Engelson 1995).

    Equal splits of the votes give bit-equal values, whichever classes they fall on.
    """
    # Sorted, so that the sum runs in one order for (3, 2, 0) and (2, 0, 3): rounding must not settle a tie.
    share = np.sort(vote_counts(log_probs), axis=1) / log_probs.shape[1]
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1) + 0.0


def mutual_information(log_probs: FloatArray) -> Float64Array:
    """Return the mutual information of label and draw ``[n]``, in [0, ln min(n_draws, n_classes)] (BALD).

    H(mean p) - mean H(p) = mean over draws of KL(p || mean p) (Houlsby et al. 2011, arXiv 1112.5745, eq. 2; McCallum
    and Nigam 1998). Computed as the divergence: without the cancellation of two entropies, and exactly 0 where all
    draws are alike.
    """
    information = np.empty(len(log_probs))
    for start in range(0, len(log_probs), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        information[rows] = _mean_divergence_from_mean(finite_log_probs(log_probs[rows]))
    return information


def _mean_divergence_from_mean(log_probs: Float64Array) -> Float64Array:
    apart = log_probs - mean_log_probs(log_probs)[:, None]
    return np.maximum((np.exp(log_probs) * apart).sum(axis=2).mean(axis=1), 0.0)
