"""Energy: the free energy of the logits, high for texts unlike the labelled ones."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.confidence import ConfidenceMethod, State, confidences
from al_ray.core.types import Float64Array, FloatArray, IntArray, ModelOutputs
from al_ray.core.uncertainty import free_energy, log_softmax
from al_ray.registry import Within


@confidences.register("energy")
@dataclass(frozen=True)
class Energy(ConfidenceMethod):
    """Softmax that fades to uniform where the free energy is high, as it is for examples unlike the answered ones.

    Liu et al. 2020 (arXiv 2010.03759, eq. 4): ``F = -T logsumexp(z / T)``, high = unlike what was trained on; it is
    :meth:`uncertainty`.

    Deviation: energy is a score and gives no probabilities. So that strategies that read probabilities can use it,
    ``p = r softmax(z / T) + (1 - r) / n_classes`` with ``r = sigmoid((F_ref - F) / T)``, where ``F_ref`` is the mean
    energy of the labelled examples. This is an inhibited softmax of ``z / T`` whose constant ``exp(-F_ref / T)`` is
    measured instead of chosen. The model has trained on those examples, so that ``F_ref`` is on the low side. There is
    no fine-tuning on outliers.

    Attributes:
        temperature: T, from 0.01 to 100; the paper takes 1.
    """

    source: ClassVar[str] = "Liu et al. 2020, arXiv 2010.03759"
    needs_labeled: ClassVar[bool] = True
    has_uncertainty: ClassVar[bool] = True
    temperature: Annotated[
        float, Within(ge=0.01, le=100, right="it must be from 0.01 to 100", advice="1.0 is usual.")
    ] = 1.0

    def calibrate(self, outputs: ModelOutputs, labels: IntArray) -> State:
        """Return the ``reference_energy``: the mean over the labelled examples and their draws."""
        assert len(outputs), "no labelled example"
        return {"reference_energy": float(self._free_energy(outputs).mean())}

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the faded softmax; without a state nothing fades."""
        scaled = np.asarray(outputs.logits, dtype=np.float64) / self.temperature
        plain = log_softmax(scaled)
        if state is None:
            return plain
        below = ((float(state["reference_energy"]) - self._free_energy(outputs)) / self.temperature)[..., None]
        known, unknown = -np.logaddexp(0.0, -below), -np.logaddexp(0.0, below)
        return np.logaddexp(known + plain, unknown - np.log(plain.shape[-1]))

    def uncertainty(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the free energy ``[n]``, of any sign, averaged over the draws; it needs no state."""
        return self._free_energy(outputs).mean(axis=1)

    def _free_energy(self, outputs: ModelOutputs) -> Float64Array:
        return free_energy(outputs.logits, self.temperature)
