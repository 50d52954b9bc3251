"""Temperature scaling: logits divided by one temperature, fitted to answers that the model has not seen."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.confidence import ConfidenceMethod, State, confidences
from al_ray.core.types import FloatArray, IntArray, ModelOutputs
from al_ray.core.uncertainty import log_softmax
from al_ray.registry import Within

TEMPERATURES = (0.05, 20.0)
LOG_TOLERANCE = 1e-10


@confidences.register("temperature_scaling")
@dataclass(frozen=True)
class TemperatureScaling(ConfidenceMethod):
    """The softmax of the logits divided by a temperature that is fitted to answers the model has not seen.

    Guo et al. 2017 (arXiv 1706.04599, section 4.2): ``softmax(z / T)`` with the T > 0 of least negative log-likelihood.
    It changes no prediction. For two classes it does not change the order of examples by uncertainty either, so that
    queries differ from plain softmax only with more classes or with strategies that read the probabilities' size.

    Deviation: the paper holds out a validation split. A few hundred answers are too few for that, so each round
    fine-tunes ``n_folds`` extra models, each without one fold, and fits one temperature to all out-of-fold logits; it
    is then applied to the model that was fine-tuned on every answer. The search is bounded to [0.05, 20].

    Attributes:
        n_folds: extra fine-tunes a round, at least 2.
    """

    source: ClassVar[str] = "Guo et al. 2017, arXiv 1706.04599"
    n_folds: Annotated[
        int,
        Within(
            ge=2,
            right="it must be at least 2: a fold is scored by a model that was fine-tuned on the others",
            advice="3 costs three extra fine-tunes a round.",
        ),
    ] = 3

    def calibrate(self, outputs: ModelOutputs, labels: IntArray) -> State:
        """Return the ``temperature`` that fits the out-of-fold logits best."""
        return {"temperature": fit_temperature(outputs.logits, labels)}

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return the log-softmax of ``logits / temperature``; of the plain logits without a state."""
        temperature = 1.0 if state is None else float(state["temperature"])
        return log_softmax(np.asarray(outputs.logits, dtype=np.float64) / temperature)


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """Return the temperature in [0.05, 20] of least negative log-likelihood; 1 where it makes no difference.

    The likelihood is convex in 1 / T, so that the one place where its slope is zero is the best there is. Where every
    answer is predicted the best is as cold as allowed. Without any answer it makes no difference: no example is out of
    fold where each class has just one.

    Args:
        logits: ``[n, n_draws, n_classes]``; every draw counts as an observation of its own.
        labels: classes ``[n]``.
    """
    from scipy.optimize import brentq

    if not len(labels):
        return 1.0
    z = np.asarray(logits, dtype=np.float64)
    lead = z - np.take_along_axis(z, np.asarray(labels)[:, None, None], axis=2)

    def slope(log_temperature: float) -> float:
        """Return the derivative of the mean negative log-likelihood by 1 / T."""
        probs = np.exp(log_softmax(lead * math.exp(-log_temperature)))
        return float((probs * lead).sum(axis=2).mean())

    coldest, hottest = (math.log(temperature) for temperature in TEMPERATURES)
    wants_hotter, wants_colder = slope(coldest) > 0, slope(hottest) < 0
    if wants_hotter and wants_colder:
        return math.exp(float(brentq(slope, coldest, hottest, xtol=LOG_TOLERANCE)))
    return TEMPERATURES[1] if wants_hotter else TEMPERATURES[0] if wants_colder else 1.0
