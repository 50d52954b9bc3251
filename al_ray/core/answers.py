"""Answers: what annotators said, one row an answer, and what of it counts as the label of an example."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

GIVEN = "given"
"""Source of a label that the data had from the start."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one annotator said of one example; never changed, only followed by another one.

    Attributes:
        id: of the example.
        label: index of the class, or None where the annotator abstained: skipped it, or was not sure.
        annotator: who; empty where it is not known.
        source: where the answer came from: ``given`` (the label column of the data), ``page``, ``file`` or
            ``label_studio``.
        seconds: how long the annotator looked at the text, or None where nobody measured it.
        at: when it was given, UTC, to the millisecond; None for a label that was there from the start.
        note: of the annotator, for people.
    """

    id: int
    label: int | None
    annotator: str = ""
    source: str
    seconds: float | None = None
    at: datetime | None = None
    note: str = ""


def aggregate(answers: Iterable[Answer]) -> dict[int, int | None]:
    """Return the label that fitting sees of every answered example: None where nobody named a class.

    Of each annotator the last answer counts, so that a mind may be changed. Among annotators the class named by most
    counts, and of several such the one that the data had, or else that was named first. An abstention names no class.
    A label that the data had also counts as long as nobody names a class.

    Args:
        answers: in the order in which they were given.
    """
    last: dict[int, dict[str, int | None]] = {}
    given: dict[int, int | None] = {}
    for answer in answers:
        if answer.source == GIVEN:
            given[answer.id] = answer.label
        else:
            last.setdefault(answer.id, {})[answer.annotator] = answer.label
    return {id_: _label(last.get(id_, {}), given.get(id_)) for id_ in dict.fromkeys([*given, *last])}


def _label(said: Mapping[str, int | None], given: int | None) -> int | None:
    """Return the class that most annotators named; of equals the given one or the first, as a dict keeps the order."""
    counts = Counter(label for label in said.values() if label is not None)
    if not counts:
        return given
    label, most = counts.most_common(1)[0]
    return given if given is not None and counts[given] == most else label
