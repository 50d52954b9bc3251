"""The confidence methods of Gonsior et al. 2022 (arXiv 2210.03005) as their reference code computes them, bug for bug.

For studies that measure what each slip changed; the plain names are always the textbook methods. In the reference, test
accuracy is that of a plain model fine-tuned beside these on the same answers: ``evaluation: gonsior2022/plain``.

Epochs are judged as that code does it, by all losses here: examples are held out by the rule of
``gonsior2022/stratified``, their loss is that of the epoch itself, means of batches are added up, and of epochs with
equal loss the more accurate one stays.

Deviation (all of them): the reference fits the plain model a second time, with another seed, where the method's own is
fitted alike; here one fit is both. Where nothing of the last class is left to train on, the reference fails.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from al_ray.confidence import ConfidenceMethod, Loss, State, confidences
from al_ray.confidence.evidential import evidential_loss
from al_ray.confidence.label_smoothing import smoothed_cross_entropy
from al_ray.confidence.trust_score import trust_ratio
from al_ray.core.types import Float64Array, FloatArray, IntArray, ModelOutputs, Sampling
from al_ray.core.uncertainty import log_softmax, mean_log_probs

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "Gonsior et al. 2022, arXiv 2210.03005 (as its code computes it)"

FIRST_TEMPERATURE = 1.5
TEMPERATURES = np.arange(1, 1001) / 100
"""The grid of the reference: 0.01 to 10.00."""
TEMPERATURE_INSTEAD = 1.8495
"""Takes the place of every best temperature below 1."""

INHIBITION = 1.5
"""What the denominator of the inhibited softmax has more than that of the softmax."""
PENALTY_WEIGHT = 1e-6
N_PENALTY_OUTPUTS = 6

SMOOTHING = 0.2
ANNEALING_EPOCHS = 10

N_NEIGHBORS = 10
DENSE_SHARE = 0.9
"""Of each class stay the examples whose radius is at most this percentile / 100."""


class Gonsior2022Loss:
    """The default criterion of the reference: binary cross-entropy for two classes, cross entropy for more.

    Two classes are two yes-or-no questions there: each logit against the one-hot label, averaged over the two.
    """

    judged_as_gonsior2022 = True

    def __call__(self, logits: "Tensor", targets: "Tensor", epoch: int) -> "Tensor":
        """Return the loss of every example ``[n]``, in nats."""
        from torch.nn import functional

        if logits.shape[1] > 2:
            return functional.cross_entropy(logits, targets, reduction="none")
        wanted = functional.one_hot(targets, 2).to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)


@dataclass(frozen=True)
class _Gonsior2022Confidence(ConfidenceMethod):
    """What the classifiers of the reference share that keep its default criterion: they fit the same model."""

    source: ClassVar[str] = SOURCE

    def new_loss(self) -> Loss:
        """Return the default criterion, see :class:`Gonsior2022Loss`."""
        return Gonsior2022Loss()


@confidences.register("gonsior2022/softmax")
@dataclass(frozen=True)
class Gonsior2022Softmax(_Gonsior2022Confidence):
    """Softmax over a network that, on two classes, was trained as two yes-or-no questions.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. With two classes the plain model of the reference is
    fitted with the binary cross-entropy of each logit against the one-hot label, and read by a softmax all the same.
    With more classes it is the plain softmax model.
    """


@confidences.register("gonsior2022/ensemble")
@dataclass(frozen=True)
class Gonsior2022Ensemble(_Gonsior2022Confidence):
    """Softmax of the committee's five models, each fitted as ``gonsior2022/softmax`` fits its one.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it: the present model and four more on the same answers, with
    other seeds and held-out examples of their own.
    """

    @property
    def sampling(self) -> Sampling:
        """Five members, one pass through each."""
        return Sampling(n_members=5)


@confidences.register("gonsior2022/label_smoothing")
@dataclass(frozen=True)
class Gonsior2022LabelSmoothing(_Gonsior2022Confidence):
    """Softmax of a model trained on labels that keep a fifth of doubt, by cross entropy on two classes as well.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. The loss is that of ``label_smoothing``; epochs are
    judged as in the reference.
    """

    def new_loss(self) -> Loss:
        """Return the cross entropy against targets of which 0.2 is spread over all classes."""
        return SmoothedLoss()


class SmoothedLoss(Gonsior2022Loss):
    """Cross entropy against smoothed targets."""

    def __call__(self, logits: "Tensor", targets: "Tensor", epoch: int) -> "Tensor":
        """Return the loss of every example ``[n]``, in nats."""
        return smoothed_cross_entropy(logits, targets, epoch, alpha=SMOOTHING)


@confidences.register("gonsior2022/mc_dropout")
@dataclass(frozen=True)
class Gonsior2022MCDropout(_Gonsior2022Confidence):
    """Mean softmax over 50 random erasures of single logits; the network itself is never sampled.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. The textbook (Gal and Ghahramani
    2016, arXiv 1506.02142) repeats the whole pass with dropout on. Here one pass without dropout is followed by 50
    masks on the vector of logits (rate 0.1, survivors divided by 0.9), every example with masks of its own. It costs
    one pass, and what it measures is the size of the logits. The 50 predictions are averaged before any strategy sees
    them.
    """

    @property
    def sampling(self) -> Sampling:
        """Fifty masks on the logits of one pass."""
        return Sampling(n_passes=50, dropout="logits", rate=0.1)

    @property
    def n_draws(self) -> int:
        """One: the mean."""
        return 1

    @property
    def has_consistent_draws(self) -> bool:
        """Never: the one draw is a mean over masks."""
        return False

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return logarithms of the mean of the masked softmaxes ``[n, 1, n_classes]``."""
        return mean_log_probs(log_softmax(outputs.logits))[:, None]


@confidences.register("gonsior2022/temperature_scaling")
@dataclass(frozen=True)
class Gonsior2022TemperatureScaling(_Gonsior2022Confidence):
    """Softmax of a model whose training loss was tempered; the prediction itself is not tempered at all.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. The textbook (Guo et al. 2017, arXiv
    1706.04599) fits one temperature after training and divides by it when predicting. Here the training loss is the
    default criterion on z / T, T is fitted anew by cross entropy on the held-out examples after every epoch, a best T
    below 1 becomes 1.8495, and predictions are softmax(z). With two or three held-out examples the best T is nearly
    always an end of the grid. An epoch is judged at the T it was trained with, so that early stopping compares losses
    at different temperatures.
    """

    def new_loss(self) -> Loss:
        """Return the tempered loss of one fit, starting at T = 1.5."""
        return TemperedLoss()


class TemperedLoss(Gonsior2022Loss):
    """The default criterion on z / T, with T fitted on the held-out examples after every epoch.

    Attributes:
        temperature: the present T.
    """

    def __init__(self) -> None:
        self.temperature = FIRST_TEMPERATURE

    def __call__(self, logits: "Tensor", targets: "Tensor", epoch: int) -> "Tensor":
        """Return the loss of every example ``[n]``, in nats."""
        return super().__call__(logits / self.temperature, targets, epoch)

    def after_epoch(self, logits: Any, targets: Any) -> None:
        """Set T by the held-out logits ``[n, n_classes]`` and targets ``[n]``, tensors or arrays."""
        best = best_temperature(_as_array(logits), _as_array(targets).astype(np.int64))
        self.temperature = TEMPERATURE_INSTEAD if best < 1 else best


def best_temperature(logits: FloatArray, targets: IntArray) -> float:
    """Return the T of 0.01, 0.02, ..., 10.00 with the lowest mean cross entropy of z / T; of equals the lowest."""
    z = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(z))
    losses = [-log_softmax(z / temperature)[rows, targets].mean() for temperature in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


@confidences.register("gonsior2022/inhibited_softmax")
@dataclass(frozen=True)
class Gonsior2022InhibitedSoftmax(_Gonsior2022Confidence):
    """Softmax with 1.5 added to its denominator, so that a row sums to less than one; trained with a random penalty.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it: p_c = exp(z_c) / (sum_j exp(z_j) +
    1.5) in training and prediction. The textbook (Mozejko et al. 2018, arXiv 1810.01861) penalises the activity of one
    fixed evidence layer over all examples, and uses an activation that fades away from the training data. Here the
    penalty is 1e-6 times the sum of the outputs of a linear layer (6 outputs, bias) that is drawn anew in every call,
    applied to the hidden state of the first example of the mini-batch only: noise in the gradient of one example.
    Between examples of equal softmax the one with smaller logits counts as less certain.

    Deviation: the reference passes all tokens of that example through the layer, here the first token alone, so the
    penalty is smaller; where the model keeps no features for validation, validation losses have no penalty.
    """

    sums_to_one: ClassVar[bool] = False

    def new_loss(self) -> Loss:
        """Return the inhibited negative log-likelihood with its penalty."""
        return InhibitedLoss()

    def log_probs(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return z_c - ln(sum_j exp(z_j) + 1.5) ``[n, n_draws, n_classes]``; a row sums to less than one."""
        z = np.asarray(outputs.logits, dtype=np.float64)
        total = np.logaddexp.reduce(z, axis=-1, keepdims=True)
        return z - np.logaddexp(total, math.log(INHIBITION))


class InhibitedLoss(Gonsior2022Loss):
    """Negative logarithm of the inhibited softmax, plus a random linear map of the first example's hidden state."""

    needs_features = True

    def __call__(self, logits: "Tensor", targets: "Tensor", epoch: int, features: "Tensor | None" = None) -> "Tensor":
        """Return the loss of every example ``[n]``; the penalty is in each, so that their mean has it once.

        Args:
            logits: ``[n, n_classes]``.
            targets: ``[n]``.
            epoch: not used.
            features: first token ``[n, n_features]``; None leaves the penalty out. Draws from torch's CPU generator.
        """
        import torch

        total = torch.logaddexp(logits.logsumexp(dim=1), logits.new_tensor(math.log(INHIBITION)))
        losses = total - logits.gather(1, targets[:, None])[:, 0]
        return losses if features is None else losses + random_penalty(features[0])


def random_penalty(hidden: "Tensor") -> "Tensor":
    """Return 1e-6 times the summed outputs of a fresh linear layer on one hidden state ``[n_features]``."""
    from torch import nn

    layer = nn.Linear(len(hidden), N_PENALTY_OUTPUTS).to(hidden.device)
    return PENALTY_WEIGHT * layer(hidden.float()).sum()


@confidences.register("gonsior2022/evidential")
@dataclass(frozen=True)
class Gonsior2022Evidential(_Gonsior2022Confidence):
    """Plain softmax of a model that was trained to count evidence; the evidence itself is never read.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. The loss is the textbook's (Sensoy
    et al. 2018, arXiv 1806.01768, eq. 5) with lambda = min(1, epoch / 10), which 10 epochs counted from 0 leave at 0.9
    or below. The textbook predicts alpha / S with alpha = max(z, 0) + 1; here it is softmax(z), which reads negative
    logits too, although the loss is blind to how negative they are. Epochs are judged at the penalty that each had, so
    that early ones win.
    """

    def new_loss(self) -> Loss:
        """Return the loss of evidential deep learning, annealed over 10 epochs."""
        return EvidentialLoss()


class EvidentialLoss(Gonsior2022Loss):
    """The textbook's loss of evidential deep learning."""

    def __call__(self, logits: "Tensor", targets: "Tensor", epoch: int) -> "Tensor":
        """Return the loss of every example ``[n]``."""
        return evidential_loss(logits, targets, epoch, annealing_epochs=ANNEALING_EPOCHS)


@confidences.register("gonsior2022/trust_score")
@dataclass(frozen=True)
class Gonsior2022TrustScore(_Gonsior2022Confidence):
    """Trust score whose distances go from the embedding space of round 1 to that of the present round.

    Gonsior et al. 2022, arXiv 2210.03005, as its code has it. The textbook (Jiang et al. 2018,
    arXiv 1805.11783) measures all distances between features of one model. Here features of the pool come from the
    plain model of round 1 for ever, and features of the labelled examples from the present model, so that distances mix
    two spaces. The predicted class is the present model's. Per class, examples stay whose distance to the 10th nearest
    (itself counted; in a smaller class the farthest) is at most the 90th percentile, so that a class of 10 or fewer
    loses none; then xi = d(nearest other class) / (d(predicted class) + 1e-12), Euclidean. Probabilities are the plain
    softmax.

    Deviation: xi is held within [1e-12, 1e12], so that a class without labelled examples gives a finite value.
    """

    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True
    needs_first_features: ClassVar[bool] = True
    has_uncertainty: ClassVar[bool] = True

    def calibrate(self, outputs: ModelOutputs, labels: IntArray) -> State:
        """Return ``features [n_kept, n_features]`` and ``labels [n_kept]`` of the examples in dense places."""
        assert outputs.features is not None, "gonsior2022/trust_score needs features"
        kept = np.zeros(len(labels), dtype=np.bool_)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            radii = neighbor_radii(outputs.features[rows])
            kept[rows] = radii <= np.percentile(radii, DENSE_SHARE * 100)
        return {"features": outputs.features[kept], "labels": np.asarray(labels)[kept]}

    def uncertainty(self, outputs: ModelOutputs, state: State | None = None) -> FloatArray:
        """Return ``-xi`` ``[n]``, at most 0 and not bounded in any useful way below."""
        assert outputs.features is not None, "gonsior2022/trust_score needs features"
        assert state is not None, "gonsior2022/trust_score reads what calibrate returned"
        predicted = mean_log_probs(log_softmax(outputs.logits)).argmax(axis=1)
        return -trust_ratio(outputs.features, predicted, state["features"], state["labels"])


def neighbor_radii(features: FloatArray) -> Float64Array:
    """Return the distance to the 10th nearest, the example itself counted, or to the farthest of fewer ``[n]``."""
    from scipy.spatial.distance import cdist

    k = min(N_NEIGHBORS, len(features))
    return np.partition(cdist(features, features), k - 1, axis=1)[:, k - 1]


def _as_array(values: Any) -> npt.NDArray[Any]:
    """Read a tensor of any device and float type, or an array."""
    return values.detach().double().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
