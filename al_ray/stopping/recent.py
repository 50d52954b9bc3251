"""The metrics that stopping rules read: those of the last rounds."""

from collections.abc import Sequence

from al_ray.core.types import RoundRecord


def recent(rounds: Sequence[RoundRecord], metric: str, n: int) -> list[float] | None:
    """Return a metric of the last ``n`` rounds, oldest first, or None where one of them does not have it.

    Args:
        rounds: all rounds, oldest first.
        metric: what the rounds recorded it as.
        n: how many, at least 1.
    """
    values = [record.metrics.get(metric) for record in rounds[-n:]]
    known = [value for value in values if value is not None]
    return known if len(known) == n else None
