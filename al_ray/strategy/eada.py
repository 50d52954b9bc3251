"""EADA: of the examples least like the labelled ones, those that the classes are most at odds over."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.types import Float64Array, FloatArray, PoolView
from al_ray.core.uncertainty import free_energy
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("eada")
@dataclass(frozen=True)
class Eada(QueryStrategy):
    """Smallest gap between the two lowest energies first, among the half of the pool with the highest free energy.

    Energy-based active domain adaptation (Xie et al. 2022, arXiv 2112.01406, section 3.3): a class has the energy
    E_c = -z_c, low = likely. First the ``ceil(share * n_pool)`` examples of the highest free energy
    F = -T ln sum_c exp(-E_c / T) are taken, those least like what the model was fitted on; among them the highest
    E_(1) - E_(2) of the two lowest energies is queried first. Examples whose free energy equals the last one taken are
    taken too. The others follow, by falling free energy, so that there is one order of the whole pool.

    Deviation: the score alone. There is no source domain and no loss that draws the free energies of labelled and
    unlabelled examples together: the labelled examples stand for the source, and all of the pool for the target.
    Deviation: the authors label 1 % of the target in each of five steps within one training; here a round asks for the
    study's query size after a fresh fit.
    Deviation: several draws are averaged to one vector of logits.

    Attributes:
        share: of the pool that the first stage takes.
        temperature: T of the free energy.
    """

    source: ClassVar[str] = "Xie et al. 2022, arXiv 2112.01406"
    needs_logits: ClassVar[bool] = True
    share: Annotated[float, Within(gt=0, le=1, advice="0.5 is the authors' value; 1 leaves the first stage out.")] = 0.5
    temperature: Annotated[
        float, Within(ge=0.01, le=100, right="it must be from 0.01 to 100", advice="1.0 is the authors' value.")
    ] = 1.0

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return 1 + 1 / (1 + gap) where the first stage takes an example, else less than 1 ``[n_pool]``, in (0, 2]."""
        assert pool.logits is not None, "eada needs PoolView.logits"
        logits = np.asarray(pool.logits, dtype=np.float64).mean(axis=1)
        unlike = free_energy(logits, self.temperature)
        least = np.sort(unlike)[-math.ceil(self.share * len(pool) - 1e-9)]
        return np.where(unlike >= least, 1.0 + 1.0 / (1.0 + _gap(logits)), 1.0 / (1.0 + np.abs(least - unlike)))


def _gap(logits: Float64Array) -> Float64Array:
    """Return how far the second lowest energy is above the lowest ``[n]``, 0 or more."""
    top = np.partition(logits, -2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]
