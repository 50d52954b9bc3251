"""Stopping rules: when to stop asking, as pure functions of the recorded rounds."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from al_ray.core.types import RoundRecord
from al_ray.registry import Registry


class StoppingRule(Protocol):
    """Says why to stop. It keeps no state: resuming must equal never stopping.

    Attributes:
        name: what a study file calls it.
    """

    name: ClassVar[str]

    def reason(self, rounds: Sequence[RoundRecord], n_pool: int, query_size: int) -> str | None:
        """Return why no further query should be made, or None to go on.

        Args:
            rounds: all recorded rounds, oldest first.
            n_pool: unlabelled examples left.
            query_size: how many the next round would ask for.
        """
        ...


stopping_rules: Registry[StoppingRule] = Registry("stopping rule", "al_ray.stopping")
