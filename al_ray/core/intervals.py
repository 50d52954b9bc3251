"""Intervals of a share: Wilson's, also for an estimate whose answers count unequally."""

import math

NORMAL_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above it."""


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share that was found among ``n`` answers (Wilson 1927).

    Args:
        share: in [0, 1]. Of other means in [0, 1] the interval is too wide rather than too narrow, since no value in
            [0, 1] varies more than one of 0 or 1.
        n: answers, above 0; may be fractional, where answers count unequally.
    """
    z = NORMAL_95
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(center - half, 0.0), min(center + half, 1.0)
