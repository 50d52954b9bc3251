"""Multinomial logistic regression: a linear head fitted to labelled features."""

from typing import Any

import numpy as np
import numpy.typing as npt

from al_ray.core.types import Float64Array, IntArray
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import RoundError

# Of the mean loss: where the largest part of the gradient is below, L-BFGS is done.
GRADIENT_TOLERANCE = 1e-5
MAX_ITERATIONS = 1000


def logistic_regression(
    features: npt.NDArray[np.floating[Any]],
    labels: IntArray | Float64Array,
    n_classes: int,
    *,
    l2: float,
    weights: npt.NDArray[np.floating[Any]] | None = None,
) -> tuple[Float64Array, Float64Array, int, float]:
    """Fit multinomial logistic regression by L-BFGS from zero; a class without examples is a class like the others.

    Minimises ``sum_i w_i (-log p_i,y) + l2/2 (|W|^2 + |b|^2)``, with soft labels ``-sum_c y_i,c log p_i,c`` instead.
    Strictly convex, since the intercepts are penalised too: there is one solution, also where a class has no example.

    Args:
        features: ``[n, n_features]``.
        labels: class indices ``[n]``, or a probability of each class ``[n, n_classes]``.
        n_classes: of the data set.
        l2: weight of the penalty, above 0.
        weights: of the examples ``[n]``; None: 1 each.

    Returns:
        ``W [n_classes, n_features]``, ``b [n_classes]``, iterations, and the mean loss without the penalty.

    Raises:
        RoundError: the features are not finite.
    """
    from scipy.optimize import minimize

    x = np.concatenate([features, np.ones((len(features), 1))], axis=1, dtype=np.float64)
    if not np.isfinite(x).all():
        raise RoundError("the encoder gave features that are not finite. Use precision float32.")
    counts = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    targets = labels if labels.ndim == 2 else np.eye(n_classes)[labels]
    shares, penalty = counts / counts.sum(), l2 / counts.sum()
    shape = (n_classes, x.shape[1])

    def loss_and_gradient(flat: Float64Array) -> tuple[float, Float64Array]:
        w = flat.reshape(shape)
        log_probs = log_softmax(x @ w.T)
        loss = -float(shares @ (targets * log_probs).sum(axis=1)) + 0.5 * penalty * float(flat @ flat)
        residual = np.exp(log_probs) - targets
        return loss, ((residual * shares[:, None]).T @ x + penalty * w).ravel()

    options = {"gtol": GRADIENT_TOLERANCE, "ftol": 0.0, "maxiter": MAX_ITERATIONS, "maxls": 50}
    found = minimize(loss_and_gradient, np.zeros(np.prod(shape)), method="L-BFGS-B", jac=True, options=options)
    w = found.x.reshape(shape)
    return w[:, :-1], w[:, -1], int(found.nit), float(found.fun - 0.5 * penalty * (found.x @ found.x))
