"""Confidence methods: how sure the model is, as log-probabilities read from its outputs."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from al_ray.core.types import FloatArray, IntArray, ModelOutputs, Sampling
from al_ray.core.uncertainty import log_softmax
from al_ray.registry import Plugin, Registry

State = Mapping[str, Any]
"""What :meth:`ConfidenceMethod.calibrate` learned in a round; its plain floats are recorded as metrics."""

Loss = Callable[..., Any]
"""``(logits [n, n_classes], targets [n], epoch) -> losses [n]`` on torch tensors.

With an attribute ``needs_features`` that is true it gets ``features [n, n_features]`` (what the head reads, with
gradient) as a fourth argument. With a method ``after_epoch(logits, targets)`` it is told the held-out logits and
targets after every epoch, once that epoch is judged (not at all when nothing is held out). With an attribute
``judged_as_gonsior2022`` that is true examples are held out and epochs compared as in the code of Gonsior et al. 2022,
see ``al_ray.model.recipe``.
"""


class ConfidenceMethod(Plugin, Protocol):
    """Turns what the model returned into log-probabilities; pure, no state of its own.

    A method inherits from this class and declares only what differs from the defaults.

    Attributes:
        source: authors, year and arXiv number or DOI.
        needs_features: whether it reads ``ModelOutputs.features``, of every example.
        needs_labeled: whether :meth:`calibrate` is called with the model's outputs on the labelled examples.
        needs_first_features: whether ``features`` of pool examples come from the model of round 1 for ever.
        has_uncertainty: whether it has a measure of its own, :meth:`uncertainty`.
        has_consistent_draws: whether a draw is one model for all examples, as joint entropies need it.
    """

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

PLAIN_METHODS = {"plain": "softmax", "gonsior2022/plain": "gonsior2022/softmax"}
"""Evaluations by a plain model beside the cell's own -> the confidence method whose model that is."""


def plain_loss(evaluation: str) -> Loss | None:
    """Return the loss of one fit of the plain model that an evaluation measures, or None for cross entropy."""
    return confidences.build(PLAIN_METHODS.get(evaluation, "softmax")).new_loss()


def needs_plain_model(evaluation: str, confidence: ConfidenceMethod) -> bool:
    """Say whether an evaluation takes a fit of its own, as the cell's own model is fitted with another loss."""
    return evaluation in PLAIN_METHODS and type(confidence.new_loss()) is not type(plain_loss(evaluation))
