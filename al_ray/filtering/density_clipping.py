"""First peak and first valley: clip as many of the most uncertain as the density of the scores says, within a cap."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.types import Float64Array, FloatArray, PoolView, Ranking
from al_ray.filtering import CandidateFilter, filters
from al_ray.registry import Within

_COARSEST_STEP = 2.0**-10  # of the range of the scores
_STEPS_PER_BANDWIDTH = 4
_FINEST_BANDWIDTH = 2.0**-16  # of the range of the scores, so that the grid stays below 300,000 points
_KERNEL_REACH = 6  # bandwidths; beyond, the Gaussian is below 2e-8 of its peak


@dataclass(frozen=True)
class DensityClipping(CandidateFilter):
    """Clip the candidates beyond a landmark of the score density, counted from the uncertain end.

    Attributes:
        cap: share of the candidates to leave out at most, in [0, 1); the paper uses 0.05, and 0.1 in a variant.
    """

    source: ClassVar[str] = "Gonsior et al. 2024, doi 10.1007/s10796-024-10503-z"
    clips: ClassVar[bool] = True
    cap: Annotated[float, Within(ge=0, lt=1, advice="0.05 clips 5 % at most.")] = 0.05

    def apply(self, ranking: Ranking, pool: PoolView, query_size: int) -> Ranking:
        """Return the ranking without the candidates above the landmark, at most ``floor(cap * n_candidates)``."""
        n = self.n_removed(len(ranking), query_size)
        threshold = self.landmark(ranking.scores)
        if threshold is not None:
            n = min(n, int((ranking.scores > threshold).sum()))
        return Ranking(ids=ranking.ids[n:], scores=ranking.scores[n:])

    def n_removed(self, n_candidates: int, query_size: int) -> int:
        """Return ``floor(cap * n_candidates)``."""
        return math.floor(self.cap * n_candidates)

    def landmark(self, scores: Float64Array) -> float | None:
        """Return the score above which candidates are clipped, or None where the density does not have one."""
        raise NotImplementedError


@filters.register("first_peak")
@dataclass(frozen=True)
class FirstPeak(DensityClipping):
    """Ignore what is more uncertain than the first peak of the score density (Gonsior et al. 2024, "First Peak").

    The paper looks for the left-most peak of a confidence; the scores here are high for unsure, so it is the peak of
    the highest score. Gaussian kernel, bandwidth ``1.059 min(std, IQR / 1.349) n^(-1/5)`` (the normal reference rule,
    Silverman 1986, section 3.4): the default of the library that the paper used.

    Deviation: scores that are all equal have no peak and the capped share goes, as if by ``uncertainty_clipping``; the
    paper's code takes the 10th percentile then, whatever the cap. The scores are binned to a quarter of the bandwidth
    or finer, and the bandwidth is no less than 1/65,536 of their range.
    """

    def landmark(self, scores: Float64Array) -> float | None:
        """Return the score at the right-most local maximum of the density."""
        return _locate(scores, valley=False)


@filters.register("first_valley")
@dataclass(frozen=True)
class FirstValley(DensityClipping):
    """Ignore what is more uncertain than the valley after the first peak of the score density (Gonsior et al. 2024).

    The first local minimum beyond the peak of ``first_peak``, towards the certain side; everything else is as there.

    Deviation: where the density has one peak only there is no valley, and the capped share goes.
    """

    def landmark(self, scores: Float64Array) -> float | None:
        """Return the score at the first local minimum on the certain side of the first peak."""
        return _locate(scores, valley=True)


def _locate(scores: Float64Array, *, valley: bool) -> float | None:
    if len(scores) < 2 or scores.min() == scores.max():
        return None
    low, width = float(scores.min()), float(scores.max() - scores.min())
    grid, density = _density((scores - low) / width)
    at = _first_turns(density[::-1])[int(valley)]
    return None if at is None else low + width * float(grid[::-1][at])


def _first_turns(density: FloatArray) -> tuple[int, int | None]:
    """Return where a density that starts at zero first falls, and where it first rises again after that."""
    steps = np.diff(density)
    peak = int(np.argmax(steps < 0))
    rises = np.flatnonzero(steps[peak:] > 0)
    return peak, peak + int(rises[0]) if len(rises) else None


def _density(values: Float64Array) -> tuple[FloatArray, FloatArray]:
    """Return a grid over [0, 1] with padding and the unnormalised kernel density of values in [0, 1] on it.

    Summed directly rather than by a Fourier transform, whose rounding makes false peaks where no score is.
    """
    bandwidth = _bandwidth(values)
    step = min(bandwidth / _STEPS_PER_BANDWIDTH, _COARSEST_STEP)
    reach = math.ceil(_KERNEL_REACH * bandwidth / step)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / bandwidth) ** 2)
    density = np.pad(np.convolve(_binned(values / step, math.ceil(1 / step) + 2), kernel), 1)
    return step * (np.arange(len(density)) - reach - 1.0), density


def _binned(positions: Float64Array, n_bins: int) -> FloatArray:
    """Share every position out among the two grid points around it, by nearness."""
    lower = np.floor(positions).astype(np.int64)
    upper_share = positions - lower
    counts = np.zeros(n_bins)
    counts += np.bincount(lower, weights=1 - upper_share, minlength=n_bins)
    counts += np.bincount(lower + 1, weights=upper_share, minlength=n_bins)
    return counts


def _bandwidth(values: Float64Array) -> float:
    lower, upper = np.percentile(values, [25, 75])
    spread = float(values.std(ddof=1))
    if upper > lower:
        spread = min(spread, float(upper - lower) / 1.349)
    return max(1.059 * spread * len(values) ** -0.2, _FINEST_BANDWIDTH)
