"""Bootstrap intervals that keep the design of a study: blocks are resampled within their data set and model.

With a handful of seeds the plain percentile interval is too narrow, for two reasons that are both mended here:

- resampling n blocks shows a variance of (n - 1) / n of the true one, which halves it at two seeds. Deviations from the
  stratum's mean are stretched by sqrt(n / (n - 1)) (the rescaling of Rao and Wu 1988,
  doi 10.1080/01621459.1988.10478591);
- its quantiles are normal ones where Student's t is due. They are moved outwards by as much (Hesterberg 2015, expanded
  percentile, doi 10.1080/00031305.2015.1089789).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from al_ray.core.seeding import stream
from al_ray.core.types import FloatArray

MIN_FREEDOM = 5
"""Degrees of freedom below which no interval is given: 6 blocks of one stratum, as few as a signed-rank test takes."""

Resampled = Literal["within strata", "across strata"]


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """A bootstrap interval of a mean of paired differences, in the unit of the differences.

    Attributes:
        low, high: bounds; NaN where there is too little data.
        resampled: "within strata" (the interval speaks about these data sets, over new seeds); "across strata" where
            strata hold too few blocks for it, mostly one seed each, so that all blocks are resampled as one (the
            interval then holds the differences between data sets too and is wider). None without an interval.
        freedom: degrees of freedom: blocks minus strata of two and more blocks, or blocks minus 1 across strata.
        n_borrowed: blocks that are alone in their stratum; their variance is taken to be that of the others.
    """

    low: float
    high: float
    resampled: Resampled | None
    freedom: int
    n_borrowed: int


def mean_intervals(
    differences: FloatArray, strata: npt.NDArray[np.str_], *, level: float, n_resamples: int, seed: int
) -> list[MeanInterval]:
    """Return the stratified bootstrap interval of the mean of every column.

    The order of blocks does not matter, since they are sorted by value within their stratum before resampling. Two
    columns with the same blocks share their resamples.

    Args:
        differences: ``[n_blocks, n_pairs]``, NaN where a pair lacks a partner.
        strata: name of the stratum of every block ``[n_blocks]``.
        level: coverage in (0, 1).
        n_resamples: bootstrap resamples.
        seed: of the stream "report", "bootstrap".
    """
    values = np.asarray(differences, dtype=np.float64)
    within = _Resampling.of(values, strata, n_resamples=n_resamples, seed=seed)
    pooled = (within.freedom < MIN_FREEDOM) & (within.n > MIN_FREEDOM)
    found = within.intervals(level, "within strata")
    if pooled.any():
        nowhere = np.full(len(strata), "")
        across = _Resampling.of(values[:, pooled], nowhere, n_resamples=n_resamples, seed=seed)
        for at, interval in zip(np.flatnonzero(pooled), across.intervals(level, "across strata"), strict=True):
            found[at] = interval
    return found


def deviation_weights(n: int, n_resamples: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw resamples of ``n`` blocks as weights ``[n_resamples, n]`` for the sum's deviation from what it is.

    ``values.mean() + weights @ values / n`` are resampled means. Rows sum to 0 and are stretched, so that the resamples
    show the full variance of the mean (Rao and Wu 1988, with as many drawn as there are).

    Args:
        n: blocks, at least 2.
        n_resamples: rows.
        rng: the stream to draw from.
    """
    assert n > 1, "one block shows no variance"
    drawn = rng.integers(n, size=(n_resamples, n)) + np.arange(n_resamples)[:, None] * n
    counts = np.bincount(drawn.ravel(), minlength=n_resamples * n).reshape(n_resamples, n)
    return (counts - 1.0) * np.sqrt(n / (n - 1))


def expanded_tail(level: float, freedom: int) -> float:
    """Return the quantile level of an interval's lower end: that of the normal at Student's t quantile."""
    from scipy.stats import norm, t

    return float(norm.cdf(t.ppf((1 - level) / 2, freedom)))


@dataclass(frozen=True, kw_only=True)
class _Resampling:
    """Resampled means ``[n_resamples, n_pairs]`` around the means ``[n_pairs]`` and what they rest on."""

    means: npt.NDArray[np.float64]
    n: npt.NDArray[np.int64]
    n_spread: npt.NDArray[np.int64]
    freedom: npt.NDArray[np.int64]
    deviations: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, values: npt.NDArray[np.float64], strata: npt.NDArray[np.str_], *, n_resamples: int, seed: int
    ) -> "_Resampling":
        n = np.isfinite(values).sum(axis=0)
        n_spread, freedom = np.zeros_like(n), np.zeros_like(n)
        weights, parts = [np.zeros((n_resamples, 0))], [np.zeros((0, values.shape[1]))]
        for name in np.unique(strata):
            rows = np.sort(values[strata == name], axis=0)  # NaN last, so the first n of a column are its blocks
            n_here = np.isfinite(rows).sum(axis=0)
            for size in np.unique(n_here[n_here > 1]).tolist():
                used = n_here == size
                n_spread[used] += size
                freedom[used] += size - 1
                weights.append(_weights(size, n_resamples, seed, str(name)))
                parts.append(np.where(used, rows[:size], 0.0))
        total = np.hstack(weights) @ np.vstack(parts)
        # A block alone in its stratum shows no variance: the others lend theirs.
        deviations = total / np.maximum(n, 1) * np.sqrt(n / np.maximum(n_spread, 1))
        means = np.nansum(values, axis=0) / np.maximum(n, 1)
        return cls(means=means, n=n, n_spread=n_spread, freedom=freedom, deviations=deviations)

    def intervals(self, level: float, resampled: Resampled) -> list[MeanInterval]:
        tails = {int(f): expanded_tail(level, int(f)) for f in np.unique(self.freedom) if f >= MIN_FREEDOM}
        return [self._interval(at, tails.get(int(f)), resampled) for at, f in enumerate(self.freedom)]

    def _interval(self, at: int, tail: float | None, resampled: Resampled) -> MeanInterval:
        low, high = float("nan"), float("nan")
        if tail is not None:
            low, high = (np.quantile(self.deviations[:, at], (tail, 1 - tail)) + self.means[at]).tolist()
        return MeanInterval(
            low=low,
            high=high,
            resampled=None if tail is None else resampled,
            freedom=int(self.freedom[at]),
            n_borrowed=int(self.n[at] - self.n_spread[at]),
        )


def _weights(n: int, n_resamples: int, seed: int, stratum: str) -> npt.NDArray[np.float64]:
    return deviation_weights(n, n_resamples, stream(seed, "report", "bootstrap", stratum, n))
