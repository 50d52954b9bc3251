"""Joint mutual information between the labels of several examples and the model's draws, in nats.

Shapes: ``log_probs [n, n_draws, n_classes]``, natural logarithm, finite. A draw is one model for all examples, so that
labels are independent given the draw, and every draw is as likely as any other.
"""

from dataclasses import dataclass

import numpy as np

from al_ray.core.types import Float64Array, IntArray

BLOCK_VALUES = 500_000
"""Probabilities held at once while candidates are compared: 4 MB, whatever the batch."""

NO_GAIN = 1e-12
"""Nats below which a gain is rounding and counts as none."""


def choose_jointly(log_probs: Float64Array, n: int, n_samples: int, stream: np.random.Generator) -> IntArray:
    """Choose rows one by one, each adding the most joint mutual information (Kirsch et al. 2019, arXiv 1906.08158).

    Args:
        log_probs: ``[n_candidates, n_draws, n_classes]``.
        n: how many to choose, at most ``n_candidates``.
        n_samples: configurations of labels at most: enumerated while there are no more of them, then sampled.
        stream: for sampling configurations.

    Returns:
        rows ``[n]`` in the order of choice; the lower row where gains are equal.
    """
    candidates = Candidates.of(log_probs)
    configurations = nothing_chosen(log_probs.shape[1])
    chosen: list[int] = []
    while True:
        gains = information_gains(candidates, configurations)
        gains[chosen] = -1.0
        chosen.append(int(gains.argmax()))
        if len(chosen) == n:
            return np.asarray(chosen, dtype=np.int64)
        configurations = extended(configurations, log_probs[chosen], n_samples, stream)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The candidates in the layout that comparing them needs.

    Attributes:
        probs: ``[n_draws, n_candidates, n_classes]``.
        entropy: of each draw ``[n_candidates, n_draws]``.
    """

    probs: Float64Array
    entropy: Float64Array

    @classmethod
    def of(cls, log_probs: Float64Array) -> "Candidates":
        """Lay out ``log_probs [n_candidates, n_draws, n_classes]``."""
        probs = np.exp(log_probs)
        by_draw = np.ascontiguousarray(probs.transpose(1, 0, 2))
        return cls(probs=by_draw, entropy=-(probs * log_probs).sum(axis=2))


@dataclass(frozen=True, kw_only=True)
class Configurations:
    """Labels that the examples chosen so far may turn out to have, one configuration of all of them a row.

    Attributes:
        weights: probability of each ``[n_configurations]``, adding up to 1.
        log_likelihood: of the configuration under each draw ``[n_configurations, n_draws]``.
        draws: which draw each was sampled from ``[n_configurations]``; None while all of them are enumerated.
    """

    weights: Float64Array
    log_likelihood: Float64Array
    draws: IntArray | None = None

    def posterior(self) -> Float64Array:
        """Return the probability of every draw given the configuration ``[n_configurations, n_draws]``."""
        above = np.exp(self.log_likelihood - self.log_likelihood.max(axis=1, keepdims=True))
        return above / above.sum(axis=1, keepdims=True)


def nothing_chosen(n_draws: int) -> Configurations:
    """Return the one configuration of no labels."""
    return Configurations(weights=np.ones(1), log_likelihood=np.zeros((1, n_draws)))


def information_gains(candidates: Candidates, configurations: Configurations) -> Float64Array:
    """Return the mean over configurations c of I(y; draw | c) for every candidate ``[n_candidates]``, 0 or more.

    Enumerated configurations give H(y_chosen, y) - H(y_chosen) - E H(y | draw) exactly, the greedy gain of BatchBALD.
    """
    posterior = configurations.posterior()
    n_draws, n_candidates, n_classes = candidates.probs.shape
    width = max(1, BLOCK_VALUES // (len(posterior) * n_classes))
    entropy = np.empty(n_candidates)
    for start in range(0, n_candidates, width):
        block = candidates.probs[:, start : start + width].reshape(n_draws, -1)
        surprise = _negative_plogp(posterior @ block)
        entropy[start : start + width] = (configurations.weights @ surprise).reshape(-1, n_classes).sum(axis=1)
    # The draws weigh here as they do in the sample, so that sampling noise common to both terms drops out.
    gains = entropy - candidates.entropy @ (configurations.weights @ posterior)
    return np.where(gains > NO_GAIN, gains, 0.0)


def extended(
    configurations: Configurations, log_probs: Float64Array, n_samples: int, stream: np.random.Generator
) -> Configurations:
    """Return the configurations with the label of one more example.

    Args:
        configurations: of all chosen examples but the last.
        log_probs: of the chosen examples ``[n_chosen, n_draws, n_classes]``, the new one last.
        n_samples: configurations at most.
        stream: for sampling them.
    """
    if configurations.draws is not None:
        return _with_sampled_label(configurations, log_probs[-1], stream)
    if len(configurations.weights) * log_probs.shape[2] <= n_samples:
        return _with_every_label(configurations, log_probs[-1])
    sampled = _nothing_sampled(log_probs.shape[1], n_samples, stream)
    for example in log_probs:
        sampled = _with_sampled_label(sampled, example, stream)
    return sampled


def _with_every_label(configurations: Configurations, log_probs: Float64Array) -> Configurations:
    """Continue each configuration with each label of an example ``[n_draws, n_classes]``; drop the impossible ones."""
    n_draws = log_probs.shape[0]
    joined = (configurations.log_likelihood[:, None] + log_probs.T[None]).reshape(-1, n_draws)
    weights = np.exp(joined).mean(axis=1)
    possible = weights > 0
    return Configurations(weights=weights[possible] / weights.sum(), log_likelihood=joined[possible])


def _nothing_sampled(n_draws: int, n_samples: int, stream: np.random.Generator) -> Configurations:
    """Return empty configurations, equally many from every draw as far as that divides."""
    draws = stream.permutation(n_draws)[np.arange(n_samples) % n_draws]
    weights = np.full(n_samples, 1.0 / n_samples)
    return Configurations(weights=weights, log_likelihood=np.zeros((n_samples, n_draws)), draws=draws)


def _with_sampled_label(
    configurations: Configurations, log_probs: Float64Array, stream: np.random.Generator
) -> Configurations:
    """Continue each configuration with one label, drawn from its own draw's prediction ``[n_draws, n_classes]``."""
    assert configurations.draws is not None
    cumulative = np.exp(log_probs).cumsum(axis=1)[configurations.draws]
    at = stream.random(len(cumulative)) * cumulative[:, -1]
    labels = np.minimum((cumulative <= at[:, None]).sum(axis=1), log_probs.shape[1] - 1)
    likelihood = configurations.log_likelihood + log_probs.T[labels]
    return Configurations(weights=configurations.weights, log_likelihood=likelihood, draws=configurations.draws)


def _negative_plogp(probs: Float64Array) -> Float64Array:
    """Return -p ln p of every value; 0 where p is 0."""
    logs = np.maximum(probs, np.finfo(np.float64).tiny)
    np.log(logs, out=logs)
    logs *= probs
    return np.negative(logs, out=logs)
