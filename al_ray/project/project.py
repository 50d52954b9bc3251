"""A project: a pool, people who label it, and the loop between them, which waits for nobody.

A project is one cell whose oracle is outside. What it asks is on disk before anyone is asked; every answer is on disk
before it is confirmed; and all that it computes follows from these two and from its file. So it may be ended at any
moment, and goes on where it was.
"""

import contextlib
import functools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from al_ray.core.answers import GIVEN, Answer, aggregate
from al_ray.core.seeding import stream
from al_ray.core.types import (
    Annotation,
    IntArray,
    LabeledSet,
    RoundRecord,
    TextDataset,
    asked_ids,
    evaluated_after,
    labeled_after,
    last_labels,
    listed_ids,
)
from al_ray.errors import AlRayError, ConfigError, DataError, ModelError, StorageError
from al_ray.loop import learner
from al_ray.loop.ports import Classifier, Loop
from al_ray.model.check import ModelFacts, examine_model
from al_ray.model.encoding import Encoding
from al_ray.model.export import check_exportable
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.stored import StoredEncoding, Texts, completed_here
from al_ray.model.tokens import tokenize_table
from al_ray.model.worker import SingleProcess, Worker
from al_ray.project.answers import AnswerStore
from al_ray.project.file import ProjectFile, load_project
from al_ray.project.outlook import outlook
from al_ray.project.state import Batch, CurvePoint, Progress, Status, Task, Told
from al_ray.records.cell import CellStore
from al_ray.records.lease import InUseError, Lease, LeaseLostError
from al_ray.records.study import StudyStore
from al_ray.runtime.pool import CellPool, text_table
from al_ray.storage.folder import Folder
from al_ray.study.cell import (
    SharedQueries,
    SharedRecords,
    class_table,
    encodings_of,
    make_classifier,
    make_loop,
    summarize,
)
from al_ray.study.names import Method, plugin_label
from al_ray.study.plan import misfits_of_files, misfits_of_model
from al_ray.study.run import installed_versions
from al_ray.study.spec import CellSpec

if TYPE_CHECKING:
    from al_ray.project.export import Exported


class Project:
    """A pool to label, opened: ask for what is to be labelled, tell what was answered, look how far it is.

    Made by :meth:`open`. Methods may be called from several threads: :meth:`batch` computes the next query, one call at
    a time, and the others do not wait for it.

    >>> with Project.open("my-tickets.yaml") as project:  # doctest: +SKIP
    ...     for task in project.batch().open:
    ...         project.tell([Answer(id=task.id, label=0, annotator="ada", source="file")])

    Attributes:
        file: what the project file holds.
        dataset: the pool.
        spec: of the cell that the project is, with the content of data and model in it.
        model: the encoder.
        store: records of the cell.
    """

    def __init__(
        self,
        file: ProjectFile,
        dataset: TextDataset,
        spec: CellSpec,
        model: ResolvedModel,
        study: StudyStore,
        threads: int,
    ) -> None:
        self.file, self.dataset, self.spec, self.model = file, dataset, spec, model
        self.store: CellStore = study.cell_folder(_slug(spec), spec.fingerprint())
        self._study, self._threads = study, threads
        self._rows = {id_: row for row, id_ in enumerate(dataset.train.ids.tolist())}
        self._answers = AnswerStore(study.folder, dataset.class_names, self.text_of)
        self._given = [
            Answer(id=id_, label=label, source=GIVEN)
            for id_, label in zip(dataset.train.ids.tolist(), dataset.train.labels.tolist(), strict=True)
            if label >= 0
        ]
        self._computing, self._telling = threading.Lock(), threading.Lock()
        self._progress: Progress | None = None
        self._has_begun = False
        self._is_closing = False
        self._aggregated: tuple[int, Mapping[int, int | None]] = (-1, {})
        self._exit = contextlib.ExitStack()
        self._lease: Lease | None = None
        self._recorded = self._with_query(tuple(self.store.rounds()))

    @classmethod
    def open(
        cls,
        project: "str | os.PathLike[str] | Mapping[str, Any] | ProjectFile",
        *,
        storage: str | None = None,
        threads: int | None = None,
        write: bool = True,
    ) -> "Project":
        """Open a project: read its file, its texts, and what was asked and answered so far.

        Args:
            project: path of a project file, or what such a file holds.
            storage: folder or URI of the records; None: the file's.
            threads: CPU threads to compute with; None: as many as there are cores, 8 at most.
            write: take the right to ask and to be told, which one process has at a time; without it the project can
                only be looked at.

        Raises:
            AlRayError: the file, the texts, the model or the records cannot be used; or another process has the
                project open.
        """
        file = load_project(project)
        dataset = file.source().load_pool()
        spec = file.spec
        model = resolve_model(spec.model.name, spec.model.revision)
        facts = examine_model(model)
        _check(file, dataset, model, facts)
        content = {"revision": model.revision, "sha256": model.sha256, "settings_sha256": model.settings_sha256}
        pinned = spec.model.model_copy(update=content)
        spec = spec.model_copy(update={"dataset_sha256": dataset.content_sha256, "model": pinned})
        study = StudyStore.open(file.storage if storage is None else storage, file.name)
        exit_, lease = contextlib.ExitStack(), None
        if write:
            study.claim()
            study = study.claimed()
            try:
                lease = exit_.enter_context(Lease(study.folder, file.name).held())
            except InUseError as error:
                raise InUseError(
                    f"project {file.name} is open in {error.holder}, and one process at a time asks and is told. Use "
                    "that one, or end it and try again; 'al-ray status' and 'al-ray export' work meanwhile."
                ) from None
        try:
            opened = cls(file, dataset, spec, model, study, threads or min(os.cpu_count() or 1, 8))
            if write and opened.end is not None:
                opened.store.finish(summarize(list(opened.rounds)))  # a kill may have come between
        except BaseException:
            exit_.close()
            raise
        opened._exit, opened._lease = exit_, lease
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being computed, and let others have the project."""
        self._is_closing = True
        with self._computing, self._telling:
            self._exit.close()

    # ---- what there is ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the project."""
        return self.file.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return self.dataset.class_names

    @property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """The closed rounds, oldest first."""
        return self._recorded.rounds

    @property
    def address(self) -> str:
        """Where the records are, for people."""
        return self._study.root

    @property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of every cell that the project has been: with another method it is another one."""
        return frozenset({self.store.fingerprint, *(cell.fingerprint for cell in self._study.cells())})

    @property
    def end(self) -> str | None:
        """Why nothing more will be asked, or None."""
        return self._recorded.end

    def text_of(self, id_: int) -> str:
        """Return the text of an example.

        Raises:
            KeyError: the pool has no such id.
        """
        return self.dataset.train.texts[self._rows[id_]]

    def answers(self) -> list[Answer]:
        """Return every answer that was told, oldest first; labels that the data had are not among them."""
        return self._answers.all()

    def labels(self) -> Mapping[int, int | None]:
        """Return what counts for every example that has an answer or a label of its own; None: nobody named a class."""
        answers = self._answers.all()
        n, labels = self._aggregated  # answers are only added, so that their number says whether these are all
        if n != len(answers):
            labels = aggregate([*self._given, *answers])
            self._aggregated = len(answers), labels
        return labels

    @property
    def progress(self) -> Progress | None:
        """What is being computed, or None."""
        return self._progress

    # ---- asking -----------------------------------------------------------------------------------------------------

    def batch(self) -> Batch | None:
        """Return what is asked for now, computing the next round first where all of this one is answered.

        Returns:
            the open query with at least one text that has no answer, or None where nothing is left to ask.

        Raises:
            AlRayError: the project is open for looking only, or a round cannot be computed.
        """
        # Again, where all of the new query has an answer before it is returned: its texts could be answered ahead.
        while (ready := self.batch_if_ready()) is None and self.end is None:
            with self._computing:
                if self.batch_if_ready() is None and self.end is None:
                    self._compute()
        return ready

    def prepare(self) -> None:
        """Compute what the next rounds need of the texts, so that nobody waits for what the encoder makes of them.

        A project that is closed meanwhile stops it; what is done is kept.

        Raises:
            AlRayError: the model or the storage cannot be used.
        """
        with self._computing, contextlib.suppress(_ClosedError):
            try:
                _ = self.classifier
            finally:
                self._progress = None

    def batch_if_ready(self) -> Batch | None:
        """Return what is asked for now, or None while the next round has to be computed first, or nothing is left."""
        record = self._pending
        if record is None:
            return None
        labels = self.labels()
        batch = self._batch(record, labels)
        return batch if batch.open else None

    def ahead(self, n: int) -> tuple[Task, ...]:
        """Return texts that later rounds will ask for in any case, to measure the model by; they may be answered now.

        Args:
            n: how many at most.
        """
        evaluation = self.spec.estimation
        if evaluation is None or evaluation.needs_probs or self.end is not None:
            return ()
        before, known = evaluated_after(self._recorded.all), self.labels()
        more = evaluation.draw(self._test_pool, None, before, n + len(known), stream(self.spec.seed, "ahead"))
        open_ = [id_ for id_ in more.ids.tolist() if id_ not in known]
        return tuple(self._evaluation_task(id_) for id_ in open_[:n])

    def tell(self, answers: Iterable[Answer]) -> Told:
        """Record answers; when this returns they are durable.

        Raises:
            DataError: an answer is to a text that was not asked for, or names no class of the project; nothing is
                recorded.
            StorageError: they cannot be written.
        """
        given = list(answers)
        with self._telling:
            self._require_writing()
            self._check_asked(given)
            known = self.labels().keys()
            added, same = self._answers.add(given)
        n_new = len({answer.id for answer in added} - known)
        return Told(n_new=n_new, n_changed=len(added) - n_new, n_same=len(same))

    def close_round(self) -> list[int]:
        """Close the open round: what nobody answered counts as abstained, until somebody does.

        Returns:
            the ids that stay without an answer, ascending.

        Raises:
            StorageError: the records cannot be written.
        """
        with self._computing:
            self._require_writing()
            batch = self.batch_if_ready()
            if batch is None:
                return []
            pending = self.store.pending()
            assert pending is not None
            record, arrays = pending
            closed = self._with_answers(record, self.labels())
            self.store.append(closed, arrays)
            self._take_up(closed)
        return sorted(task.id for task in batch.open)

    def asked(self) -> set[int]:
        """Return the ids that answers are taken for.

        They are those of all queries so far, those that may be answered ahead, and those that have an answer from a
        time when the project had another method.
        """
        return {*last_labels(self._recorded.all), *self._answers.ids()} | self._ahead_ids()

    # ---- looking ----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return how far the project is."""
        labels, answers = self.labels(), self._answers.all()
        test_ids = set(self._test_pool.tolist())
        in_training = {id_: label for id_, label in labels.items() if id_ not in test_ids}
        named = [label for label in in_training.values() if label is not None]
        counts = Counter(named)
        recorded = self._recorded
        batch = None if recorded.pending is None else self._batch(recorded.pending, labels)
        curve = curve_of(recorded.all)
        seconds = [answer.seconds for answer in answers if answer.seconds is not None]
        return Status(
            name=self.name,
            round_index=len(recorded.rounds),
            n_pool=len(self.dataset.train),
            n_labeled=len(named),
            n_abstained=sum(label is None for label in labels.values()),
            n_evaluation=sum(label is not None for id_, label in labels.items() if id_ in test_ids),
            n_given=sum(answer.id not in test_ids for answer in self._given),
            class_counts={name: counts[index] for index, name in enumerate(self.class_names)},
            n_asked=0 if batch is None else len(batch.tasks),
            n_open=0 if batch is None else len(batch.open),
            curve=curve,
            outlook=outlook(tuple(curve)),
            advice=self._advice(recorded.all),
            end=recorded.end,
            how_estimated=self._how_estimated(),
            annotators=dict(Counter(answer.annotator or "unnamed" for answer in answers)),
            seconds_per_answer=median(seconds) if seconds else None,
        )

    def export(self, folder: "str | os.PathLike[str]") -> "Exported":
        """Write the model, a card made from the records, and all labels into a folder that transformers opens.

        The model is that of the last round: fitted on the answers of all rounds before it, and measured as
        :meth:`status` says. Answers to the open query are among the labels, and not in the model.

        Args:
            folder: new or empty.

        Raises:
            DataError: no round is closed with a label.
            ModelError: the model cannot be exported.
            StorageError: the folder holds something, or cannot be written.
        """
        from al_ray.model.classifier import RoundClassifier
        from al_ray.project.export import ExportFacts, export_project

        recorded = self._recorded
        # A round after which nothing is asked holds the measures of a model, and no labels for another one.
        rounds = recorded.rounds[:-1] if recorded.end is not None else recorded.rounds
        labeled = labeled_after(rounds)
        if not len(labeled):
            raise DataError(
                f"project {self.name} has no closed round with a label, so there is no model. Answer its first query, "
                "or close it with 'al-ray tell PROJECT --close'."
            )
        answers, labels, spec = [*self._given, *self._answers.all()], self.labels(), self.spec
        facts = ExportFacts(
            name=self.name,
            description=self.file.description,
            data=self.dataset.source,
            content_sha256=self.dataset.content_sha256,
            class_names=self.class_names,
            texts={id_: self.text_of(id_) for id_ in labels},
            answers=answers,
            labels=labels,
            evaluation_ids=frozenset(labels.keys() & set(self._test_pool.tolist())),
            random_ids=self._drawn_at_random(),
            method=Method.of(spec).name,
            learner=_learner_words(spec),
            max_tokens=spec.max_tokens,
            n_members=spec.confidence.sampling.n_members,
            status=replace(self.status(), n_labeled=len(labeled)),
            fingerprint=self.store.fingerprint,
            spec=spec.to_json(),
            versions=installed_versions(),
        )
        with self._computing:
            try:
                classifier = self.classifier
            finally:
                self._progress = None
            assert isinstance(classifier, RoundClassifier)
            classifier.finetune(labeled, round_index=len(rounds))
            return export_project(Path(folder), facts, classifier, model=self.model, init=spec.model.init)

    def _drawn_at_random(self) -> frozenset[int]:
        """Return what was drawn at random to measure the model, and no text that has a label for another reason."""
        if self.spec.estimation is None or self.spec.estimation.needs_probs:
            return frozenset()
        return frozenset(evaluated_after(self.rounds).ids.tolist())

    def _advice(self, fitted: Sequence[RoundRecord]) -> dict[str, str | None]:
        """Return what each stopping rule says of the last model."""
        n_left = len(self.dataset.train) - len(self._test_pool) - len(asked_ids(fitted))
        return {rule.name: rule.reason(fitted, n_left, self.spec.query_size) for rule in self.spec.stopping}

    def _how_estimated(self) -> str:
        evaluation = self.spec.estimation
        if evaluation is None:
            return "not estimated: the project file says 'evaluation: none'"
        how = "drawn where the model is likely to err, and weighted" if evaluation.needs_probs else "drawn at random"
        return f"from texts {how}, which the model never learns from, with a 95 % interval ({evaluation.source})"

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _with_query(self, rounds: tuple[RoundRecord, ...]) -> "_Recorded":
        """Return closed rounds and the query that is out after them, or none where that is of another moment."""
        record, _ = self.store.pending() or (None, {})
        return _Recorded(rounds, record if record is not None and record.round_index == len(rounds) else None)

    @property
    def _pending(self) -> RoundRecord | None:
        return self._recorded.pending

    def _require_writing(self) -> None:
        if self._is_closing:
            raise StorageError(f"project {self.name} is closed. Open it again.")
        if self._lease is None:
            raise StorageError(f"project {self.name} was opened to be looked at. Open it with write=True.")
        self._check_lease(self._lease)

    def _check_lease(self, lease: Lease) -> None:
        """Make sure that no other process has the project by now: what this one wrote would replace its answers.

        Raises:
            LeaseLostError: another one took over while this one gave no sign of life.
        """
        try:
            lease.check()
        except LeaseLostError as error:
            raise LeaseLostError(
                f"project {self.name} was taken over by {error.holder}, while this process gave no sign of life, as a "
                "machine that sleeps. What was confirmed is recorded. Go on there, or end that one and open it again."
            ) from None

    def _check_asked(self, answers: Sequence[Answer]) -> None:
        asked = self.asked()
        unknown = sorted({each.id for each in answers if each.id not in asked})
        if unknown:
            raise DataError(
                f"{len(unknown)} answers are to texts that were not asked for: {listed_ids(np.array(unknown))}. Labels "
                "that you have already belong into a column of the data: 'data: {label: COLUMN}'."
            )
        for each in answers:
            if each.label is not None and not 0 <= each.label < len(self.class_names):
                raise DataError(
                    f"the answer to text {each.id} is class {each.label}, the classes are {self.class_names}."
                )

    def _ahead_ids(self) -> set[int]:
        evaluation = self.spec.estimation
        return set() if evaluation is None or evaluation.needs_probs else set(self._test_pool.tolist())

    @functools.cached_property
    def _loop(self) -> Loop:
        """The loop of this cell, without the labels that it begins with."""
        table = text_table(self.dataset.train).drop_columns(["text"])
        loop = make_loop(self.spec, len(self.class_names), {"pool": table, "test": table.slice(0, 0)})
        return replace(loop, groups=None)

    @functools.cached_property
    def _test_pool(self) -> IntArray:
        """Ids that are held out to measure the model, ascending."""
        return learner.held_out(self._loop)

    @functools.cached_property
    def _worker(self) -> Worker:
        import torch

        from al_ray.model.worker import set_threads

        set_threads(self._threads)
        return SingleProcess("cuda" if torch.cuda.is_available() else "cpu")

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The model, on tokens or encodings of the pool; these are computed where they are not stored yet."""
        return make_classifier(self.spec, self._loop, self._pool, self._worker)

    def _ready_classifier(self) -> Classifier:
        classifier = self.classifier
        self._progress = Progress(doing="fitting the model and choosing texts")
        return classifier

    @functools.cached_property
    def _pool(self) -> CellPool:
        table = text_table(self.dataset.train)
        encodings = {encoding.key: encoding for encoding in encodings_of(self.spec).values()}

        texts = {"pool": table}
        if self.spec.initial.needs_class_embeddings:
            texts["classes"] = class_table(self.class_names)

        @functools.cache
        def tokens(of: str) -> pa.Table:
            self._progress = Progress(doing="splitting the texts into tokens")
            return tokenize_table(texts[of], model=self.model, max_tokens=self.spec.max_tokens)

        @functools.cache
        def encoded(key: str) -> dict[str, Any]:
            found = self._encoded(encodings[key], texts, tokens)
            return {**found, "test": found["pool"][:0]}

        needs_tokens = not self.spec.finetune.is_frozen
        pool = tokens("pool") if needs_tokens else table.drop_columns(["text"])
        return CellPool(tables={"pool": pool, "test": pool.slice(0, 0)}, encoded=encoded)

    def _encoded(
        self, encoding: Encoding, texts: Mapping[str, pa.Table], tokens: Callable[[str], pa.Table]
    ) -> dict[str, Any]:
        def tell(n_done: int, n: int) -> None:
            if self._is_closing:
                raise _ClosedError("the project was closed")
            self._progress = Progress(doing=f"reading {n_done:,} of {n:,} texts", share=n_done / n)

        device, places = self._worker.device, dict[str, StoredEncoding]()
        for of, table in texts.items():
            stored = StoredEncoding.of(
                Folder.at(self._study.storage),
                encoding,
                Texts(table["text"]),  # new labels leave what the encoder makes of them
                self.spec.max_tokens,
                data=self.dataset.name,
                user=self._study.study,
            )
            places[of] = stored.begin(device.type)
        return dict(completed_here(places, tokens, lambda: encoding.encoder(device), tell))

    def _compute(self) -> None:
        """Run the loop until answers are missing."""
        self._require_writing()
        try:
            if not self._has_begun:
                facts = {"class_names": list(self.class_names), "data": self.dataset.source, "model": self.model.path}
                self.store.begin(self.spec.to_json(), {**installed_versions(), **facts, **self._worker.place})
                self._has_begun = True
            # A first query at random needs nothing of the texts, so that people start while they are being read.
            classifier: Any = _WhenNeeded(self._ready_classifier)
            queries = SharedQueries(self.store, self._worker, self._answered)

            with SharedRecords(self.store, self._worker, self._take_up) as records:
                known = [id_ for id_, label in self.labels().items() if label is not None]
                loop = replace(self._loop, given=np.sort(np.array(known, dtype=np.int64)))
                rounds = learner.run(loop, classifier, records, queries)
                if rounds and rounds[-1].stop_reason is not None:
                    records.finish(summarize(rounds))
            self._recorded = self._with_query(tuple(rounds))
        finally:
            self._progress = None

    def _take_up(self, record: RoundRecord) -> None:
        """Count a round that was just recorded; its query is not out any more."""
        self._recorded = _Recorded((*self.rounds, record), None)

    def _answered(self, record: RoundRecord) -> RoundRecord | None:
        """Return a round with its answers, or None while some are missing."""
        labels, evaluation = self.labels(), record.evaluation
        asked = [*record.query.ids.tolist(), *([] if evaluation is None else evaluation.ids.tolist())]
        return self._with_answers(record, labels) if all(id_ in labels for id_ in asked) else None

    def _with_answers(self, record: RoundRecord, labels: Mapping[int, int | None]) -> RoundRecord:
        """Fill the answers that are there into a round; what has none counts as abstained."""
        evaluation = record.evaluation

        def found(ids: IntArray) -> IntArray:
            return np.array([-1 if (label := labels.get(id_)) is None else label for id_ in ids.tolist()], np.int64)

        answers = found(record.query.ids)
        before = last_labels(self.rounds)
        revised = {
            id_: -1 if label is None else label
            for id_, label in labels.items()
            if id_ in before and before[id_] != (-1 if label is None else label)
        }
        return replace(
            record,
            annotation=Annotation(ids=record.query.ids, labels=answers, abstained=answers < 0),
            evaluation=None if evaluation is None else replace(evaluation, labels=found(evaluation.ids)),
            revised=LabeledSet(ids=np.array([*revised], np.int64), labels=np.array([*revised.values()], np.int64)),
        )

    def _batch(self, record: RoundRecord, labels: Mapping[int, int | None]) -> Batch:
        probs = record.query.probs
        tasks = [
            self._task(id_, None if probs is None else probs[place])
            for place, id_ in enumerate(record.query.ids.tolist())
        ]
        if record.evaluation is not None:
            tasks += [self._evaluation_task(id_) for id_ in record.evaluation.ids.tolist()]
        return Batch(
            id=f"{self.store.fingerprint[:8]}/{record.round_index}",
            round_index=record.round_index,
            tasks=tuple(tasks),
            answered=frozenset(task.id for task in tasks if task.id in labels),
        )

    def _task(self, id_: int, probs: Any) -> Task:
        text = self.text_of(id_)
        if probs is None:
            initial = plugin_label(self.spec.initial)
            return Task(id=id_, text=text, reason=f"one of the first texts, before there is a model ({initial})")
        first, second = np.argsort(-probs, kind="stable")[:2].tolist()
        names = self.class_names
        reason = (
            f"{plugin_label(self.spec.strategy)}: the model gives {names[first]} {probs[first]:.0%} and "
            f"{names[second]} {probs[second]:.0%}"
        )
        return Task(id=id_, text=text, prediction=names[first], confidence=float(probs[first]), reason=reason)

    def _evaluation_task(self, id_: int) -> Task:
        # What the model believes is not shown: it would pull the answer towards it, and the estimate up.
        reason = "to measure the model, which does not learn from it"
        return Task(id=id_, text=self.text_of(id_), reason=reason, role="evaluation")


class _Recorded(NamedTuple):
    """What is recorded, as one value: a thread that looks never sees the rounds of one moment and the query of another.

    Attributes:
        rounds: the closed ones, oldest first.
        pending: the open one, or None.
    """

    rounds: tuple[RoundRecord, ...]
    pending: RoundRecord | None

    @property
    def all(self) -> tuple[RoundRecord, ...]:
        """Closed rounds and the open one."""
        return self.rounds if self.pending is None else (*self.rounds, self.pending)

    @property
    def end(self) -> str | None:
        """Why nothing more will be asked, or None."""
        return self.rounds[-1].stop_reason if self.rounds else None


class _ClosedError(AlRayError):
    """The project was closed while something was computed for it."""


class _WhenNeeded:
    """A classifier that is made when something is first asked of it."""

    def __init__(self, make: Callable[[], Classifier]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)


def _learner_words(spec: CellSpec) -> str:
    recipe = spec.finetune
    if recipe.is_frozen:
        of = f"{recipe.n_components} principal components of " if recipe.n_components else ""
        return f"a linear head on {of}the encoder, which stays as it was pretrained"
    if recipe.lora is not None:
        return f"low-rank adapters of rank {recipe.lora.rank} in the encoder, and its head"
    return f"the encoder, but for its lowest {recipe.n_frozen} layers" if recipe.n_frozen else "the whole encoder"


def _slug(spec: CellSpec) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in spec.strategy.name)


def _check(file: ProjectFile, dataset: TextDataset, model: ResolvedModel, facts: ModelFacts) -> None:
    """Refuse a project that its data or its model do not allow.

    Raises:
        ConfigError: with all the reasons.
    """
    spec, problems = file.spec, []
    n_pool = len(dataset.train) - spec.n_held_out(len(dataset.train))
    if spec.initial_size > n_pool:
        problems.append(
            f"initial_size is {spec.initial_size}, but the pool has {n_pool} texts to learn from. Lower initial_size, "
            "or add texts."
        )
    problems += [*misfits_of_files(spec, model), *misfits_of_model(spec, facts)]
    try:
        check_exportable(spec.finetune, facts.family, n_classes=dataset.n_classes, n_features=facts.n_features)
    except ModelError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(f"project {file.name}: {problem}" for problem in problems))


def curve_of(rounds: Iterable[RoundRecord]) -> list[CurvePoint]:
    """Return the estimated learning curve of some rounds: a point for each whose model could be measured."""
    return [point for record in rounds if (point := _point(record)) is not None]


def _point(record: RoundRecord) -> CurvePoint | None:
    """Return the point of the estimated learning curve that a round adds, or None where it was not estimated."""
    metrics = record.metrics
    if "estimated_accuracy" not in metrics:
        return None
    return CurvePoint(
        n_labeled=record.n_labeled,
        accuracy=metrics["estimated_accuracy"],
        low=metrics["estimated_accuracy_low"],
        high=metrics["estimated_accuracy_high"],
        n_evaluated=int(metrics["n_evaluated"]),
    )
