"""Frozen learner on TREC-6, one core: its cells beside a plain loop of numpy and scikit-learn, and beside each other.

Both loops do the same arithmetic on the same embeddings: 21 logistic regressions by L-BFGS with one tolerance, on 25 to
525 labels, accuracy on the test split, and the 25 examples of the whole pool with the smallest margin. al_ray's also
computes its other metrics and writes its records. Processor time counts, which neighbours do not stretch.
"""

import os
import time
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch

from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet
from al_ray.initial.stratified import StratifiedInitial
from al_ray.model.encoding import Encoding, encode_table
from al_ray.model.frozen import GRADIENT_TOLERANCE
from al_ray.model.tokens import tokenize_table
from al_ray.model.worker import set_threads
from al_ray.runtime.pool import text_table
from benchmarks.inputs import MAX_TOKENS, minilm, trec6
from benchmarks.report import Report, run_benchmark
from benchmarks.timed_study import CellTimes, TimedEvent, timed_study

N_QUERIES, QUERY_SIZE, L2 = 20, 25, 0.1
SEEDS = range(5)
KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lbfgs, margin": ("margin", {"solver": "lbfgs", "l2": L2}),
    "adamw, margin": ("margin", {}),
    "adamw, badge": ("badge", {}),
    "adamw, core_set": ("core_set", {}),
    "adamw, typiclust": ("typiclust", {}),
}


def measure(report: Report) -> None:
    """Time the plain loop, then al_ray's cells."""
    set_threads(1)
    found = embedded()
    plain_loop(found, SEEDS[0])  # imports and warms up
    began = [time.process_time()]
    curves = []
    for seed in SEEDS:
        curves.append(plain_loop(found, seed))
        began.append(time.process_time())
    plain = median(np.diff(began))
    report.add("numpy + scikit-learn: cell", plain, "s", note=_accuracy(curve[-1] for curve in curves))
    ours = run_cells()
    for kind, cells in ours.items():
        last = _accuracy(cell.recorded[-1].record.metrics["accuracy"] for _, cell in cells)
        report.add(f"al_ray, {kind}: cell", median(seconds for seconds, _ in cells), "s", note=last)
    seconds = {kind: median(each for each, _ in cells) for kind, cells in ours.items()}
    ratio = seconds["lbfgs, margin"] / plain
    report.add("al_ray, lbfgs / plain loop", ratio, "x", at_most=1.3, note="with records and all metrics")
    for kind in list(KINDS)[2:]:
        report.add(f"{kind} / margin", seconds[kind] / seconds["adamw, margin"], "x", at_most=2)


def _accuracy(values: Iterable[float]) -> str:
    return f"last test accuracy {np.mean(list(values)):.3f}"


def embedded() -> Mapping[str, Any]:
    """Return the embeddings and labels of TREC-6, split by split, ids ascending."""
    dataset, model = trec6(), minilm()
    encoding = Encoding(model=model, precision="float32", batch_size=64, output="mean")
    encode = encoding.encoder(torch.device("cpu"))
    found: dict[str, Any] = {}
    for name, split in (("pool", dataset.train), ("test", dataset.test)):
        table = text_table(split)
        found[name] = encode_table(tokenize_table(table, model, MAX_TOKENS), encode)
        found[f"{name}_labels"] = table["label"].to_numpy()
    return found


def plain_loop(found: Mapping[str, Any], seed: int) -> list[float]:
    """Do what a cell computes as one would write it down, and return the accuracy by round."""
    from sklearn.linear_model import LogisticRegression

    pool, test = (np.concatenate([found[name], np.ones((len(found[name]), 1))], axis=1) for name in ("pool", "test"))
    truth = LabeledSet(ids=np.arange(len(pool)), labels=found["pool_labels"])
    is_labeled = np.zeros(len(pool), dtype=bool)
    is_labeled[StratifiedInitial().pick(truth, QUERY_SIZE, stream(seed, "initial"))] = True
    curve = []
    for _ in range(N_QUERIES + 1):
        model = LogisticRegression(C=1 / L2, fit_intercept=False, tol=GRADIENT_TOLERANCE, max_iter=1000)
        model.fit(pool[is_labeled], truth.labels[is_labeled])
        curve.append(float((model.predict(test) == found["test_labels"]).mean()))
        candidates = np.flatnonzero(~is_labeled)
        probs = np.sort(model.predict_proba(pool[candidates]), axis=1)
        is_labeled[candidates[np.argsort(probs[:, -1] - probs[:, -2])[:QUERY_SIZE]]] = True
    return curve


def run_cells() -> dict[str, list[tuple[float, CellTimes]]]:
    """Run cells of every kind in this process, and return the processor time and the records of each.

    The first cell encodes the pool, and imports and warms up: it does not count.
    """
    shared = {
        "dataset": "trec6",
        "model": "minilm",
        "rounds": N_QUERIES,
        "initial_size": QUERY_SIZE,
        "query_size": QUERY_SIZE,
        "max_tokens": MAX_TOKENS,
    }
    grid = [{"strategy": "badge", "finetune": {"frozen_layers": "all", "epochs": 1}, "seed": 0}]
    for strategy, options in KINDS.values():
        grid.append({"strategy": strategy, "finetune": {"frozen_layers": "all", **options}, "seed": list(SEEDS)})
    clock: dict[str, list[float]] = {}

    def read_clock(timed: TimedEvent) -> None:
        clock.setdefault(timed.event.key, []).append(time.process_time())

    with timed_study({"study": "frozen", "defaults": shared, "grid": grid}, lanes=None, on_event=read_clock) as study:
        cells = study.cells()[1:]
    timed = [(clock[cell.key][-1] - clock[cell.key][0], cell) for cell in cells]
    n = len(SEEDS)
    return {kind: timed[at * n : (at + 1) * n] for at, kind in enumerate(KINDS)}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    run_benchmark("frozen", "frozen learner: 21-round cells of TREC-6 on one core", measure)
