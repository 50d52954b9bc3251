"""ISAL, influence selection: examples whose gradient lowers the loss on the labelled ones most."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.distances import row_blocks
from al_ray.core.types import Float64Array, FloatArray, IntArray, PoolView
from al_ray.core.uncertainty import label_errors, mean_log_probs
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

TOLERANCE = 1e-10
MAX_STEPS = 1000


@strategies.register("isal")
@dataclass(frozen=True)
class Isal(QueryStrategy):
    """The example that would lower the loss on the labelled ones most, if it were added with its predicted label.

    Influence selection (Liu et al. 2021, arXiv 2108.09331): adding x with the label y = argmax p changes the loss on a
    reference set at the rate -s . grad L(x, y), where s = H^-1 grad L(reference); the lowest is queried first. Here
    that is of the last linear layer, whose gradient is (p - onehot(y)) outer h, and whose Hessian, that of softmax
    regression, is the mean over the labelled examples of (diag(p) - p p') kron h h', exactly. An example of which the
    model is certain has the influence 0.

    Deviation: the reference set is what is labelled, with the labels that were given; the authors' script for CIFAR
    takes the test batch. A fit that has converged leaves little gradient there but that of its penalty and of
    held-out examples, and the order rests on that little.
    Deviation: gradients by the last layer's weights alone, without its bias; the authors take all weights of the
    network but biases. h is what the head reads of the encoder's output, also where the head has a hidden layer.
    Deviation: (H + damping) s = grad L is solved by conjugate gradients, the weights alike to ten digits or after 1,000
    steps. The authors' recursion s <- v + (1 - 0.01) s - H s / 10,000 ends, if it ends, at a damping of 100, where s is
    hardly more than the gradient: ``damping: 100`` orders as it would.
    Deviation: several draws are averaged to one p.

    Attributes:
        damping: added to the Hessian of the mean loss, so that directions without examples have a curvature too.
    """

    source: ClassVar[str] = "Liu et al. 2021, arXiv 2108.09331"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True
    damping: Annotated[float, Within(gt=0, finite=True, advice="100 is what the authors' recursion amounts to.")] = 0.01

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return by how much, to first order, adding an example lowers the mean loss on the labelled ones ``[n_pool]``.

        Of any sign: minus the influence.
        """
        assert pool.features is not None, "isal needs PoolView.features"
        assert pool.labeled_features is not None, "isal needs PoolView.labeled_features"
        assert pool.labeled_log_probs is not None, "isal needs PoolView.labeled_log_probs"
        probs = np.exp(mean_log_probs(pool.labeled_log_probs))
        direction = newton_direction(pool.labeled_features, probs, pool.labeled.labels, self.damping)
        errors = label_errors(pool.probs())
        scores = np.empty(len(pool))
        for rows in row_blocks(len(pool), pool.features.shape[1]):
            scores[rows] = (errors[rows] * (pool.features[rows] @ direction.T)).sum(axis=1)
        return scores


def newton_direction(features: FloatArray, probs: Float64Array, labels: IntArray, damping: float) -> Float64Array:
    """Return (H + damping)^-1 grad L of the mean cross-entropy of softmax regression ``[n_classes, n_features]``.

    Args:
        features: ``[n, n_features]``.
        probs: predicted ``[n, n_classes]``.
        labels: given ``[n]``.
        damping: above 0.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    x, n = np.asarray(features, dtype=np.float64), max(len(features), 1)
    errors = probs.copy()
    errors[np.arange(len(x)), labels] -= 1.0
    shape = (probs.shape[1], x.shape[1])
    diagonal = (probs * (1.0 - probs)).T @ x**2 / n + damping

    def curved(flat: Float64Array) -> Float64Array:
        weights = flat.reshape(shape)
        moved = probs * (x @ weights.T)
        moved -= probs * moved.sum(axis=1, keepdims=True)
        return (moved.T @ x / n + damping * weights).ravel()

    size = int(np.prod(shape))
    hessian = LinearOperator((size, size), matvec=curved, dtype=np.float64)
    scaled = LinearOperator((size, size), matvec=lambda flat: flat.ravel() / diagonal.ravel(), dtype=np.float64)
    solution, _ = cg(hessian, (errors.T @ x / n).ravel(), rtol=TOLERANCE, maxiter=MAX_STEPS, M=scaled)
    return np.asarray(solution, dtype=np.float64).reshape(shape)
