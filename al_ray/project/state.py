"""What a project asks and what it shows, as plain values: for the page, the files, the connectors and the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Task:
    """One text that people are asked to label.

    Attributes:
        id: of the example, for ever.
        text: as the data have it.
        prediction: the class that the model believes in, or None before there is a model.
        confidence: probability that it gives that class, in (0, 1]; None likewise.
        reason: why this text is asked for, in one sentence.
        role: ``train``: the model learns from the answer; ``evaluation``: it is measured by it, and never sees it.
    """

    id: int
    text: str
    prediction: str | None = None
    confidence: float | None = None
    reason: str
    role: Literal["train", "evaluation"] = "train"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The query of one round: what is asked now, the same until the round is closed.

    Attributes:
        id: names the query for ever, as ``{first 8 digits of the cell's fingerprint}/{round}``.
        round_index: 0 is the first query, before there is a model.
        tasks: all texts of the query, in the order of their importance; evaluation texts after those to learn from.
        answered: ids that have an answer already, an abstention included.
    """

    id: str
    round_index: int
    tasks: tuple[Task, ...]
    answered: frozenset[int] = frozenset()

    @property
    def open(self) -> tuple[Task, ...]:
        """Tasks that have no answer yet."""
        return tuple(task for task in self.tasks if task.id not in self.answered)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What came of some answers.

    Attributes:
        n_new: first answers to a text.
        n_changed: further answers to a text that had one: another annotator's, or a change of mind.
        n_same: answers that were there already, word for word; nothing was added for them.
    """

    n_new: int = 0
    n_changed: int = 0
    n_same: int = 0


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """How good the model of one round is, as estimated.

    Attributes:
        n_labeled: labels that it was fitted on.
        accuracy: share of the pool's texts that it puts into the right class, in [0, 1].
        low: lower end of its 95 % interval.
        high: upper end.
        n_evaluated: answers that the estimate rests on.
    """

    n_labeled: int
    accuracy: float
    low: float
    high: float
    n_evaluated: int


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What more labels are likely to bring.

    Attributes:
        n_more: labels more.
        gain: points of accuracy that they are likely to add, in [-1, 1].
        low: lower end of the band that the gain will be in nine times of ten.
        high: upper end.
    """

    n_more: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a project computes right now.

    Attributes:
        doing: in a few words, such as ``reading 12,000 of 100,000 texts``.
        share: of it that is done, in [0, 1], as far as that is known; else None.
    """

    doing: str
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a project is.

    Attributes:
        name: of the project.
        round_index: of the query that is open.
        n_pool: texts of the pool, whatever is known of them.
        n_labeled: texts with a label, evaluation texts not among them.
        n_abstained: texts that were asked for and that nobody put into a class.
        n_evaluation: evaluation texts with a label.
        n_given: labels that the data had from the start, a part of ``n_labeled``.
        class_counts: class name -> labelled texts, evaluation texts not among them, in the order of the classes.
        n_asked: texts of the open query.
        n_open: of these, without an answer.
        curve: one point a fitted round that could be estimated, oldest first.
        outlook: what the next 100 labels are likely to bring, or None where the curve is too short to say.
        advice: name of each stopping rule -> why it says that enough is labelled, or None while it does not.
        end: why nothing more will be asked, or None.
        how_estimated: in one sentence, how ``curve`` was estimated; says that it was not where it was not.
        annotators: name -> answers given.
        seconds_per_answer: median time of an answer, or None where nobody measured it.
    """

    name: str
    round_index: int
    n_pool: int
    n_labeled: int
    n_abstained: int
    n_evaluation: int
    n_given: int
    class_counts: Mapping[str, int]
    n_asked: int
    n_open: int
    curve: Sequence[CurvePoint] = ()
    outlook: Outlook | None = None
    advice: Mapping[str, str | None] = field(default_factory=dict)
    end: str | None = None
    how_estimated: str
    annotators: Mapping[str, int] = field(default_factory=dict)
    seconds_per_answer: float | None = None
