"""Stochastic batch acquisition: a sample drawn by another strategy's scores (softmax, power, softrank)."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from al_ray.core.seeding import tie_keys
from al_ray.core.types import Float64Array, FloatArray, IntArray, PoolView, Ranking
from al_ray.errors import ConfigError
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, declares_for, strategies


def _scores_single_examples(name: str) -> bool:
    """Say whether a strategy only scores single examples, so that its score can be perturbed."""
    cls = strategies.get(name)
    return cls.ranks and not cls.labels_everything and cls.pick is QueryStrategy.pick


def _over_in_schemas(schema: dict[str, Any]) -> None:
    """List the strategies whose score can be perturbed, for editors."""
    schema["enum"] = [name for name in strategies.names() if _scores_single_examples(name)]


@declares_for(lambda strategy: [strategy.base])
@dataclass(frozen=True)
class _StochasticBatch(QueryStrategy):
    """Sampling without replacement by weights that rise with another strategy's score (Gumbel top-k).

    Attributes:
        over: the strategy whose score is perturbed, with its default options; it has to score single examples.
        coldness: how closely the sample follows the scores: near 0 is uniform, very large is the plain top.
    """

    source: ClassVar[str] = "Kirsch et al. 2023, arXiv 2106.12059"
    over: Annotated[str, Field(json_schema_extra=_over_in_schemas)] = "bald"
    coldness: Annotated[
        float,
        Within(gt=0, finite=True, advice="1.0 is the paper's default; near 0 asks at random, 1e6 asks the plain top."),
    ] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _scores_single_examples(self.over):
            raise ConfigError(
                f"over is {self.over!r}, which picks in its own way. It must be a strategy that only scores single "
                f"examples, such as 'bald', 'entropy' or 'margin'."
            )
        strategies.build(self.over)

    @property
    def base(self) -> QueryStrategy:
        """The strategy whose score is perturbed."""
        return strategies.build(self.over)

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the unperturbed scores ``[n_pool]``, so that filters clip what they mean to clip."""
        return self.base.score(pool, stream)

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return the ids of the ``n`` highest perturbed scores, highest first; ties keep the order of the ranking."""
        # coldness * s + Gumbel(0, 1) orders as s + Gumbel(0, 1 / coldness) does, and cannot divide to infinity.
        with np.errstate(over="ignore"):
            perturbed = self.coldness * self.log_weights(ranking.scores)
        perturbed += _gumbel(ranking.ids, stream)
        return ranking.ids[np.argsort(-perturbed, kind="stable")[:n]]

    def log_weights(self, scores: Float64Array) -> Float64Array:
        """Return the logarithm of the sampling weights at coldness 1, from scores in falling order."""
        raise NotImplementedError


@strategies.register("stochastic_softmax")
@dataclass(frozen=True)
class StochasticSoftmax(_StochasticBatch):
    """A sample without replacement by exp(coldness x score) of another strategy.

    Perturbed score s + Gumbel(0, 1 / coldness) (Kirsch et al. 2023, arXiv 2106.12059, section 3). Hangs on the unit of
    the score: with BALD, whose values are small, coldness 1 is close to random.
    """

    def log_weights(self, scores: Float64Array) -> Float64Array:
        """Return the scores."""
        return scores


@strategies.register("stochastic_power")
@dataclass(frozen=True)
class StochasticPower(_StochasticBatch):
    """A sample without replacement by score ^ coldness of another strategy.

    Perturbed score ln s + Gumbel(0, 1 / coldness) (Kirsch et al. 2023, arXiv 2106.12059, section 3). Weights are for
    scores above 0: an example with a score of 0 or less has weight 0, so that it is asked only once no positive one is
    left, and then in the order of the ranking. For a score that may be negative, such as ``own_uncertainty`` of
    ``energy``, use ``stochastic_softmax`` or ``stochastic_softrank``.
    """

    def log_weights(self, scores: Float64Array) -> Float64Array:
        """Return ln s, -inf where s is 0 or less."""
        positive = scores > 0
        return np.where(positive, np.log(np.where(positive, scores, 1.0)), -np.inf)


@strategies.register("stochastic_softrank")
@dataclass(frozen=True)
class StochasticSoftrank(_StochasticBatch):
    """A sample without replacement by rank ^ -coldness in another strategy's order.

    Perturbed score -ln r + Gumbel(0, 1 / coldness), r = 1 for the highest score among the candidates that filters left
    (Kirsch et al. 2023, arXiv 2106.12059, section 3). Only the order of the scores counts.
    """

    def log_weights(self, scores: Float64Array) -> Float64Array:
        """Return -ln r for ranks from 1."""
        return -np.log(np.arange(1.0, len(scores) + 1.0))


def _gumbel(ids: IntArray, stream: np.random.Generator) -> Float64Array:
    """Return standard Gumbel noise ``[n]`` that hangs on each id and the stream, not on the place in the pool."""
    # 52 of the 64 bits and a half: strictly between 0 and 1 in float64, so that both logarithms are finite.
    uniform = ((tie_keys(ids, int(stream.integers(2**62))) >> np.uint64(12)) + 0.5) * 2.0**-52
    return -np.log(-np.log(uniform))
