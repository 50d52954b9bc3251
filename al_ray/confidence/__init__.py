"""Confidence methods: how sure the model is, as log-probabilities read from its outputs."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from al_ray.core.types import FloatArray, IntArray, ModelOutputs, Sampling
from al_ray.core.uncertainty import log_softmax
from al_ray.registry import Registry

State = Mapping[str, Any]
"""What :meth:`ConfidenceMethod.calibrate` learned in a round; its plain floats are recorded as metrics."""

Loss = Callable[..., Any]
"""``(logits [n, n_classes], targets [n], epoch) -> losses [n]`` on torch tensors.

With an attribute ``needs_features`` that is true it gets ``features [n, n_features]`` (first token, with gradient) as a
fourth argument. With a method ``after_epoch(logits, targets)`` it is told the held-out logits and targets after every
epoch (also when nothing is held out: then not at all).
"""


class ConfidenceMethod(Protocol):
    """Turns what the model returned into log-probabilities; pure, no state of its own.

    A method inherits from this class and declares only what differs from the defaults.

    Attributes:
        name: what a study file calls it.
        source: authors, year and arXiv number or DOI.
        needs_features: whether it reads ``ModelOutputs.features``, of every example.
        needs_labeled: whether :meth:`calibrate` is called with the model's outputs on the labelled examples.
        needs_first_features: whether ``features`` of pool examples come from the plain model of round 1 for ever.
        has_uncertainty: whether it has a measure of its own, :meth:`uncertainty`.
        has_consistent_draws: whether a draw is one model for all examples, as joint entropies need it.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs_features: ClassVar[bool] = False
    needs_labeled: ClassVar[bool] = False
    needs_first_features: ClassVar[bool] = False
    has_uncertainty: ClassVar[bool] = False

    @property
    def sampling(self) -> Sampling:
        """How the model has to predict."""
        return Sampling()

    @property
    def n_draws(self) -> int:
        """Predictions per example that :meth:`log_probs` gives."""
        return self.sampling.n_draws

    @property
    def n_folds(self) -> int:
        """Extra fine-tunes a round, each without one fold of the answers; 0, or at least 2.

        With folds :meth:`calibrate` is called with out-of-fold outputs on the labelled examples.
        """
        return 0

    @property
    def has_consistent_draws(self) -> bool:
        """Whether a draw is one model for all examples."""
        return self.sampling.n_members > 1

    def new_loss(self) -> Loss | None:
        """Return the loss of one fit, or None for cross entropy; a loss may keep state within its fit."""
        return None

    def calibrate(self, outputs: ModelOutputs, labels: IntArray) -> State:
        """Learn from the labelled examples what reading the outputs needs.

        Args:
            outputs: on the labelled examples, by id; out of fold where ``n_folds`` says so.
            labels: their classes ``[n_labeled]``.
        """
        return {}

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return natural log-probabilities ``[n, n_draws, n_classes]``, each row summing to one in probability."""
        return log_softmax(outputs.logits)

    def uncertainty(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return its own measure ``[n]``, high = unsure; only where ``has_uncertainty``."""
        raise NotImplementedError


confidences: Registry[ConfidenceMethod] = Registry("confidence", "al_ray.confidence")
