"""EV-GP: the examples that leave least variance in the pool, for a network as it is before any training."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.clustering import MAX_LLOYD_CLUSTERS, fill_at_random, k_means
from al_ray.core.distances import double_unit_rows, row_blocks
from al_ray.core.seeding import tie_keys
from al_ray.core.types import Float64Array, IntArray, PoolView, Ranking
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

ALIKE = 1e-13
"""A cosine closer to 1 than this is 1 but for rounding; the kernel has a corner there, which would magnify it."""


@strategies.register("ev_gp")
@dataclass(frozen=True)
class EvGp(QueryStrategy):
    """Least mean posterior variance over the pool, of a Gaussian process whose kernel is that of an untrained network.

    Expected variance with a neural tangent kernel (Hemachandra et al. 2023, arXiv 2306.04454): a wide network trained
    from random weights predicts like a Gaussian process with its tangent kernel k, so that the variance over starts,
    which depends on inputs alone, says what labels would settle. Greedily the example is added to the labelled ones S
    that leaves the lowest mean over the pool of k(x, x) - k(x, S) (K_SS + noise^2)^-1 k(S, x). No fit is needed. Where
    several are as good, a hash of id and round decides. Once all candidates are chosen, the rest is drawn at random.

    Deviation: the kernel is that of an infinitely wide network with one hidden layer of rectified linear units and no
    bias, in closed form (Bietti and Mairal 2019, arXiv 1905.12173), on embeddings of the pretrained encoder; the
    authors compute that of the finite network at its start, from the inputs.
    Deviation: the mean is over ``max_points`` of a larger pool, and the candidates are ``max_candidates`` of those,
    both at random and anew in every round; the authors take points by k-means++ or at random, and for every pick look
    again at up to some thousands of candidates, in the order of their last gain.
    Deviation: with ``n_inducing`` the fully independent conditional approximation has k-means centres of those points
    for inducing points.

    Attributes:
        noise: standard deviation of the noise of a label.
        max_points: pool examples that the mean is over, at most.
        max_candidates: of them that may be chosen, at most; memory is 8 bytes x both (320 MB).
        n_inducing: inducing points; None is exact, at a cost that grows with the square of what is labelled.
    """

    source: ClassVar[str] = "Hemachandra et al. 2023, arXiv 2306.04454"
    needs_scores: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    noise: Annotated[float, Within(ge=1e-4, le=100, advice="0.001 is the authors' value.")] = 1e-3
    max_points: Annotated[int, Within(ge=2, advice="10000 is the authors' largest value.")] = 10_000
    max_candidates: Annotated[int, Within(ge=2, advice="4000 takes 320 MB with 10,000 points.")] = 4_000
    n_inducing: Annotated[int, Within(ge=1, advice="200 is the authors' value; leave it out to be exact.")] | None = (
        None
    )

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids, the one that settles most first."""
        assert pool.embeddings is not None, "ev_gp needs PoolView.embeddings"
        assert pool.labeled_embeddings is not None, "ev_gp needs PoolView.labeled_embeddings"
        order = np.argsort(tie_keys(pool.ids, int(stream.integers(2**62))))
        points = double_unit_rows(pool.embeddings[order[: self.max_points]].read())
        labeled = double_unit_rows(pool.labeled_embeddings)
        n_candidates = min(self.max_candidates, len(points))
        if self.n_inducing is None:
            covariance, noise = posterior(points, n_candidates, labeled, self.noise**2)
        else:
            n_inducing = min(self.n_inducing, len(points))
            centres = k_means(points, n_inducing, stream, mini_batch=n_inducing > MAX_LLOYD_CLUSTERS)
            covariance, noise = sparse_posterior(
                points, n_candidates, labeled, double_unit_rows(centres), self.noise**2
            )
        chosen = least_variance(covariance, noise, min(n, n_candidates))
        return pool.ids[order[fill_at_random(chosen, len(order), n, stream)]]


def tangent_kernel(cosines: Float64Array) -> Float64Array:
    """Return the neural tangent kernel of one hidden layer of rectified linear units, from inner products of unit rows.

    u k0(u) + k1(u) with k0 = (pi - arccos u) / pi and k1 = (u (pi - arccos u) + sqrt(1 - u^2)) / pi: 2 for equal rows,
    0 for opposite ones (Bietti and Mairal 2019, arXiv 1905.12173, section 3.1). A row of zeros is at 1 / pi to all.
    """
    u = np.clip(cosines, -1.0, 1.0)
    u[u > 1.0 - ALIKE] = 1.0
    return (2.0 * u * (np.pi - np.arccos(u)) + np.sqrt(1.0 - u * u)) / np.pi


def posterior(
    points: Float64Array, n_candidates: int, labeled: Float64Array, noise: float
) -> tuple[Float64Array, Float64Array]:
    """Return the covariance of candidates and points given the labelled ones, and the variance of a label.

    Args:
        points: ``[n_points, n_features]``; the candidates are the first of them.
        n_candidates: how many are.
        labeled: ``[n_labeled, n_features]``.
        noise: variance of a label's noise.

    Returns:
        ``[n_candidates, n_points]``, and the noise of each candidate ``[n_candidates]``.
    """
    explained = _explained(tangent_kernel(labeled @ labeled.T), tangent_kernel(labeled @ points.T), noise)
    covariance = np.empty((n_candidates, len(points)))
    for rows in row_blocks(n_candidates, len(points)):
        covariance[rows] = tangent_kernel(points[rows] @ points.T)
        covariance[rows] -= explained[:, rows].T @ explained
    return covariance, np.full(n_candidates, noise)


def sparse_posterior(
    points: Float64Array, n_candidates: int, labeled: Float64Array, inducing: Float64Array, noise: float
) -> tuple[Float64Array, Float64Array]:
    """Return what :func:`posterior` does, where examples covary through inducing points ``[n_inducing, n_features]``.

    The fully independent conditional (Snelson and Ghahramani 2006): what the inducing points do not say of an example
    is noise of its own label. It is no part of the covariance, since no other label can settle it.
    """
    between = tangent_kernel(inducing @ inducing.T)
    # Through the inducing points an example is a vector [n_inducing], whose inner products are the covariances.
    seen, seen_labeled = (_explained(between, tangent_kernel(inducing @ rows.T), noise) for rows in (points, labeled))
    own, own_labeled = (
        noise + np.maximum(tangent_kernel((rows**2).sum(axis=1)) - (vectors**2).sum(axis=0), 0.0)
        for rows, vectors in ((points, seen), (labeled, seen_labeled))
    )
    precision = (seen_labeled / own_labeled) @ seen_labeled.T
    left = _explained(precision, seen, 1.0)
    return left[:, :n_candidates].T @ left, own[:n_candidates]


def least_variance(covariance: Float64Array, noise: Float64Array, n: int) -> IntArray:
    """Choose candidates one by one, each leaving the least variance over all points in sum.

    Args:
        covariance: of candidates and points ``[n_candidates, n_points]``, the candidates being the first points;
            overwritten.
        noise: of each candidate's label ``[n_candidates]``, above 0.
        n: how many, at most ``n_candidates``.

    Returns:
        rows ``[n]`` in the order of choice; the lower row where two are as good.
    """
    chosen: list[int] = []
    rows = np.arange(len(covariance))
    while True:
        gains = np.einsum("ij,ij->i", covariance, covariance)
        gains /= np.maximum(covariance[rows, rows], 0.0) + noise
        gains[chosen] = -1.0
        row = int(gains.argmax())
        chosen.append(row)
        if len(chosen) == n:
            return np.asarray(chosen, dtype=np.int64)
        known = covariance[row].copy()
        share = known[: len(rows)] / (max(known[row], 0.0) + noise[row])
        for block in row_blocks(*covariance.shape):
            covariance[block] -= share[block, None] * known


def _explained(kernel: Float64Array, across: Float64Array, noise: float) -> Float64Array:
    """Return L^-1 ``across`` with L L' = ``kernel`` + noise ``[n, n_points]``."""
    from scipy.linalg import cholesky, solve_triangular

    lower = cholesky(kernel + noise * np.eye(len(kernel)), lower=True)
    return np.asarray(solve_triangular(lower, across, lower=True), dtype=np.float64)
