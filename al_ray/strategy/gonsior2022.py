"""The query strategies of Gonsior et al. 2022 (arXiv 2210.03005) as their reference code computes them, bug for bug.

Everything there is a raw score of which the LOWEST is queried, and uncertainty clipping is part of the score: it
overwrites the lowest raw scores with 1, "the worst". That is right for a largest probability and for a margin, and
wrong for everything else; the classes below say how. Compare with the plain names, which are always the textbook
method, and with the filter ``uncertainty_clipping``.

Deviation (all of them): the reference settles ties by position in the pool, in float32; here the total order of the
round does, in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core import disagreement, uncertainty
from al_ray.core.types import Float64Array, FloatArray, PoolView
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

WORST = 1.0
"""What the reference code writes over a clipped score, whatever the range of that score is."""
KL_GUARD = 1e-9
"""Added to both probabilities inside the logarithm of the consensus KL."""


def gonsior2022_clip(raw: FloatArray, raw_labeled: FloatArray, clipping: float) -> Float64Array:
    """Overwrite the lowest raw scores of the pool with 1, the threshold taken over labelled and pool together.

    Args:
        raw: of the pool ``[n_pool]``.
        raw_labeled: of the labelled examples ``[n_labeled]``; they count towards the threshold only.
        clipping: 1 - share that falls below the threshold; 1.0 changes nothing.
    """
    values = np.asarray(raw, dtype=np.float64)
    if clipping == 1.0:
        return values
    threshold = np.percentile(np.concatenate([np.asarray(raw_labeled, dtype=np.float64), values]), (1 - clipping) * 100)
    return np.where(values < threshold, WORST, values)


def summed_consensus_kl(log_probs: FloatArray) -> Float64Array:
    """Return the KL divergence of every member from the mean, summed over members and not divided ``[n]``."""
    probs = np.exp(np.asarray(log_probs, dtype=np.float64))
    consensus = probs.mean(axis=1, keepdims=True)
    return (probs * np.log((probs + KL_GUARD) / (consensus + KL_GUARD))).sum(axis=(1, 2))


@dataclass(frozen=True)
class _Gonsior2022Strategy(QueryStrategy):
    """What the strategies of the reference code share: the lowest raw score is queried, after clipping.

    Attributes:
        clipping: 1.0 is off; 0.95 and 0.90 overwrite what lies below the 5th and 10th percentile.
    """

    source: ClassVar[str] = "Gonsior et al. 2022, arXiv 2210.03005 (as its code computes it)"
    needs_labeled: ClassVar[bool] = True
    clipping: Annotated[float, Within(gt=0, le=1, advice="1.0 is off, 0.95 overwrites 5 %.")] = 1.0

    def _clipped(self, pool: PoolView, raw: Callable[[FloatArray], Float64Array]) -> Float64Array:
        """Return the raw scores of the pool after clipping, from its log-probabilities."""
        if self.clipping == 1.0:
            return raw(pool.log_probs)
        assert pool.labeled_log_probs is not None, "clipping reads labeled_log_probs"
        return gonsior2022_clip(raw(pool.log_probs), raw(pool.labeled_log_probs), self.clipping)


def _largest_probability(log_probs: FloatArray) -> Float64Array:
    return np.exp(uncertainty.mean_log_probs(log_probs).max(axis=1))


def _gap(log_probs: FloatArray) -> Float64Array:
    top = np.partition(np.exp(uncertainty.mean_log_probs(log_probs)), -2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def _entropy(log_probs: FloatArray) -> Float64Array:
    return uncertainty.entropy(uncertainty.mean_log_probs(log_probs))


@strategies.register("gonsior2022/least_confidence")
@dataclass(frozen=True)
class Gonsior2022LeastConfidence(_Gonsior2022Strategy):
    """Lowest probability of the predicted class first, the lowest few percent overwritten with 1.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. Without clipping it is the textbook
    method. With clipping it differs from the filter ``uncertainty_clipping`` in two points: the threshold is the
    percentile over labelled and unlabelled examples together, so that the share of the pool that goes changes from
    round to round, and clipped examples stay candidates, at the end of the order.
    """

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return minus the largest probability of the mean over draws ``[n_pool]``; -1 where clipped."""
        return -self._clipped(pool, _largest_probability)


@strategies.register("gonsior2022/margin")
@dataclass(frozen=True)
class Gonsior2022Margin(_Gonsior2022Strategy):
    """Smallest gap between the two likeliest classes first, the smallest few percent overwritten with 1.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. Without clipping it is the textbook
    method; with clipping it differs as ``gonsior2022/least_confidence`` does.
    """

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return minus p_1 - p_2 of the mean over draws ``[n_pool]``; -1 where clipped."""
        return -self._clipped(pool, _gap)


@strategies.register("gonsior2022/entropy")
@dataclass(frozen=True)
class Gonsior2022Entropy(_Gonsior2022Strategy):
    """Highest entropy first, but clipping lifts the most certain few percent to 1 nat instead of dropping the unsure.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. The percentile step is handed +H and the
    sign is flipped only afterwards, so that the examples of LOWEST entropy are overwritten, with 1 nat. With two
    classes no entropy exceeds ln 2 = 0.693, so that the most certain examples become the first to be queried; with 4 or
    6 classes (ln 4 = 1.386, ln 6 = 1.792) they land in the upper range. The intended step would drop the highest
    entropies. Without clipping it is the textbook method.

    Attributes:
        clipping: 1.0 is off; 0.95 and 0.90 overwrite what lies below the 5th and 10th percentile of +H.
    """

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the entropy of the mean over draws in nats ``[n_pool]``; 1 where clipped."""
        return self._clipped(pool, _entropy)


@strategies.register("gonsior2022/vote_entropy")
@dataclass(frozen=True)
class Gonsior2022VoteEntropy(_Gonsior2022Strategy):
    """Lowest entropy of the committee's votes first: the LEAST disputed examples are queried.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it; the textbook (Dagan and Engelson 1995)
    asks for the most disputed. Most of a pool has entropy 0, so that ties decide. Clipping changes nothing as long as
    the percentile is 0, since no vote entropy is below it.
    """

    min_draws: ClassVar[int] = 2

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return minus the entropy of the hard votes in nats ``[n_pool]``; -1 where clipped."""
        return -self._clipped(pool, disagreement.vote_entropy)


@strategies.register("gonsior2022/consensus_kl")
@dataclass(frozen=True)
class Gonsior2022ConsensusKL(_Gonsior2022Strategy):
    """Lowest KL divergence of the members from their mean first: the LEAST disputed examples are queried.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it; the textbook (McCallum and Nigam 1998)
    asks for the most disputed, and divides the sum by the number of members, which changes the scale and, through the
    constant 1, what clipping does: the least disputed few percent, which would be queried first, are overwritten with
    1, which is not the highest value that the sum can take.

    Deviation: the reference guards its logarithm with 1e-9; here the guard is added to both probabilities of the ratio.
    """

    min_draws: ClassVar[int] = 2

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return minus the summed divergence in nats ``[n_pool]``; -1 where clipped."""
        return -self._clipped(pool, summed_consensus_kl)


@strategies.register("gonsior2022/trust_score")
@dataclass(frozen=True)
class Gonsior2022LowestTrust(_Gonsior2022Strategy):
    """Lowest trust score first, the lowest few percent overwritten with 1, which is an ordinary trust score.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. Reads minus the confidence method's own
    uncertainty as the raw score; with ``gonsior2022/trust_score`` that is the ratio xi itself, unbounded above. Most
    ratios are above 1, so that clipped examples are still asked before those that the model has every reason to trust,
    and may even come first. Without clipping it is the textbook order.
    """

    needs_uncertainty: ClassVar[bool] = True

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return minus the trust score ``[n_pool]``; -1 where clipped."""
        assert pool.uncertainty is not None, "trust_score reads uncertainty"
        trust = -np.asarray(pool.uncertainty, dtype=np.float64)
        if self.clipping == 1.0:
            return -trust
        assert pool.labeled_uncertainty is not None, "clipping reads labeled_uncertainty"
        return -gonsior2022_clip(trust, -np.asarray(pool.labeled_uncertainty), self.clipping)
