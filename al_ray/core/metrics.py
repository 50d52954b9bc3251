"""Metrics of a round's model, and measures of a learning curve."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from al_ray.core.types import Float64Array, FloatArray, IntArray


def evaluate(log_probs: FloatArray, labels: IntArray) -> dict[str, float]:
    """Return every metric of the learning curve.

    Args:
        log_probs: ``[n, n_classes]``, natural logarithm.
        labels: class indices ``[n]``.

    Returns:
        ``accuracy``, ``macro_f1``, ``ece`` (all in [0, 1]), ``brier`` (in [0, 2]) and ``loss`` (nats).
    """
    values = np.asarray(log_probs, dtype=np.float64)
    return {
        "accuracy": float((values.argmax(axis=1) == labels).mean()),
        "macro_f1": macro_f1(values.argmax(axis=1), labels, values.shape[1]),
        "ece": expected_calibration_error(values, labels),
        "brier": brier_score(values, labels),
        "loss": float(-values[np.arange(len(labels)), labels].mean()),
    }


def macro_f1(predicted: IntArray, labels: IntArray, n_classes: int) -> float:
    """Return the unweighted mean of the F1 of every class; a class neither present nor predicted counts as 0."""
    hits = np.bincount(labels[predicted == labels], minlength=n_classes).astype(np.float64)
    total = np.bincount(predicted, minlength=n_classes) + np.bincount(labels, minlength=n_classes)
    return float(np.divide(2 * hits, total, out=np.zeros(n_classes), where=total > 0).mean())


def expected_calibration_error(log_probs: FloatArray, labels: IntArray, n_bins: int = 10) -> float:
    """Return the expected calibration error of the predicted class over equal-width bins ``(a, b]``.

    Source: Guo et al. 2017 (arXiv 1706.04599, eq. 3); 10 bins as Gonsior et al. (arXiv 2210.03005).
    """
    confidence = np.exp(np.asarray(log_probs, dtype=np.float64).max(axis=1))
    correct = (log_probs.argmax(axis=1) == labels).astype(np.float64)
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    gap = np.bincount(bins, weights=correct - confidence, minlength=n_bins)
    return float(np.abs(gap).sum() / len(labels))


def brier_score(log_probs: FloatArray, labels: IntArray) -> float:
    """Return the mean squared distance between the probabilities and the one-hot label, in [0, 2] (Brier 1950)."""
    errors = np.exp(np.asarray(log_probs, dtype=np.float64))
    errors[np.arange(len(labels)), labels] -= 1.0
    return float((errors**2).sum(axis=1).mean())


def aulc(values: Sequence[float] | FloatArray) -> float:
    """Return the area under a learning curve: the mean of its points, up to the constant step between them.

    The definition of Gonsior et al. (arXiv 2210.03005); not the trapezoid, which would weigh the two ends by half.
    """
    return float(np.mean(np.asarray(values, dtype=np.float64)))


def labels_to_reach(n_labeled: Sequence[int], values: Sequence[float], level: float) -> float:
    """Return how many labels a learning curve needs to reach ``level`` for the first time, linearly between points.

    Returns:
        labels (may be fractional), or NaN where the curve never gets there.
    """
    curve: Float64Array = np.asarray(values, dtype=np.float64)
    reached = np.flatnonzero(curve >= level)
    if not len(reached):
        return float("nan")
    at = int(reached[0])
    if at == 0:
        return float(n_labeled[0])
    share = (level - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(n_labeled[at - 1] + share * (n_labeled[at] - n_labeled[at - 1]))


RISE_OF_RAMP_UP = 0.9
"""Share of the rise of random queries' mean curve that the ramp-up holds."""


def ramp_up_end(n_labeled: Sequence[int] | IntArray, random: Sequence[float] | FloatArray) -> int | None:
    """Return the number of labels at which ramp-up ends and the plateau begins, by the curve of random queries.

    The first point at which the curve has made :data:`RISE_OF_RAMP_UP` of its rise, from its first point to its
    highest; so both parts have a point. Gonsior et al. 2025 (arXiv 2506.03817) split at a cut that random's curve
    decides by data set. Deviation: their rule is not established, so this one is ours.

    Args:
        n_labeled: ``[n_points]``, rising.
        random: mean curve of random queries ``[n_points]``.

    Returns:
        labels, or None where the curve never rises above its first point.
    """
    curve: Float64Array = np.asarray(random, dtype=np.float64)
    rise = float(curve.max() - curve[0])
    if not rise > 0:
        return None
    return int(n_labeled[int(np.flatnonzero(curve >= curve[0] + RISE_OF_RAMP_UP * rise)[0])])


def ramp_up_aulc(n_labeled: IntArray, values: FloatArray, end: int) -> float:
    """Return the mean of the points of a learning curve below ``end`` labels (:func:`ramp_up_end`).

    Args:
        n_labeled: ``[n_points]``.
        values: ``[n_points]``.
        end: labels at which the plateau begins.

    Returns:
        NaN where no point lies there.
    """
    part = values[n_labeled < end]
    return aulc(part) if len(part) else float("nan")


def plateau_aulc(n_labeled: IntArray, values: FloatArray, end: int) -> float:
    """Return the mean of the points of a learning curve from ``end`` labels on; else as :func:`ramp_up_aulc`."""
    part = values[n_labeled >= end]
    return aulc(part) if len(part) else float("nan")


def agreement(before: IntArray, after: IntArray, n_classes: int) -> tuple[float, float]:
    """Compare the predictions of two models on the same examples.

    Returns:
        the share that changed, and Cohen's kappa (Cohen 1960); kappa is 1 where both give everything one same class.
    """
    table = np.bincount(before * n_classes + after, minlength=n_classes**2).reshape(n_classes, n_classes) / len(before)
    same, by_chance = float(np.trace(table)), float(table.sum(axis=0) @ table.sum(axis=1))
    return 1 - same, 1.0 if by_chance == 1 else (same - by_chance) / (1 - by_chance)


def training_dynamics(log_probs: FloatArray, labels: IntArray) -> dict[str, Float64Array]:
    """Return where each example lies on the map of a data set, by how its label fared over the epochs of a fit.

    Swayamdipta et al. 2020 (arXiv 2009.10795, section 2): mean and population standard deviation of the label's
    probability, and how often it was predicted.

    Args:
        log_probs: after every epoch ``[n, n_epochs, n_classes]``, natural logarithm; one epoch has no variability.
        labels: class indices ``[n]``.

    Returns:
        ``confidence``, ``correctness`` and, of several epochs, ``variability`` ``[n]`` each, in [0, 1].
    """
    values = np.asarray(log_probs, dtype=np.float64)
    of_label = np.exp(np.take_along_axis(values, labels[:, None, None], axis=2)[..., 0])
    found = {
        "confidence": of_label.mean(axis=1),
        "correctness": (values.argmax(axis=2) == labels[:, None]).mean(axis=1),
    }
    return found | ({"variability": of_label.std(axis=1)} if values.shape[1] > 1 else {})


def group_accuracy(log_probs: FloatArray, labels: IntArray, groups: Sequence[str]) -> dict[str, float]:
    """Return the accuracy on every data slice as ``accuracy.SLICE``, and the least of them as ``worst_group_accuracy``.

    The question of Tamkin et al. 2022 (arXiv 2204.08491): does a method serve the rare and the atypical?
    """
    correct = np.asarray(log_probs).argmax(axis=1) == labels
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(groups):
        rows.setdefault(name, []).append(row)
    found = {f"accuracy.{name}": float(correct[rows[name]].mean()) for name in sorted(rows)}
    return found | {"worst_group_accuracy": min(found.values())}


def group_shares(groups: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Return the share of every data slice among some examples as ``acquired.SLICE``, whatever text names a slice."""
    counts = Counter(groups)
    return {f"acquired.{name}": counts[name] / len(groups) for name in names}
