"""Cells of the scoring benchmarks: al_ray's own classifier on the workers of a lane, timed from inside."""

import os
import time
from typing import TYPE_CHECKING

import numpy as np

from al_ray.core.types import LabeledSet
from al_ray.errors import RoundError
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Worker
from al_ray.runtime.pool import CellPool
from al_ray.runtime.tasks import CellTask, ReportRound, RoundEnded
from benchmarks.processes import cpu_seconds, descendants

if TYPE_CHECKING:
    from al_ray.model.classifier import TransformerClassifier

N_LABELED = 64


def _fitted(task: CellTask, texts: TokenizedSplit, worker: Worker) -> "TransformerClassifier":
    """Return a classifier that was fine-tuned a little, so that its weights are not trivial."""
    from al_ray.model.classifier import TransformerClassifier
    from al_ray.model.finetune import FitSettings

    classifier = TransformerClassifier(
        model=resolve_model(task.spec.get("model", "minilm"), None),
        init="pretrained",
        settings=FitSettings(
            recipe=FinetuneRecipe(learning_rate=1e-4, epochs=6, validation_fraction=0.0),
            precision=task.spec["precision"],
            n_classes=task.n_classes,
            scoring_batch_size=task.spec["batch_size"],
            seed=0,
        ),
        pool=texts,
        test=texts,
        worker=worker,
    )
    classifier.finetune(LabeledSet(ids=texts.ids[:N_LABELED], labels=texts.labels[:N_LABELED]), round_index=1)
    return classifier


def score_pool(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Fine-tune a little, then time passes over the whole pool.

    Args:
        task: its spec has ``n_passes``, ``batch_size``, ``precision`` and ``folder``, where rank 0 leaves the model
            and its logits.
        pool: with the tokenised split ``pool``.
        worker: this process.
        report: takes, as metrics, the wall time of each pass, and its CPU time on all workers together, in seconds.
    """
    texts = TokenizedSplit.from_table(pool.tables["pool"])
    classifier = _fitted(task, texts, worker)
    seconds, cpu = [], []
    for _ in range(task.spec["n_passes"] + 1):
        worker.all_gather(np.zeros(1))  # wait for all
        began, cpu_began = time.perf_counter(), time.process_time()
        outputs = classifier.predict("pool", texts.ids)
        worker.all_gather(np.zeros(1))  # wait for all
        seconds.append(time.perf_counter() - began)
        cpu.append(float(np.concatenate(worker.all_gather(np.array([time.process_time() - cpu_began]))).sum()))
    if worker.rank == 0 and (folder := task.spec["folder"]):
        classifier._network.model.save_pretrained(folder)
        np.save(f"{folder}/logits.npy", outputs.logits[:, 0])
    # The first pass fills caches, as the first round of a cell does; the others are what a study is made of.
    if worker.rank == 0:
        for index, (wall, cpu_s) in enumerate(zip(seconds[1:], cpu[1:], strict=True)):
            report(RoundEnded(task.key, index, N_LABELED, {"wall": wall, "cpu": cpu_s}))


def score_alone_and_shared(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Score the pool by turns in the lane alone and with all that is free beside it.

    Args:
        task: its spec has ``n_turns``, ``batch_size``, ``precision`` and ``model``.
        pool: with the tokenised split ``pool``.
        worker: this process, of a lane that shares.
        report: takes, as metrics, the seconds of a pass (``first``, ``alone`` or ``shared``), and the CPU seconds of
            all processes of this node's Ray meanwhile (``cpu first`` ...); the first one is shared, right after the
            little fit with which the processes beside the lane are started.

    Raises:
        RoundError: the scores are not equal to the last bit.
    """
    texts = TokenizedSplit.from_table(pool.tables["pool"])
    helpers, alone = worker.helpers, None
    assert helpers is not None, "the lane does not share"
    classifier = _fitted(task, texts, worker)
    passes = ["first", *(["alone", "shared"] * task.spec["n_turns"])]
    for index, name in enumerate(passes):
        worker.helpers = None if name == "alone" else helpers
        began, cpu_began = time.perf_counter(), _cpu_of_ray()
        logits = classifier.predict("pool", texts.ids).logits
        seconds = time.perf_counter() - began
        alone = logits if alone is None else alone
        if not np.array_equal(logits, alone):
            raise RoundError(f"pass {index} ({name}) gives other scores than the first one")
        metrics = {name: seconds, f"cpu {name}": _cpu_of_ray() - cpu_began}
        report(RoundEnded(task.key, index, N_LABELED, metrics))


def _cpu_of_ray() -> float:
    """Return the CPU seconds of all that the parent of this worker has started, Ray's raylet."""
    return sum(map(cpu_seconds, descendants(os.getppid())))
