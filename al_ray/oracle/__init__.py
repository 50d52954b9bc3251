"""Oracles: who answers a query."""

from typing import ClassVar, Protocol

from al_ray.core.types import Annotation, IntArray, LabeledSet
from al_ray.registry import Plugin, Registry


class Oracle(Plugin, Protocol):
    """Answers a query.

    Attributes:
        may_abstain: whether an answer may be missing, as it is for a text of no class.
        is_outside: whether the answers come from outside the program, when they come: the loop leaves its query in the
            records and returns. :meth:`label` is then never called.
    """

    may_abstain: ClassVar[bool]
    is_outside: ClassVar[bool] = False

    def label(self, ids: IntArray, truth: LabeledSet) -> Annotation:
        """Answer for the same ids in the same order.

        Args:
            ids: the query ``[query_size]``.
            truth: the data set's own labels of the whole training split, ids ascending.
        """
        ...


oracles: Registry[Oracle] = Registry("oracle", "al_ray.oracle")
