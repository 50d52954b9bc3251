"""Stopping rules: when to stop asking, as pure functions of the recorded rounds."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from al_ray.core.types import RoundRecord
from al_ray.registry import Plugin, Registry


class StoppingRule(Plugin, Protocol):
    """Says why to stop. It keeps no state: resuming must equal never stopping.

    The metrics of a round hold, where a rule asks for them: ``stop_set_changed`` (share of the stop set whose predicted
    class differs from the round before, from round 2), ``stop_set_kappa`` (Cohen's kappa of the two predictions, from
    round 2), ``stop_set_entropy`` (mean entropy of the stop set, nats) and ``validation_accuracy``.

    Attributes:
        source: authors, year and arXiv number or DOI.
        needs_stop_set: whether it reads the ``stop_set_*`` metrics: predictions on 2,000 random examples of the
            training split, the same in every round.
    """

    source: ClassVar[str]
    needs_stop_set: ClassVar[bool] = False

    @property
    def n_validation(self) -> int:
        """Examples of the training split that are labelled for validation and leave the pool; 0 = none."""
        return 0

    def reason(self, rounds: Sequence[RoundRecord], n_pool: int, query_size: int) -> str | None:
        """Return why no further query should be made, or None to go on.

        Args:
            rounds: all rounds, oldest first; the last is the current one, with its metrics and no query yet.
            n_pool: candidates left for the query that would come next.
            query_size: how many it would ask for.
        """
        ...


stopping_rules: Registry[StoppingRule] = Registry("stopping rule", "al_ray.stopping")


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
