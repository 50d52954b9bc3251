"""Adaptive temperature: sharpen a softmax that has become too flat, by how flat it is."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from al_ray.confidence import ConfidenceMethod, State, confidences
from al_ray.core.types import Float64Array, FloatArray, ModelOutputs, Sampling
from al_ray.core.uncertainty import entropy, log_softmax

COEFFICIENTS = (-0.037, 0.481, -2.3, 4.917, -1.791)
SHARP_ENTROPY = 0.5


@confidences.register("adaptive_temperature")
@dataclass(frozen=True)
class AdaptiveTemperature(ConfidenceMethod):
    """Softmax sharpened by a temperature that hangs on its own entropy, at prediction only.

    Velickovic et al. 2024 (arXiv 2410.01104): ``softmax(beta z)``, where ``beta`` is a polynomial of the entropy of
    ``softmax(z)``, see :func:`inverse_temperature`. It changes no prediction, and nothing at all for two classes on the
    logits: their entropy is at most 0.693 and the polynomial stays below 1 up to 0.849.

    Deviation: the paper sharpens attention, and adds 1e-9 within the logarithm of the entropy. ``where: logits``
    applies the same map to the classifier's output instead, and the entropy is exact.

    Attributes:
        where: ``logits`` sharpens the classifier's softmax, ``attention`` every softmax in the encoder's attention,
            ``both`` the two together.
    """

    source: ClassVar[str] = "Velickovic et al. 2024, arXiv 2410.01104"
    where: Literal["logits", "attention", "both"] = "logits"

    @property
    def sampling(self) -> Sampling:
        """One pass, with sharpened attention where asked for."""
        return Sampling(adaptive_attention=self.where != "logits")

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the log-softmax, sharpened unless only attention is."""
        plain = log_softmax(outputs.logits)
        if self.where == "attention":
            return plain
        # The logits and not `plain`, so that a factor of 1 gives the very bits of the plain softmax.
        return log_softmax(inverse_temperature(entropy(plain))[..., None] * outputs.logits)


def inverse_temperature(entropy: FloatArray) -> Float64Array:
    """Return the factor on the logits for each entropy in nats: at least 1, and 1 up to an entropy of 0.5.

    Velickovic et al. 2024 (arXiv 2410.01104): ``max(b(H), 1)`` with
    ``b(H) = -0.037 H^4 + 0.481 H^3 - 2.3 H^2 + 4.917 H - 1.791``. It exceeds 1 between 0.849 and 5.945 nats, by most at
    4.41 (2.42); above, a softmax over more than 380 items stays as flat as it is.
    """
    values = np.asarray(entropy, dtype=np.float64)
    return np.where(values > SHARP_ENTROPY, np.maximum(np.polyval(COEFFICIENTS, values), 1.0), 1.0)
