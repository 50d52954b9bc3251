"""Uncertainty of a predictive distribution, from log-probabilities or logits; high = unsure.

Shapes: ``log_probs [n, n_classes]``, natural logarithm. Entropy is in nats.
"""

import numpy as np

from al_ray.core.types import Float64Array, FloatArray


def log_softmax(logits: FloatArray) -> Float64Array:
    """Return log-probabilities over the last axis, stable for any finite logits; computed in float64.

    The likeliest class keeps its digits when it is almost certain: its log-probability is ``-log1p`` of the others'
    share, so that very sure examples are still told apart.
    """
    z = np.asarray(logits, dtype=np.float64)
    top = z.argmax(axis=-1)[..., None]
    z = z - np.take_along_axis(z, top, axis=-1)
    others = np.exp(z)
    np.put_along_axis(others, top, 0.0, axis=-1)
    return z - np.log1p(others.sum(axis=-1, keepdims=True))


def mean_log_probs(log_probs: FloatArray) -> Float64Array:
    """Average probabilities over the draws: ``[n, n_draws, n_classes]`` -> ``[n, n_classes]``, still logarithms."""
    values = np.asarray(log_probs, dtype=np.float64)
    if values.shape[1] == 1:
        return values[:, 0]
    peak = values.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - peak).mean(axis=1)) + peak[:, 0]


def least_confidence(log_probs: FloatArray) -> Float64Array:
    """Return 1 - max p, in [0, 1 - 1/n_classes] (Lewis and Gale 1994, arXiv cmp-lg/9407020)."""
    return -np.expm1(np.asarray(log_probs, dtype=np.float64).max(axis=-1))


def margin(log_probs: FloatArray) -> Float64Array:
    """Return 1 - (p_1 - p_2) of the two likeliest classes, in [0, 1] (Scheffer et al. 2001, "breaking ties")."""
    top = np.partition(np.asarray(log_probs, dtype=np.float64), -2, axis=-1)[..., -2:]
    return -np.expm1(top[..., 1]) + np.exp(top[..., 0])


def entropy(log_probs: FloatArray) -> Float64Array:
    """Return the Shannon entropy in nats, in [0, ln n_classes]; a class of probability 0 adds 0."""
    values = np.asarray(log_probs, dtype=np.float64)
    probs = np.exp(values)
    return -np.where(probs > 0, probs * np.where(probs > 0, values, 0.0), 0.0).sum(axis=-1)


def free_energy(logits: FloatArray, temperature: float = 1.0) -> Float64Array:
    """Return -T logsumexp(z / T) over the last axis, of any sign: high = unlike what was trained on.

    Liu et al. 2020 (arXiv 2010.03759, eq. 4); between -max z - T ln n_classes and -max z.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return -temperature * np.logaddexp.reduce(scaled, axis=-1)


def label_errors(probs: FloatArray) -> Float64Array:
    """Return p minus the one-hot vector of the class predicted ``[n, n_classes]``.

    The gradient of cross-entropy for that label by the logits; the outer product with what the last layer reads is that
    by its weights.

    Args:
        probs: ``[n, n_classes]``; the lower class where two are as likely.
    """
    errors = np.array(probs, dtype=np.float64)
    errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1.0
    return errors
