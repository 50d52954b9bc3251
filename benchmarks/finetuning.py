"""How fast al_ray fine-tunes on one thread, against a bare PyTorch loop over the same batches.

The bare loop has the model of transformers as it comes, batches padded to their longest text, and PyTorch's fused
AdamW. al_ray's time includes what a round needs besides: pretrained weights put back, and the copy that scores later.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np

from al_ray.core.seeding import stream, stream_seed
from al_ray.core.types import LabeledSet
from al_ray.model.classifier import TransformerClassifier
from al_ray.model.finetune import FitSettings
from al_ray.model.recipe import FinetuneRecipe, batches_of_epoch
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import SingleProcess, set_threads
from al_ray.study.forecast import has_fast_bf16
from benchmarks.inputs import minilm, tokenized, trec6
from benchmarks.report import Report, run_benchmark

SEED = 0
N_LABELED = 150
N_TURNS = 5
RECIPE = FinetuneRecipe(learning_rate=5e-5, epochs=4, validation_fraction=0.0)

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Fit:
    """One timed fine-tune: wall time, CPU time, mean training loss in the last epoch."""

    wall: float
    cpu: float
    loss: float


class Clock:
    """Wall and CPU time since it was made; with one thread they differ by what other programs took."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, loss: float) -> Fit:
        """Return the times."""
        return Fit(time.perf_counter() - self._wall, time.process_time() - self._cpu, loss)


class BareLoop:
    """Fine-tuning as one would write it with transformers and PyTorch alone."""

    def __init__(self, pool: TokenizedSplit, labeled: LabeledSet, n_classes: int, precision: Precision) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        self._model: Any = AutoModelForSequenceClassification.from_pretrained(
            minilm().path, num_labels=n_classes, local_files_only=True
        )
        self._pretrained = {name: value.clone() for name, value in self._model.state_dict().items()}
        rows = pool.rows(labeled.ids)
        self._texts = [torch.from_numpy(pool.gather(row[None]).astype(np.int64)) for row in rows]
        self._labels = torch.from_numpy(labeled.labels)
        self._bf16 = precision == "bf16"

    def fit(self, round_index: int) -> Fit:
        """Fine-tune once; the time is without putting the pretrained weights back."""
        import torch

        self._model.load_state_dict(self._pretrained)
        torch.manual_seed(stream_seed(SEED, "bare", round_index))
        order = stream(SEED, "round", round_index, "order")
        clock = Clock()
        self._model.train()
        optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=RECIPE.learning_rate, eps=1e-8, weight_decay=RECIPE.weight_decay, fused=True
        )
        for _ in range(RECIPE.epochs):
            batches = batches_of_epoch(len(self._texts), RECIPE.batch_size, order)
            losses = [self._step(batch, optimizer) * len(batch) for batch in batches]
        return clock.stop(sum(losses) / len(self._texts))

    def _step(self, rows: Any, optimizer: Any) -> float:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        inputs = pad_sequence([self._texts[row] for row in rows], batch_first=True)
        # Token 0 is MiniLM's padding and stands in no text.
        mask = (inputs != 0).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._model(input_ids=inputs, attention_mask=mask).logits
        loss: Any = torch.nn.functional.cross_entropy(logits.float(), self._labels[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), RECIPE.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())


def measure(report: Report) -> None:
    """Let the two take turns, in both precisions."""
    set_threads(1)
    dataset = trec6()
    minilm()
    pool = tokenized(dataset.train)
    test = tokenized(dataset.test)
    chosen = np.sort(stream(SEED, "benchmark").permutation(len(pool))[:N_LABELED])
    labeled = LabeledSet(ids=pool.ids[chosen], labels=pool.labels[chosen])
    for precision in ("float32", *(["bf16"] if has_fast_bf16() else [])):
        ours = TransformerClassifier(
            model=minilm(),
            init="pretrained",
            settings=FitSettings(
                recipe=RECIPE, precision=precision, n_classes=dataset.n_classes, scoring_batch_size=64, seed=SEED
            ),
            pool=pool,
            test=test,
            worker=SingleProcess(),
        )
        _compare(report, precision, ours, BareLoop(pool, labeled, dataset.n_classes, precision), labeled)


def _compare(
    report: Report, precision: Precision, ours: TransformerClassifier, bare: BareLoop, labeled: LabeledSet
) -> None:
    ours.finetune(labeled, round_index=0)
    bare.fit(0)
    mine, theirs = [], []
    for turn in range(1, N_TURNS + 1):
        clock = Clock()
        loss = ours.finetune(labeled, round_index=turn).train_loss
        mine.append(clock.stop(loss))
        theirs.append(bare.fit(turn))
    _report(report, precision, mine, theirs)


def _report(report: Report, precision: str, mine: list[Fit], theirs: list[Fit]) -> None:
    n_examples = N_LABELED * RECIPE.epochs
    note = f"median of {N_TURNS} fits: {N_LABELED} labels, {RECIPE.epochs} epochs, batch {RECIPE.batch_size}, 1 thread"
    report.add(f"{precision}: al_ray", n_examples / median(fit.wall for fit in mine), "examples/s", note=note)
    speed = n_examples / median(fit.wall for fit in theirs)
    report.add(f"{precision}: bare loop", speed, "examples/s", note="the same batches, in turns")
    walls = [their.wall / my.wall for my, their in zip(mine, theirs, strict=True)]
    note = f"median over the turns, from {min(walls):.2f} to {max(walls):.2f}"
    report.add(f"{precision}: al_ray / bare loop", median(walls), "x", at_least=0.95, note=note)
    cpus = [their.cpu / my.cpu for my, their in zip(mine, theirs, strict=True)]
    note = f"the same by CPU time, which other programs disturb less; from {min(cpus):.2f} to {max(cpus):.2f}"
    report.add(f"{precision}: al_ray / bare loop, CPU time", median(cpus), "x", note=note)
    ours, bare = (float(np.mean([fit.loss for fit in fits])) for fits in (mine, theirs))
    note = f"mean over the turns; bare loop {bare:.3f}. Other dropout masks and heads, the same batches"
    report.add(f"{precision}: training loss, last epoch", ours, "nats", note=note)
    report.details[precision] = {"ours": [vars(fit) for fit in mine], "bare": [vars(fit) for fit in theirs]}


if __name__ == "__main__":
    run_benchmark("finetuning", "fine-tuning MiniLM on TREC-6", measure)
