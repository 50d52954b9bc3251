"""One pass over a stream of examples: each is decided on once, in the order in which it comes, and then forgotten."""

from dataclasses import dataclass

import numpy as np

from al_ray.core.types import Float32Array, Float64Array, FloatArray, IntArray, listed_ids
from al_ray.core.uncertainty import label_errors
from al_ray.errors import RoundError

BLOCK_ROWS = 1024
"""Examples that are worked on at once."""

INITIAL_INVERSE = 100.0
"""A^-1 before anything is accepted, as a multiple of the identity."""


@dataclass(frozen=True)
class GradientEmbedding:
    """The gradient of the loss for the predicted label by the last layer's weights, in few dimensions.

    The gradient is g = (p - onehot(argmax p)) outer h, ``n_classes * n_features`` wide. It is exact where it may be as
    wide. Otherwise it is projected at random, one product of two projections of signs a dimension,
    <u, p - onehot> <v, h> / sqrt(n_dimensions), whose inner products are those of the gradients on average (Kar and
    Karnick 2012, arXiv 1201.6530, for the kernel <a, b> <h, k>): the gradient itself is never built.

    Attributes:
        n_dimensions: width of the embeddings.
        of_errors: the signs u ``[n_classes, n_dimensions]``; None = exact.
        of_features: the signs v, scaled ``[n_features, n_dimensions]``; None = exact.
    """

    n_dimensions: int
    of_errors: Float32Array | None = None
    of_features: Float32Array | None = None

    @classmethod
    def draw(
        cls, n_classes: int, n_features: int, n_dimensions: int, stream: np.random.Generator
    ) -> "GradientEmbedding":
        """Draw a projection to ``n_dimensions``, or leave the gradients as they are where they are no wider."""
        if n_classes * n_features <= n_dimensions:
            return cls(n_classes * n_features)
        of_errors, of_features = (
            stream.integers(2, size=(width, n_dimensions)).astype(np.float32) * 2 - 1
            for width in (n_classes, n_features)
        )
        return cls(n_dimensions, of_errors, of_features / np.sqrt(np.float32(n_dimensions)))

    def __call__(self, probs: FloatArray, features: FloatArray) -> Float32Array:
        """Return the embeddings ``[n, n_dimensions]``.

        Args:
            probs: ``[n, n_classes]``.
            features: what the last layer reads ``[n, n_features]``.
        """
        a, h = label_errors(probs).astype(np.float32), np.asarray(features, dtype=np.float32)
        if self.of_errors is None or self.of_features is None:
            return (a[:, :, None] * h[:, None, :]).reshape(len(a), self.n_dimensions)
        projected: Float32Array = (a @ self.of_errors) * (h @ self.of_features)
        return projected


class OnePassSelector:
    """Accepts about ``n`` of a stream whose length is known, the more likely the more an example adds to those before.

    VeSSAL (Saran et al. 2023, arXiv 2303.02535): with A = I / 100 + the sum of g g^T over what was accepted, and
    Sigma_t the mean of g g^T over the first t examples, the t-th is accepted with probability z_t g_t^T A^-1 g_t, where
    z_t = (n - number accepted) / (number left of the stream * tr(Sigma_t A^-1)). So the expected rate is what is left
    of the budget over what is left of the stream, and determinants of Gram matrices decide who gets it. A^-1 follows by
    the rank-1 update of Sherman and Morrison. No more than ``n`` are accepted; where the stream ends before, the others
    are drawn at random from those passed over.

    Memory is two square matrices of ``n_dimensions`` and ``n`` ids, however long the stream is. The same stream and
    draws give the same decisions in whatever blocks it comes, but for rounding.

    Args:
        n: how many to choose.
        n_stream: how many examples come, those that are skipped included.
        n_dimensions: width of the embeddings.
        stream: two numbers are drawn from it an example.
    """

    def __init__(self, n: int, n_stream: int, n_dimensions: int, stream: np.random.Generator) -> None:
        assert n >= 0
        self._n, self._n_stream, self._stream = n, n_stream, stream
        self._n_past, self._n_offered = 0, 0
        self._inverse: Float64Array = INITIAL_INVERSE * np.eye(n_dimensions)
        self._moments: Float64Array = np.zeros((n_dimensions, n_dimensions))  # the sum of g g^T over all offered
        self._accepted: list[int] = []
        self._reserve: IntArray = np.empty(0, np.int64)
        self._reserve_keys: Float64Array = np.empty(0)

    @property
    def accepted(self) -> IntArray:
        """What was accepted so far, in the order of the stream."""
        return np.array(self._accepted, dtype=np.int64)

    @property
    def is_full(self) -> bool:
        """Whether all are accepted that may be: what is still to come changes nothing."""
        return len(self._accepted) == self._n

    @property
    def reserve(self) -> IntArray:
        """What the query is filled up with where the stream ends now, in that order; all of it was passed over."""
        return self._reserve

    @property
    def query(self) -> IntArray:
        """What was accepted, then what fills it up to ``n``; shorter where no more was offered."""
        return np.concatenate([self.accepted, self._reserve])

    def skip(self, n_examples: int) -> None:
        """Let some examples of the stream pass that may not be chosen."""
        self._n_past += n_examples
        assert self._n_past <= self._n_stream, "the stream is longer than was said"

    def offer(self, embeddings: FloatArray, ids: IntArray) -> IntArray:
        """Decide on the next examples of the stream.

        Args:
            embeddings: ``[n, n_dimensions]``.
            ids: ``[n]``, new ones.

        Returns:
            the ids that are accepted, in the order of the stream.

        Raises:
            RoundError: an embedding is not finite.
        """
        assert len(embeddings) == len(ids)
        bad = ~np.isfinite(embeddings).all(axis=1)
        if bad.any():
            raise RoundError(
                f"the gradient embeddings of {int(bad.sum())} examples are not finite (ids {listed_ids(ids[bad])}). "
                "The model gave features that are infinite or NaN: fit it again with a lower learning_rate."
            )
        parts = [np.empty(0, np.int64)]
        for start in range(0, len(ids), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            parts.append(self._decide(np.asarray(embeddings[rows], dtype=np.float64), ids[rows]))
        return np.concatenate(parts)

    def _decide(self, points: Float64Array, ids: IntArray) -> IntArray:
        n_missing = self._n - len(self._accepted)
        draws = self._stream.random((len(ids), 2))
        rows = self._accepted_rows(points, draws[:, 0], n_missing) if n_missing else []
        self._n_offered += len(ids)
        self.skip(len(ids))
        if n_missing:
            self._accepted += ids[rows].tolist()
            self._moments += points.T @ points
            self._keep_reserve(np.delete(ids, rows), np.delete(draws[:, 1], rows), n_missing - len(rows))
        return ids[rows]

    def _accepted_rows(self, points: Float64Array, draws: Float64Array, n_missing: int) -> list[int]:
        """Return the rows of a block that are accepted, and update A^-1.

        tr(Sigma_t A^-1) is the mean of g^T A^-1 g up to t, so that between two accepted examples all are decided at
        once.
        """
        numbers = np.arange(len(points))
        n_left = self._n_stream - self._n_past - numbers
        n_seen = self._n_offered + 1 + numbers
        gains = np.einsum("ij,ij->i", points @ self._inverse, points)
        before = float((self._moments * self._inverse).sum())
        rows: list[int] = []
        while len(rows) < n_missing:
            start = rows[-1] + 1 if rows else 0
            gains = np.maximum(gains, 0.0)  # rounding may take what is spanned already below zero
            means = (max(before, 0.0) + np.cumsum(gains)) / n_seen
            shares = np.divide(gains, means, out=np.zeros_like(gains), where=means > 0)
            hits = np.flatnonzero(draws[start:] * n_left[start:] < (n_missing - len(rows)) * shares[start:])
            if not len(hits):
                break
            row = start + int(hits[0])
            rows.append(row)
            direction = self._inverse @ points[row]
            scale = 1.0 + max(float(points[row] @ direction), 0.0)
            gains = gains - (points @ direction) ** 2 / scale
            before -= float(direction @ self._moments @ direction) / scale
            self._inverse -= np.outer(direction, direction) / scale
        return rows

    def _keep_reserve(self, ids: IntArray, keys: Float64Array, n: int) -> None:
        """Keep the ``n`` lowest keys of what was passed over: a random sample of it."""
        ids, keys = np.concatenate([self._reserve, ids]), np.concatenate([self._reserve_keys, keys])
        lowest = np.argsort(keys, kind="stable")[:n]
        self._reserve, self._reserve_keys = ids[lowest], keys[lowest]
