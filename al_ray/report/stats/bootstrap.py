"""Bootstrap intervals that keep the design of a study: blocks are resampled within their data set and model.

With a handful of seeds the plain percentile interval is too narrow, for two reasons that are both mended here:

- resampling n blocks shows a variance of (n - 1) / n of the true one, which halves it at two seeds. Deviations from the
  stratum's mean are stretched by sqrt(n / (n - 1)) (the rescaling of Rao and Wu 1988,
  doi 10.1080/01621459.1988.10478591);
- its quantiles are normal ones where Student's t is due. They are moved outwards by as much (Hesterberg 2015, expanded
  percentile, doi 10.1080/00031305.2015.1089789).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from al_ray.core.seeding import stream
from al_ray.core.types import FloatArray

LEVEL = 0.95
"""Coverage of the intervals."""
N_RESAMPLES = 4000
"""Resamples that the interval of a mean difference is made of."""
MIN_FREEDOM = 5
"""Degrees of freedom below which no interval is given: 6 blocks of one stratum, as few as a signed-rank test takes."""

Resampled = Literal["within strata", "across strata"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
        level: coverage it was made for, in (0, 1).
        resampled: "within strata" (the interval speaks about these data sets, over new seeds); "across strata" where
            strata hold too few blocks for it, mostly one seed each, so that all blocks are resampled as one (the
            interval then holds the differences between data sets too and is wider).
    """

    low: float
    high: float
    level: float
    resampled: Resampled

    def __post_init__(self) -> None:
        assert self.low <= self.high, f"an interval from {self.low} to {self.high}"
        assert 0 < self.level < 1

    @property
    def excludes_zero(self) -> bool:
        """Whether it lies wholly on one side of zero."""
        return self.low > 0 or self.high < 0

    def mirrored(self) -> "Interval":
        """Return the interval of the negated value."""
        return replace(self, low=0.0 - self.high, high=0.0 - self.low)


def mean_intervals(
    differences: FloatArray,
    strata: npt.NDArray[np.str_],
    *,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[Interval | None]:
    """Return the stratified bootstrap interval of the mean of every column, None where there is too little data.

    The order of blocks does not matter, since they are sorted by value within their stratum before resampling. Two
    columns with the same blocks share their resamples. A block alone in its stratum is taken to vary as the others do.

    Args:
        differences: ``[n_blocks, n_pairs]``, NaN where a pair lacks a partner.
        strata: name of the stratum of every block ``[n_blocks]``.
        level: coverage in (0, 1).
        n_resamples: bootstrap resamples.
        seed: of the stream "report", "bootstrap".
    """
    values = np.asarray(differences, dtype=np.float64)
    found = _intervals(values, strata, "within strata", level, n_resamples, seed)
    n = np.isfinite(values).sum(axis=0)
    pooled = [at for at, one in enumerate(found) if one is None and n[at] > MIN_FREEDOM]
    if pooled:
        nowhere = np.full(len(strata), "")
        across = _intervals(values[:, pooled], nowhere, "across strata", level, n_resamples, seed)
        for at, interval in zip(pooled, across, strict=True):
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


def _intervals(
    values: npt.NDArray[np.float64],
    strata: npt.NDArray[np.str_],
    resampled: Resampled,
    level: float,
    n_resamples: int,
    seed: int,
) -> list[Interval | None]:
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
            drawn = stream(seed, "report", "bootstrap", str(name), size)
            weights.append(deviation_weights(size, n_resamples, drawn))
            parts.append(np.where(used, rows[:size], 0.0))
    total = np.hstack(weights) @ np.vstack(parts)
    # A block alone in its stratum shows no variance: the others lend theirs.
    deviations = total / np.maximum(n, 1) * np.sqrt(n / np.maximum(n_spread, 1))
    means = np.nansum(values, axis=0) / np.maximum(n, 1)
    tails = {int(f): expanded_tail(level, int(f)) for f in np.unique(freedom) if f >= MIN_FREEDOM}
    found: list[Interval | None] = []
    for at, tail in enumerate(tails.get(int(f)) for f in freedom):
        if tail is None:
            found.append(None)
            continue
        low, high = (np.quantile(deviations[:, at], (tail, 1 - tail)) + means[at]).tolist()
        found.append(Interval(low=low, high=high, level=level, resampled=resampled))
    return found
