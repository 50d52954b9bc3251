"""Pool exhausted: stop when the pool cannot fill another query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from al_ray.core.types import RoundRecord
from al_ray.stopping import StoppingRule, stopping_rules


@stopping_rules.register("pool_exhausted")
@dataclass(frozen=True)
class PoolExhausted(StoppingRule):
    """Stop quietly when fewer examples are left than one query asks for; without this rule that is an error."""

    source: ClassVar[str] = "baseline"

    def reason(self, rounds: Sequence[RoundRecord], n_pool: int, query_size: int) -> str | None:
        """Return the reason once fewer than ``query_size`` unlabelled examples are left."""
        return None if n_pool >= query_size else f"pool exhausted: {n_pool} examples left, query_size is {query_size}"
