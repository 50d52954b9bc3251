"""The cell of the scoring benchmark: al_ray's own classifier on all workers of a lane, timed from inside."""

import time

import numpy as np

from al_ray.core.types import LabeledSet
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Worker
from al_ray.runtime.pool import CellPool
from al_ray.runtime.tasks import CellTask, ReportRound, RoundEnded

N_LABELED = 64


def score_pool(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Fine-tune a little, so that the weights are not trivial, then time passes over the whole pool.

    Args:
        task: its spec has ``n_passes``, ``batch_size``, ``precision`` and ``folder``, where rank 0 leaves the model
            and its logits.
        pool: with the tokenised split ``pool``.
        worker: this process.
        report: takes, as metrics, the wall time of each pass, and its CPU time on all workers together, in seconds.
    """
    from al_ray.model.classifier import TransformerClassifier
    from al_ray.model.finetune import FitSettings

    texts = TokenizedSplit.from_table(pool.tables["pool"])
    classifier = TransformerClassifier(
        model=resolve_model("minilm", None),
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
