"""Euclidean distances between many points, in blocks: float32 products, float64 sums, no copy of the points."""

from collections.abc import Callable, Iterator

import numpy as np

from al_ray.core.types import Float32Array, Float64Array, FloatArray, IntArray

BLOCK_VALUES = 4_000_000
"""Distances held at once: 16 MB in float32."""

ROUNDING = 2e-6
"""A squared distance below this share of ||x||^2 + ||y||^2 is zero but for float32 products, and counts as zero."""


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut ``n_rows`` into blocks of rows whose product with ``n_columns`` points stays small in memory."""
    step = max(1, min(8192, BLOCK_VALUES // max(1, n_columns)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def single(points: FloatArray) -> Float32Array:
    """Return the points in float32; no copy is made where they already are."""
    return np.ascontiguousarray(points, dtype=np.float32)


def squared_norms(points: FloatArray) -> Float64Array:
    """Return ||x||^2 of every row ``[n]``."""
    norms = np.empty(len(points))
    for rows in row_blocks(len(points), points.shape[1]):
        norms[rows] = np.square(points[rows], dtype=np.float64).sum(axis=1)
    return norms


def unit_rows(points: FloatArray) -> Float32Array:
    """Return a float32 copy with rows scaled to length 1; a row of zeros stays one."""
    length = np.sqrt(squared_norms(points))
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0).astype(np.float32)
    return single(points) * scale[:, None]


def double_unit_rows(points: FloatArray) -> Float64Array:
    """Return a float64 copy with rows of length 1 to the last digit; a row of zeros stays one."""
    values = np.asarray(points, dtype=np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1.0)


def settle(squared: Float64Array, scale: Float64Array) -> Float64Array:
    """Set to zero, in place, what is zero but for rounding.

    Args:
        squared: squared distances, computed as ||x||^2 + ||y||^2 - 2 <x, y>.
        scale: ||x||^2 + ||y||^2, of the same shape.
    """
    squared[squared < ROUNDING * scale] = 0.0
    return squared


def squared_distances_to(points: Float32Array, norms: Float64Array, row: int) -> Float64Array:
    """Return the squared distance of every point to one of them ``[n]``.

    Args:
        points: ``[n, n_features]``.
        norms: their squared norms ``[n]``.
        row: the one.
    """
    scale = norms + norms[row]
    return settle(scale - 2.0 * (points @ points[row]), scale)


def squared_distances(
    points: Float32Array, others: Float32Array, norms: Float32Array, other_norms: Float32Array
) -> Float32Array:
    """Return the squared distance of each point to all others ``[n, n_others]``; as large as that in memory, twice.

    Args:
        points: ``[n, n_features]``.
        others: ``[n_others, n_features]``.
        norms: squared norms of the points ``[n]``.
        other_norms: of the others ``[n_others]``.
    """
    squared = points @ others.T
    squared *= -2.0
    scale = norms[:, None] + other_norms
    squared += scale
    scale *= np.float32(ROUNDING)
    squared[squared < scale] = 0.0
    return squared


def squared_distance_blocks(
    points: Float32Array, others: Float32Array | None = None
) -> Iterator[tuple[slice, Float32Array]]:
    """Yield blocks of rows, each with its squared distances to all others ``[n_rows, n_others]``, to be overwritten.

    Args:
        points: ``[n, n_features]``.
        others: ``[n_others, n_features]``, at least one; None: the points themselves.
    """
    y = points if others is None else others
    norms = squared_norms(points).astype(np.float32)
    y_norms = norms if others is None else squared_norms(y).astype(np.float32)
    for rows in row_blocks(len(points), len(y)):
        yield rows, squared_distances(points[rows], y, norms[rows], y_norms)


def nearest(points: FloatArray, centres: FloatArray) -> tuple[IntArray, Float64Array]:
    """Return which centre is nearest to each point, and how far its square is.

    Args:
        points: ``[n, n_features]``.
        centres: ``[n_centres, n_features]``, at least one.

    Returns:
        rows of ``centres`` ``[n]`` (the lower one where two are as near), and squared distances ``[n]``.
    """
    assert len(centres) > 0, "the nearest of no centres"
    x, c = single(points), single(centres)
    x_norms, c_norms = squared_norms(x), squared_norms(c)
    at = np.empty(len(x), dtype=np.int64)
    squared = np.empty(len(x))
    for rows in row_blocks(len(x), len(c)):
        products = x[rows] @ c.T
        products *= -2.0
        products += c_norms.astype(np.float32)
        at[rows] = products.argmin(axis=1)
        squared[rows] = products[np.arange(len(products)), at[rows]]
    return at, settle(squared + x_norms, x_norms + c_norms[at])


def mean_distance_to_neighbors(points: FloatArray, k: int) -> Float64Array:
    """Return the mean distance of each point to its ``k`` nearest others ``[n]``; work grows with n^2.

    Args:
        points: ``[n, n_features]``.
        k: below n.
    """
    assert 0 < k < len(points)
    means = np.empty(len(points))
    for rows, squared in squared_distance_blocks(single(points)):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        near = np.partition(squared, k - 1, axis=1)[:, :k]
        means[rows] = np.sqrt(near, dtype=np.float64).mean(axis=1)
    return means


def farthest_first(
    first: int, nearest: Float64Array, squared_distances_to: Callable[[int], Float64Array], n: int
) -> IntArray:
    """Choose points one by one, each the farthest from all centres and from those chosen before: greedy k-center.

    Args:
        first: the point to begin with.
        nearest: squared distance of each point to the nearest centre ``[n_points]``, infinite where there is none.
        squared_distances_to: returns the squared distance of every point to the given one ``[n_points]``.
        n: how many to choose, at most ``n_points``.

    Returns:
        rows ``[n]`` in the order of choice, unique; the lower row where two are as far.
    """
    chosen, squared = [first], nearest.copy()
    while len(chosen) < n:
        np.minimum(squared, squared_distances_to(chosen[-1]), out=squared)
        squared[chosen] = -1.0
        chosen.append(int(np.argmax(squared)))
    return np.asarray(chosen, dtype=np.int64)


def distance_blocks(points: FloatArray, others: FloatArray) -> Iterator[tuple[slice, Float32Array]]:
    """Yield blocks of rows, each with its distances to all others ``[n_rows, n_others]``, to be overwritten.

    Args:
        points: ``[n, n_features]``.
        others: ``[n_others, n_features]``, at least one.
    """
    for rows, squared in squared_distance_blocks(single(points), single(others)):
        yield rows, np.sqrt(squared, out=squared)
