"""Desk: hands out texts to several annotators at once and takes their answers, while the next query is computed."""

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from al_ray.core.answers import Answer
from al_ray.errors import AlRayError, DataError, one_line, unknown_name
from al_ray.project.state import Batch, Progress, Status, Task, Told
from al_ray.records.round import now

RESERVED_S = 600.0
# A frozen learner is done within this; nobody should spend an answer on the estimate for so short a wait.
PATIENCE_S = 1.5
N_REMEMBERED = 10_000

State = Literal["asking", "computing", "waiting", "failed", "done"]

_log = logging.getLogger(__name__)


class Labelled(Protocol):
    """What the desk needs of a project; :class:`al_ray.project.project.Project` is one."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def end(self) -> str | None:
        """Why nothing more will be asked, or None."""
        ...

    @property
    def progress(self) -> Progress | None:
        """What is being computed, or None."""
        ...

    def text_of(self, id_: int) -> str:
        """Return the text of an example."""
        ...

    def batch(self) -> Batch | None:
        """Return the open query, computing it where needed."""
        ...

    def prepare(self) -> None:
        """Compute what later queries need, while people label this one."""
        ...

    def batch_if_ready(self) -> Batch | None:
        """Return the open query, or None where it has to be computed first."""
        ...

    def ahead(self, n: int) -> tuple[Task, ...]:
        """Return evaluation texts that may be answered before they are asked for."""
        ...

    def tell(self, answers: Iterable[Answer]) -> Told:
        """Record answers, durably."""
        ...

    def answers(self) -> list[Answer]:
        """Return all answers, oldest first."""
        ...

    def status(self) -> Status:
        """Return how far the project is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hand:
    """What one annotator has before them.

    Attributes:
        state: ``asking``: there are texts; ``computing``: the next query is on its way; ``waiting``: what is left of
            this query is with other annotators; ``failed``: the next query could not be computed; ``done``.
        tasks: texts reserved for the annotator, the next one first.
        again: ids of those that the annotator skipped before.
        with_others: annotator -> texts of the open query that they have.
        message: why it failed, or why nothing more will be asked.
    """

    state: State
    tasks: tuple[Task, ...] = ()
    again: frozenset[int] = frozenset()
    with_others: dict[str, int]
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An answer that an annotator gave before, to look at and to change.

    Attributes:
        answer: the last one of this annotator to this text.
        text: that it is for.
        n: answered texts of this annotator.
    """

    answer: Answer
    text: str
    n: int


class Desk:
    """Hands out the texts of a project and takes answers; safe to use from several threads.

    A text is reserved for the annotator who has it until it is answered, skipped, or not asked for again for a while,
    so that two people never label the same one. One thread computes the next query as soon as one is needed; meanwhile
    there may be texts to measure the model by. Which texts an annotator has is kept in memory alone: a desk that is
    opened anew asks for the same query, less what was answered.

    Args:
        project: that is labelled.
        clock: monotonic, in seconds.
        reserved_s: how long a text stays with an annotator who gives no sign of life.
        patience_s: how long the next query may take before texts to measure the model by are handed out.
    """

    def __init__(
        self,
        project: Labelled,
        *,
        clock: Callable[[], float] = time.monotonic,
        reserved_s: float = RESERVED_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.project = project
        self._clock, self._reserved_s, self._patience_s = clock, reserved_s, patience_s
        self._label_of = {name: index for index, name in enumerate(project.class_names)}
        self._lock = threading.Lock()  # of the hands, never held while anything is written or computed
        self._telling = threading.Lock()
        self._hands: dict[str, dict[int, Task]] = {}
        self._seen_at: dict[str, float] = {}
        self._skipped: dict[str, dict[int, None]] = {}
        self._confirmed: OrderedDict[tuple[str, str], Told] = OrderedDict()
        self._computing_since: float | None = None
        self._failure: str | None = None
        self._is_exhausted = False
        self._thread: threading.Thread | None = None

    # ---- texts out --------------------------------------------------------------------------------------------------

    def hand_out(self, annotator: str, n: int = 1) -> Hand:
        """Return the annotator's next texts, and reserve them; asked again, the same ones.

        Args:
            annotator: who asks.
            n: how many at most.
        """
        with self._lock:
            # Read in here: a text that is answered meanwhile is either no longer open or still in its hand.
            batch = self.project.batch_if_ready()
            if batch is None:
                self._start()
            self._seen_at[annotator] = self._clock()
            hand = self._hands.setdefault(annotator, {})
            open_ = {} if batch is None else {task.id: task for task in batch.open}
            self._drop_answered(open_)
            taken = self._with_others(annotator)
            for task in self._candidates(annotator, open_, taken, n - len(hand)):
                hand.setdefault(task.id, task)
            tasks = tuple(hand.values())[:n]
            skipped = self._skipped.get(annotator, {})
            again = frozenset(task.id for task in tasks if task.id in skipped)
            others = dict(Counter(name for id_, name in taken.items() if id_ in open_))
            state, message = self._state(tasks, others)
        return Hand(state=state, tasks=tasks, again=again, with_others=others, message=message)

    def _candidates(self, annotator: str, open_: dict[int, Task], taken: dict[int, str], n: int) -> list[Task]:
        """Return up to ``n`` texts that may be added to a hand: new ones, then skipped ones, then those ahead."""
        if n <= 0:
            return []
        mine, skipped = self._hands[annotator], self._skipped.get(annotator, {})
        free = {id_: task for id_, task in open_.items() if id_ not in taken and id_ not in mine}
        found = [task for id_, task in free.items() if id_ not in skipped]
        found += [free[id_] for id_ in skipped if id_ in free]
        if not found and not mine and self._may_go_ahead(bool(open_)):
            held = taken.keys() | mine.keys()
            ahead = [task for task in self.project.ahead(n + len(held) + len(skipped)) if task.id not in held]
            found = sorted(ahead, key=lambda task: list(skipped).index(task.id) if task.id in skipped else -1)
        return found[:n]

    def _may_go_ahead(self, is_with_others: bool) -> bool:
        since = self._computing_since
        return is_with_others or (since is not None and self._clock() - since >= self._patience_s)

    def _drop_answered(self, open_: dict[int, Task]) -> None:
        """Take out of all hands what has an answer by now; what was handed out ahead is in no query yet."""
        doubtful = {id_ for hand in self._hands.values() for id_ in hand if id_ not in open_}
        if doubtful:
            answered = {answer.id for answer in self.project.answers()}
            # Texts to learn from that are in no open query: their round was closed without them.
            for hand in self._hands.values():
                for id_ in doubtful & hand.keys():
                    if id_ in answered or hand[id_].role == "train":
                        del hand[id_]

    def _with_others(self, annotator: str) -> dict[int, str]:
        """Return the texts that others have, with their names; who gave no sign of life for long has none."""
        oldest = self._clock() - self._reserved_s
        for name in [name for name, seen in self._seen_at.items() if seen < oldest]:
            self._hands.pop(name, None)
            del self._seen_at[name]
        return {id_: name for name, hand in self._hands.items() if name != annotator for id_ in hand}

    def _state(self, tasks: Sequence[Task], others: dict[str, int]) -> tuple[State, str | None]:
        if tasks:
            return "asking", None
        if self._failure is not None:
            return "failed", self._failure
        if others:
            return "waiting", None
        if (end := self.project.end) is not None:
            return "done", end
        if self._is_exhausted:
            return "done", "every text has been asked for"
        return "computing", None

    # ---- answers in -------------------------------------------------------------------------------------------------

    def answer(
        self,
        annotator: str,
        id_: int,
        class_name: str | None,
        *,
        submission: str,
        seconds: float | None = None,
        note: str = "",
    ) -> Told:
        """Record an answer; it is confirmed, and durable, when this returns.

        Args:
            annotator: who answers.
            id_: of the text.
            class_name: None: the annotator is not sure.
            submission: names this answer, so that one that is sent again is not recorded again.
            seconds: that the annotator looked at the text.
            note: for people.

        Raises:
            DataError: no such class, or the text was never asked for.
            StorageError: it cannot be written, and is not recorded.
        """
        if class_name is not None and class_name not in self._label_of:
            raise DataError(unknown_name("class", class_name, self._label_of))
        label = None if class_name is None else self._label_of[class_name]
        with self._telling:
            told = self._confirmed.get((annotator, submission))
            if told is None:
                told = self.project.tell(
                    [
                        Answer(
                            id=id_,
                            label=label,
                            annotator=annotator,
                            source="page",
                            seconds=seconds,
                            at=now(),
                            note=note,
                        )
                    ]
                )
                self._confirmed[annotator, submission] = told
                if len(self._confirmed) > N_REMEMBERED:
                    self._confirmed.popitem(last=False)
        with self._lock:
            self._put_away(annotator, id_)
            if self.project.batch_if_ready() is None:
                self._start()
        return told

    def skip(self, annotator: str, id_: int) -> None:
        """Put a text back: for this annotator to the end of the queue, for others as if it had not been handed out."""
        with self._lock:
            self._put_away(annotator, id_)
            self._skipped.setdefault(annotator, {})[id_] = None

    def _put_away(self, annotator: str, id_: int) -> None:
        self._seen_at[annotator] = self._clock()
        self._hands.get(annotator, {}).pop(id_, None)
        self._skipped.get(annotator, {}).pop(id_, None)

    def earlier(self, annotator: str, back: int) -> Earlier | None:
        """Return an earlier answer of an annotator.

        Args:
            annotator: whose.
            back: 1: the newest one, 2: that before it, and so on.

        Returns:
            None where the annotator has answered fewer texts.
        """
        last: dict[int, Answer] = {}
        for answer in self.project.answers():
            if answer.annotator == annotator:
                last.pop(answer.id, None)
                last[answer.id] = answer
        if not 1 <= back <= len(last):
            return None
        answer = list(last.values())[-back]
        return Earlier(answer=answer, text=self.project.text_of(answer.id), n=len(last))

    # ---- the next query ---------------------------------------------------------------------------------------------

    @property
    def is_computing(self) -> bool:
        """Whether the next query is being computed."""
        return self._computing_since is not None

    def try_again(self) -> None:
        """Compute the next query once more, after it has failed."""
        with self._lock:
            self._failure = None
            if self.project.batch_if_ready() is None:
                self._start()

    def _start(self) -> None:
        """Start to compute the next query, unless that is under way, has failed, or nothing is left to ask."""
        if self.is_computing or self._failure is not None or self._is_exhausted or self.project.end is not None:
            return
        self._computing_since = self._clock()
        self._thread = threading.Thread(target=self._compute, name="next query", daemon=True)
        self._thread.start()

    def _compute(self) -> None:
        failure, batch = None, None
        try:
            batch = self.project.batch()
        except AlRayError as error:
            failure = one_line(error)
        except Exception as error:  # shown on the page and in the terminal; the answers are safe
            _log.exception("the next query could not be computed")
            failure = f"{type(error).__name__}: {one_line(error)}. The terminal has the whole message."
        with self._lock:
            self._failure = failure
            self._is_exhausted = failure is None and batch is None
            self._computing_since = None
        if batch is not None:
            try:
                self.project.prepare()
            except AlRayError as error:
                _log.warning("the next query cannot be prepared: %s", one_line(error))
