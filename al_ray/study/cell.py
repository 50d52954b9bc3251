"""One cell on its workers: the loop, its model, its records.

:func:`run_cell` is what a lane calls, and what ``--local`` calls: the only difference is the worker that it is handed.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from al_ray.confidence import plain_loss
from al_ray.core.metrics import aulc
from al_ray.core.types import LabeledSet, RoundRecord
from al_ray.errors import AlRayError, ModelError, StorageError
from al_ray.loop import learner
from al_ray.loop.ports import Arrays, Loop
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Worker
from al_ray.records.cell import CellStore
from al_ray.records.study import StudyStore
from al_ray.runtime.tasks import CellTask, ReportRound, RoundEnded
from al_ray.study.spec import CellSpec, read_spec


def run_cell(task: CellTask, tables: Mapping[str, pa.Table], worker: Worker, report: ReportRound) -> None:
    """Run one cell to its end, from wherever its records stop.

    Args:
        task: the cell, and where its records are.
        tables: the tokenised ``pool`` and ``test`` splits (columns id, label, tokens).
        worker: this process among those of the cell.
        report: told of each round once it is recorded; called on rank 0 alone.

    Raises:
        AlRayError: on every worker alike; what is recorded stays.
    """
    from al_ray.model.classifier import TransformerClassifier
    from al_ray.model.finetune import FitSettings

    spec = read_spec(task.spec)
    study = StudyStore.open(task.storage, task.study, claimed=True, patience_s=task.storage_patience_s)
    store = study.cell(task.slug, task.fingerprint)
    records = SharedRecords(
        store,
        worker,
        lambda record: report(RoundEnded(task.key, record.round_index, record.n_labeled, dict(record.metrics))),
    )
    records.on_rank_zero(lambda: store.begin(task.spec, {**task.provenance, **worker.place}))
    pool, test = (TokenizedSplit.from_table(tables[name]) for name in ("pool", "test"))
    classifier = TransformerClassifier(
        model=_pinned_model(spec),
        init=spec.model.init,
        settings=FitSettings(
            recipe=spec.finetune,
            precision=spec.precision,
            n_classes=task.n_classes,
            scoring_batch_size=spec.scoring_batch_size,
            seed=spec.seed,
            new_loss=spec.confidence.new_loss,
        ),
        pool=pool,
        test=test,
        worker=worker,
        sampling=spec.confidence.sampling,
        new_plain_loss=partial(plain_loss, spec.evaluation),
    )
    rounds = learner.run(make_loop(spec, task.n_classes, tables), classifier, records)
    records.on_rank_zero(lambda: store.finish(summarize(rounds)))


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
        evaluation=spec.evaluation,
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
    fitted = [record for record in rounds if record.metrics]
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


class SharedRecords:
    """The records of a cell as all of its workers see them: rank 0 reads and writes, the others are told.

    A write that fails on rank 0 fails on every rank, so that none is left waiting in a collective.
    """

    def __init__(self, store: CellStore, worker: Worker, report: Callable[[RoundRecord], None]) -> None:
        self._store = store
        self._worker = worker
        self._report = report

    def rounds(self) -> list[RoundRecord]:
        """Return the recorded rounds, the same on every rank."""
        stored = self.on_rank_zero(lambda: [record.to_json() for record in self._store.rounds()])
        return [RoundRecord.from_json(data) for data in stored]

    def arrays(self, round_index: int) -> Arrays:
        """Return the arrays of a recorded round, the same on every rank."""
        found: Arrays = self.on_rank_zero(lambda: self._store.arrays(round_index))
        return found

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        """Write a round on rank 0, then report it."""
        self.on_rank_zero(lambda: self._store.append(record, arrays))
        if self._worker.rank == 0:
            self._report(record)

    def on_rank_zero(self, action: Callable[[], Any]) -> Any:
        """Do something with the storage on rank 0 and give every rank the result, or the error.

        Raises:
            StorageError: the action failed on rank 0.
        """
        result: Any = None
        problem: str | None = None
        if self._worker.rank == 0:
            try:
                result = action()
            except AlRayError as error:
                problem = str(error)
        result, problem = self._worker.broadcast((result, problem))
        if problem is not None:
            raise StorageError(problem)
        return result


def _pinned_model(spec: CellSpec) -> ResolvedModel:
    """Find the model on this machine and make sure that it is the one of the study."""
    model = resolve_model(spec.model.name, spec.model.revision)
    if spec.model.settings_sha256 not in (None, model.settings_sha256):
        raise ModelError(
            f"model {spec.model.name!r} has another configuration or tokenizer on this machine than where the study "
            "was planned. Put the same files on every node."
        )
    if spec.model.sha256 not in (None, model.sha256):
        raise ModelError(
            f"model {spec.model.name!r} has weights with SHA-256 {model.sha256[:12]} on this machine, the study was "
            f"planned with {str(spec.model.sha256)[:12]}. Put the same files on every node."
        )
    return model
