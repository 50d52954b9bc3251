"""People: whoever labels the texts of a project, in their own time."""

from dataclasses import dataclass
from typing import ClassVar

from al_ray.core.types import Annotation, IntArray, LabeledSet
from al_ray.oracle import Oracle, oracles


@oracles.register("people")
@dataclass(frozen=True)
class People(Oracle):
    """People answer, by the page, by files or by Label Studio; only a project can wait for them, no study."""

    may_abstain: ClassVar[bool] = True
    is_outside: ClassVar[bool] = True

    def label(self, ids: IntArray, truth: LabeledSet) -> Annotation:
        """Answer nothing: answers of people reach the loop by its records.

        Raises:
            AssertionError: always.
        """
        raise AssertionError("people are asked through the records")
