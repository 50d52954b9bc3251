"""A project without a model: batches of numbered texts, computed when a gate is open."""

import threading
from collections import Counter
from collections.abc import Iterable, Sequence

from al_ray.core.answers import Answer, aggregate
from al_ray.errors import DataError
from al_ray.project.state import Batch, CurvePoint, Outlook, Progress, Status, Task, Told


class FakeProject:
    """Asks for ``texts`` in their order, some at a time, and for nothing more at their end.

    Args:
        texts: id -> text.
        class_names: of the classes.
        query_size: texts of a query.
        n_ahead: texts at the end that are to measure by, and may be answered at any time.
    """

    def __init__(
        self,
        texts: Sequence[str],
        class_names: Sequence[str] = ("billing", "bug", "other"),
        query_size: int = 4,
        n_ahead: int = 0,
    ) -> None:
        self.texts, self.class_names, self.query_size = list(texts), tuple(class_names), query_size
        self._ahead = range(len(texts) - n_ahead, len(texts))
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.refuses: Exception | None = None
        self.progress: Progress | None = None
        self.end: str | None = None
        self.told: list[Answer] = []
        self.n_computed = 0
        self._query: list[Task] = []
        self._lock = threading.Lock()

    def text_of(self, id_: int) -> str:
        return self.texts[id_]

    def batch(self) -> Batch | None:
        ready = self.batch_if_ready()
        if ready is not None or self.end is not None:
            return ready
        self.progress = Progress(doing="fitting the model", share=0.4)
        assert self.gate.wait(600)
        self.progress = None
        if self.failure is not None:
            raise self.failure
        self.n_computed += 1
        start = len(self._query) and self._query[-1].id + 1
        stop = min(start + self.query_size, self._ahead.start)
        self._query = [self._task(id_) for id_ in range(start, stop)]
        if not self._query:
            self.end = "every text of the pool has been asked for"
        return self.batch_if_ready()

    def _task(self, id_: int) -> Task:
        prediction = self.class_names[id_ % len(self.class_names)] if self.n_computed > 1 else None
        confidence = None if prediction is None else 0.6
        return Task(
            id=id_, text=self.texts[id_], prediction=prediction, confidence=confidence, reason="margin: a near call"
        )

    def prepare(self) -> None:
        """Nothing is needed."""

    def batch_if_ready(self) -> Batch | None:
        answered = {answer.id for answer in self.answers()}
        query = self._query
        batch = Batch(
            id=f"fake/{self.n_computed}",
            round_index=self.n_computed,
            tasks=tuple(query),
            answered=frozenset(answered & {task.id for task in query}),
        )
        return batch if batch.open else None

    def ahead(self, n: int) -> tuple[Task, ...]:
        answered = {answer.id for answer in self.answers()}
        left = [id_ for id_ in self._ahead if id_ not in answered]
        return tuple(
            Task(id=id_, text=self.texts[id_], reason="to measure the model", role="evaluation") for id_ in left[:n]
        )

    def tell(self, answers: Iterable[Answer]) -> Told:
        if self.refuses is not None:
            raise self.refuses
        given = list(answers)
        asked = {*range(self._query[-1].id + 1 if self._query else 0), *self._ahead}
        if any(answer.id not in asked for answer in given):
            raise DataError("1 answers are to texts that were not asked for")
        with self._lock:
            self.told += given
        return Told(n_new=len(given))

    def answers(self) -> list[Answer]:
        with self._lock:
            return list(self.told)

    def status(self) -> Status:
        labels = {id_: label for id_, label in aggregate(self.answers()).items() if label is not None}
        counts = Counter(self.class_names[label] for label in labels.values())
        batch = self.batch_if_ready()
        curve = [_point(i, accuracy) for i, accuracy in enumerate((0.52, 0.61, 0.7, 0.74, 0.78, 0.79))]
        return Status(
            name="fake",
            round_index=self.n_computed,
            n_pool=len(self.texts),
            n_labeled=len(labels),
            n_abstained=0,
            n_evaluation=0,
            n_given=0,
            class_counts={name: counts[name] for name in self.class_names},
            n_asked=len(batch.tasks) if batch else 0,
            n_open=len(batch.open) if batch else 0,
            curve=curve if self.n_computed > 1 else [],
            outlook=Outlook(n_more=100, gain=0.021, low=-0.004, high=0.051) if self.n_computed > 1 else None,
            advice={
                "classification_change": None,
                "kappa_agreement": "in each of the last 3 rounds kappa was at least 0.99",
            },
            end=self.end,
            how_estimated="from texts drawn at random, which the model never learns from",
            annotators=dict(Counter(answer.annotator for answer in self.answers())),
            seconds_per_answer=6.0,
        )


def _point(i: int, accuracy: float) -> CurvePoint:
    low, high = accuracy - 0.2 / (1 + i), accuracy + 0.15 / (1 + i)
    return CurvePoint(n_labeled=8 + 4 * i, accuracy=accuracy, low=low, high=high, n_evaluated=10 + 5 * i)
