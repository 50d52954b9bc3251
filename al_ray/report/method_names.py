"""Method names taken apart: ``softmax + least_confidence + uncertainty_clipping`` and what it is without clipping."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from al_ray.experiment.cell_names import JOIN
from al_ray.filtering import filters

Role = Literal["query", "random", "passive"]


@dataclass(frozen=True, kw_only=True)
class MethodName:
    """The parts of a method's name.

    Attributes:
        name: confidence, strategy and filters, joined by ``+``; what else varies in a study is no part of it.
        confidence: label of the confidence method, options that are not the default included.
        strategy: label of the query strategy, likewise.
        kept: labels of the filters that do not clip.
        clipping: labels of those that do.
    """

    name: str
    confidence: str
    strategy: str
    kept: tuple[str, ...] = ()
    clipping: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """Return the name of the same method without clipping."""
        return JOIN.join([self.confidence, self.strategy, *self.kept])

    @property
    def filters(self) -> str:
        """Return all filters in words, in the order of the name; empty for none."""
        return JOIN.join(self.name.split(JOIN)[2:])


def parse_method(parts: Sequence[str]) -> MethodName:
    """Take apart the labels of a method: confidence, strategy, then its filters."""
    confidence, strategy, *rest = parts
    return MethodName(
        name=JOIN.join(parts),
        confidence=confidence,
        strategy=strategy,
        kept=tuple(label for label in rest if not _clips(label)),
        clipping=tuple(label for label in rest if _clips(label)),
    )


def role_of(strategy: str, has_filters: bool) -> Role:
    """Return what a method is to the others; ``strategy`` is the plug-in's name."""
    if strategy == "passive":
        return "passive"
    return "random" if strategy == "random" and not has_filters else "query"


def _clips(label: str) -> bool:
    names = [name for name in filters.names() if label == name or label.startswith(f"{name}_")]
    return bool(names) and filters.get(max(names, key=len)).clips
