"""One cell on its workers: the loop, its model, its records.

:func:`run_cell` is what a lane calls, and what ``--local`` calls: the only difference is the worker that it is handed.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from al_ray.confidence import plain_loss
from al_ray.core.metrics import aulc
from al_ray.core.seeding import stream_seed
from al_ray.core.types import Embedded, Float32Array, LabeledSet, RoundRecord, Split, TextDataset, TextSplit
from al_ray.errors import AlRayError, StorageError
from al_ray.loop import learner
from al_ray.loop.ports import Arrays, Classifier, Loop
from al_ray.model import import_head_code, import_model_code
from al_ray.model.encoding import Encoding
from al_ray.model.source import ResolvedModel, pinned_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Worker
from al_ray.records.cell import SPEC, CellStore
from al_ray.records.packed import FilesOfCell, write_part
from al_ray.records.study import StudyStore
from al_ray.records.writer import RoundWriter
from al_ray.runtime.pool import CellPool, text_table
from al_ray.runtime.tasks import HOLD_S, MAX_HELD_BYTES, CellTask, ReportRound, RoundEnded
from al_ray.storage.folder import Folder
from al_ray.storage.memory import MemoryFolder
from al_ray.study.spec import CellSpec, read_spec


def run_cell(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> "PackedSoon | None":
    """Run one cell to its end, from wherever its records stop.

    Args:
        task: the cell, and where its records are.
        pool: tokens (columns id, label, tokens, maybe group) and encodings of the splits ``pool`` and ``test``.
        worker: this process among those of the cell.
        report: told of each round once it is recorded; called on rank 0 alone.

    Returns:
        a quick cell that is computed, to be recorded together with others; None where the cell has a folder.

    Raises:
        AlRayError: on every worker alike; what is recorded stays.
    """
    spec = read_spec(task.spec)
    records, loop = open_records(task, worker, report), make_loop(spec, task.n_classes, pool.tables)
    with records:
        rounds = learner.run(loop, make_classifier(spec, loop, pool, worker), records)
        records.finish(summarize(rounds))
    return records.held()


def open_records(task: CellTask, worker: Worker, report: ReportRound) -> "SharedRecords":
    """Begin a cell, or take it up again; one that is quick and new gets no folder, unless it turns out to need one.

    Args:
        task: the cell, and where its records are.
        worker: this process among those of the cell.
        report: told of each round once it is recorded; called on rank 0 alone.

    Raises:
        StorageError: its folder holds another spec, or cannot be written.
    """
    study = StudyStore.open(task.storage, task.study, claimed=True, patience_s=task.storage_patience_s)
    store, provenance = study.cell_folder(task.slug, task.fingerprint), {**task.provenance, **worker.place}

    def begin(store: CellStore) -> None:
        store.begin(task.spec, provenance)

    def tell(record: RoundRecord) -> None:
        report(_ended(task.key, record))

    # A cell whose workers were lost may have got its folder after it was planned.
    has_folder = not task.is_new or (task.attempt > 1 and store.folder.exists(SPEC))
    if task.is_quick and not has_folder and worker.world == 1:
        return HeldRecords(store, worker, tell, begin, task.key, study.folder)
    records = SharedRecords(store, worker, tell, is_quick=task.is_quick)
    records.on_rank_zero(lambda: begin(store))
    return records


def _ended(key: str, record: RoundRecord) -> RoundEnded:
    return RoundEnded(key, record.round_index, record.n_labeled, dict(record.metrics))


@dataclass(frozen=True)
class PackedSoon:
    """A quick cell that is computed: see :class:`~al_ray.runtime.tasks.HeldCell`."""

    files: FilesOfCell
    study: Folder
    rounds: Sequence[RoundEnded]

    @property
    def n_bytes(self) -> int:
        """Return the bytes of its files."""
        return self.files.folder.n_bytes

    def record_with(self, others: "Sequence[PackedSoon]") -> None:
        """Record it and others of its study in one part: all of them, or none."""
        write_part(self.study, [self.files, *(other.files for other in others)])


def warm_up(specs: Iterable[CellSpec]) -> Callable[[], None]:
    """Return what a lane imports while it starts, and not in its first cell: of the model no more than is needed."""
    return import_head_code if all(spec.finetune.is_frozen for spec in specs) else import_model_code


def make_classifier(spec: CellSpec, loop: Loop, pool: CellPool, worker: Worker) -> Classifier:
    """Return the model that a spec describes, on the tokens or the encodings of its pool."""
    from al_ray.model.finetune import FitSettings

    encodings = encodings_of(spec)

    def encoded(role: EncodingRole) -> Mapping[Split, Float32Array]:
        arrays = pool.encoded(encodings[role].key)
        return {"pool": arrays["pool"], "test": arrays["test"]}

    def embedded() -> Mapping[Embedded, Float32Array]:
        arrays = pool.encoded(encodings["embeddings"].key)
        names: tuple[Embedded, ...] = ("pool", "test", *(("classes",) if "classes" in arrays else ()))
        return {name: arrays[name] for name in names}

    settings = FitSettings(
        recipe=spec.finetune,
        precision=spec.precision,
        n_classes=loop.n_classes,
        scoring_batch_size=spec.scoring_batch_size,
        seed=spec.seed,
        new_loss=spec.confidence.new_loss,
    )
    shared: dict[str, Any] = {
        "settings": settings,
        "worker": worker,
        "sampling": spec.confidence.sampling,
        "new_plain_loss": partial(plain_loss, spec.measured_model),
        "embeddings": embedded,
    }
    if spec.finetune.is_frozen:
        from al_ray.model.frozen import FrozenClassifier

        ids: dict[Split, Any] = {"pool": loop.truth.ids, "test": loop.test.ids}
        return FrozenClassifier(features=encoded("features"), ids=ids, **shared)

    from al_ray.model.classifier import TransformerClassifier

    model = spec.model
    return TransformerClassifier(
        model=pinned_model(model.name, model.revision, model.sha256, model.settings_sha256),
        init=model.init,
        pool=TokenizedSplit.from_table(pool.tables["pool"]),
        test=TokenizedSplit.from_table(pool.tables["test"]),
        hidden=encoded("hidden") if spec.finetune.n_frozen else None,
        hidden_key=encodings["hidden"].key if spec.finetune.n_frozen else None,
        **shared,
    )


EncodingRole = Literal["features", "embeddings", "hidden"]


def encodings_of(spec: CellSpec) -> dict[EncodingRole, Encoding]:
    """Return what of its pool a cell reads that is computed once for all cells, by what it is used for."""
    model = spec.model
    make = partial(
        Encoding,
        model=ResolvedModel(
            name=model.name,
            revision=model.revision,
            path="",
            sha256=str(model.sha256),
            settings_sha256=str(model.settings_sha256),
        ),
        init=model.init,
        seed=stream_seed(spec.seed, "embed") if model.init == "random" else 0,
        precision=spec.precision,
        batch_size=spec.scoring_batch_size,
    )
    found: dict[EncodingRole, Encoding] = {}
    if spec.finetune.is_frozen:
        found["features"] = make(output=spec.finetune.features)
    if spec.finetune.n_frozen:
        found["hidden"] = make(output=spec.finetune.n_frozen)
    of_filters = any(each.needs_embeddings for each in spec.filters)
    of_initial = spec.initial.needs_embeddings or spec.initial.needs_class_embeddings
    if of_initial or spec.strategy.needs_embeddings or of_filters:
        found["embeddings"] = make(output="mean")
    return found


def encodings_read(specs: Iterable[CellSpec]) -> dict[str, Encoding]:
    """Return all encodings that any of some cells reads, by their keys, in the order of their use."""
    # Random weights are drawn from the seed; else cells that differ in it alone read the same.
    distinct = {(spec.kind, spec.seed if spec.model.init == "random" else 0): spec for spec in specs}
    return {encoding.key: encoding for spec in distinct.values() for encoding in encodings_of(spec).values()}


def texts_read(dataset: TextDataset, specs: Iterable[CellSpec]) -> dict[str, pa.Table]:
    """Return the texts that some cells of one data set read, by split; the names of the classes where any reads them.

    The names are a split of their own, ``classes``, so that they are encoded and kept as all other texts are.
    """
    tables = {"pool": text_table(dataset.train), "test": text_table(dataset.test)}
    if any(spec.initial.needs_class_embeddings for spec in specs):
        tables["classes"] = class_table(dataset.class_names)
    return tables


def class_table(class_names: Sequence[str]) -> pa.Table:
    """Return the names of classes as a table of texts, in label order."""
    places = np.arange(len(class_names), dtype=np.int64)
    return text_table(TextSplit(ids=places, texts=class_names, labels=places))


def make_loop(spec: CellSpec, n_classes: int, tables: Mapping[str, pa.Table]) -> Loop:
    """Return the loop that a spec describes over the data of a cell."""
    truth, test = (_answers(tables[name]) for name in ("pool", "test"))
    return Loop(
        seed=spec.seed,
        n_classes=n_classes,
        truth=truth,
        test=test,
        groups=_groups(tables),
        initial=spec.initial,
        initial_size=spec.initial_size,
        query_size=spec.query_size,
        rounds=spec.rounds,
        confidence=spec.confidence,
        strategy=spec.strategy,
        filters=spec.filters,
        oracle=spec.oracle,
        stopping=spec.stopping,
        evaluation=spec.measured_model,
        estimation=spec.estimation,
    )


def _answers(table: pa.Table) -> LabeledSet:
    return LabeledSet(ids=table["id"].to_numpy(), labels=table["label"].to_numpy())


def _groups(tables: Mapping[str, pa.Table]) -> tuple[list[str], list[str]] | None:
    if any("group" not in tables[name].schema.names for name in ("pool", "test")):
        return None
    return tables["pool"]["group"].to_pylist(), tables["test"]["group"].to_pylist()


def summarize(rounds: list[RoundRecord]) -> dict[str, Any]:
    """Return what a finished cell comes to: final metrics, area under each learning curve, seconds by phase.

    A metric that some rounds lack, such as the share of predictions that changed, has no area.
    """
    fitted = [record for record in rounds if record.metrics] or rounds[-1:]
    names = [name for name in fitted[-1].metrics if all(name in record.metrics for record in fitted)]
    phases = {phase for record in rounds for phase in record.seconds}
    return {
        "n_rounds": len(rounds),
        "n_labeled": fitted[-1].n_labeled,
        "stop_reason": fitted[-1].stop_reason,
        "final": dict(fitted[-1].metrics),
        "area_under_curve": {name: aulc([record.metrics[name] for record in fitted]) for name in names},
        "seconds": {phase: sum(record.seconds.get(phase, 0.0) for record in rounds) for phase in sorted(phases)},
    }


def on_rank_zero(worker: Worker, action: Callable[[], Any]) -> Any:
    """Do something with the storage on rank 0 and give every rank the result, or the error.

    Raises:
        StorageError: the action failed on rank 0.
    """
    result: Any = None
    problem: str | None = None
    if worker.rank == 0:
        try:
            result = action()
        except AlRayError as error:
            problem = str(error)
    result, problem = worker.broadcast((result, problem))
    if problem is not None:
        raise StorageError(problem)
    return result


class SharedQueries:
    """What people are asked and have answered, as all workers of a cell see it: rank 0 asks and is told, others hear.

    Args:
        store: of the cell; keeps the query that is out.
        worker: this process among those of the cell.
        answer: fills the answers that are there into a round, or returns None while some are missing; called on rank 0
            alone.
    """

    def __init__(self, store: CellStore, worker: Worker, answer: Callable[[RoundRecord], RoundRecord | None]) -> None:
        self._store, self._worker, self._answer = store, worker, answer

    def pending(self) -> tuple[RoundRecord, Arrays] | None:
        """Return the round whose query is out, the same on every rank, or None."""
        found: tuple[RoundRecord, Arrays] | None = on_rank_zero(self._worker, self._store.pending)
        return found

    def ask(self, record: RoundRecord, arrays: Arrays) -> None:
        """Let rank 0 keep a round, all but its answers."""
        on_rank_zero(self._worker, lambda: self._store.ask(record, arrays))

    def answered(self, record: RoundRecord) -> RoundRecord | None:
        """Return the round with the answers that rank 0 has, the same on every rank, or None while some are missing."""
        found: RoundRecord | None = on_rank_zero(self._worker, lambda: self._answer(record))
        return found


class SharedRecords:
    """The records of a cell as all of its workers see them: rank 0 reads and writes, the others are told.

    A write that fails on rank 0 fails on every rank, so that none is left waiting in a collective. Rounds of a
    quick cell are written while the next ones are computed (:class:`~al_ray.records.writer.RoundWriter`), and told once
    they are written; when the block is left, none is under way.
    """

    def __init__(
        self, store: CellStore, worker: Worker, report: Callable[[RoundRecord], None], *, is_quick: bool = False
    ) -> None:
        self._store = store
        self._is_quick = is_quick
        self._worker = worker
        self._report = report
        self._writer: RoundWriter | None = None
        self._last: tuple[int, Arrays] | None = None

    def __enter__(self) -> Self:
        if self._worker.rank == 0:
            self._writer = RoundWriter(self._store, is_quick=self._is_quick)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let what is under way be written; of a cell that failed, tell it as well, before its end is told."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(Exception):  # the reason why the block is left counts
                self._tell(self._writer.flush())

    def rounds(self) -> list[RoundRecord]:
        """Return the recorded rounds, the same on every rank."""
        stored = self.on_rank_zero(lambda: [record.to_json() for record in self._store.rounds()])
        return [RoundRecord.from_json(data) for data in stored]

    def arrays(self, round_index: int) -> Arrays:
        """Return the arrays of a round, the same on every rank."""
        if self._last is not None and self._last[0] == round_index:
            return self._last[1]
        found: Arrays = self.on_rank_zero(lambda: self._store.arrays(round_index))
        return found

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        """Let rank 0 write a round, and report those that are written."""
        self._write(lambda writer: writer.append(record, arrays))
        self._last = record.round_index, arrays

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the cell as done, once all its rounds are written and reported."""
        self._write(RoundWriter.flush)
        self.on_rank_zero(lambda: self._store.finish(summary))

    def held(self) -> PackedSoon | None:
        """Return the finished cell where it has no folder yet, and is to be recorded together with others."""
        return None

    def _write(self, write: Callable[[RoundWriter], list[RoundRecord]]) -> None:
        written: list[RoundRecord] = []

        def write_here() -> None:
            assert self._writer is not None, "rounds are recorded inside the block"
            written.extend(write(self._writer))

        self.on_rank_zero(write_here)
        self._tell(written)

    def _tell(self, written: Iterable[RoundRecord]) -> None:
        for record in written:
            self._report(record)

    def on_rank_zero(self, action: Callable[[], Any]) -> Any:
        """Do something with the storage on rank 0, see :func:`on_rank_zero`."""
        return on_rank_zero(self._worker, action)


class HeldRecords(SharedRecords):
    """The records of a quick cell that begins: in memory, unless it takes long, grows large or fails.

    Then they get a folder like any other, from the first round on, so that no more than seconds are ever lost.

    Args:
        store: the folder that the cell would have.
        worker: the only one of the cell.
        report: as for :class:`SharedRecords`; of rounds in memory the cell that is :meth:`held` tells.
        begin: starts a cell in a folder.
        key: of the cell in its grid.
        study: the study's folder.
    """

    def __init__(
        self,
        store: CellStore,
        worker: Worker,
        report: Callable[[RoundRecord], None],
        begin: Callable[[CellStore], None],
        key: str,
        study: Folder,
    ) -> None:
        self._memory: MemoryFolder | None = MemoryFolder(store.folder.address)
        super().__init__(replace(store, folder=self._memory), worker, report, is_quick=True)
        self._in_folder, self._begin, self._key, self._study = store, begin, key, study
        self._began_s, self._untold = math.inf, list[RoundRecord]()
        begin(self._store)

    def held(self) -> PackedSoon | None:
        """Return the finished cell unless it has moved into a folder."""
        if self._memory is None:
            return None
        files = FilesOfCell(self._store.key, self._store.fingerprint, self._memory)
        return PackedSoon(files, self._study, [_ended(self._key, record) for record in self._untold])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Keep what there is of a cell that did not come to its end in a folder, where its failure is told as well."""
        super().__exit__(kind, error, at)
        if error is not None:
            with contextlib.suppress(Exception):  # the reason why the block is left counts
                self._move()

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        """Write a round; a cell that is not quick after all moves into its folder."""
        super().append(record, arrays)
        # From its first round on: what is imported and encoded before it is there for all cells that come after.
        self._began_s = min(self._began_s, time.monotonic())
        memory = self._memory
        if memory is not None and (time.monotonic() - self._began_s >= HOLD_S or memory.n_bytes >= MAX_HELD_BYTES):
            self._write(RoundWriter.flush)
            assert self._writer is not None
            self._writer.close()
            self._move()
            self._writer = RoundWriter(self._store)

    def _move(self) -> None:
        """Write what is in memory into the cell's folder, from where the cell goes on, and tell its rounds."""
        if self._memory is None:
            return
        held, self._store, self._memory = self._store, self._in_folder, None
        self._begin(self._store)
        rounds = [(record, held.arrays(record.round_index)) for record in held.rounds()]
        if rounds:
            self._store.append_all(rounds)
        self._tell(())

    def _tell(self, written: Iterable[RoundRecord]) -> None:
        self._untold += written
        if self._memory is None:
            told, self._untold = self._untold, []
            super()._tell(told)
