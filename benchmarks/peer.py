"""The whole active-learning loop on TREC-6, against small-text 1.4.1 as it comes, two seeds side by side.

Both do the same protocol: MiniLM, the same 25 first labels, 5 queries of 25 by least confidence, 5 epochs, batch 32, 60
tokens, AdamW at 2e-4 falling linearly to zero, a tenth of the labels held out, test accuracy in every round. small-text
computes in float32, which is all that it offers; al_ray in float32 and, where the processor has bf16 instructions, in
bf16. Beside them two other learners of al_ray, which learn less of the encoder: with four of six layers frozen, and the
frozen learner. What they compute once for all cells of a study is told apart from what their cells compute.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, TextDataset
from al_ray.initial.stratified import StratifiedInitial
from al_ray.study.forecast import has_fast_bf16
from benchmarks.inputs import MAX_TOKENS, minilm, trec6
from benchmarks.peer_environment import peer_python
from benchmarks.processes import process_started_at
from benchmarks.report import Report, SkipBenchmark, run_benchmark
from benchmarks.timed_study import TimedStudy, compute_seconds, timed_study

SEEDS = (42, 43)
INITIAL_SIZE = QUERY_SIZE = 25
# At 5e-5 neither learns anything in so few steps, and equal accuracies would say nothing.
LEARNING_RATE, EPOCHS, BATCH_SIZE = 2e-4, 5, 32
# Learners of al_ray -> how many times as fast as small-text's fine-tuning their loop is wanted to be.
LEARNERS = {"bf16": 6, "float32": 5, "frozen_4": 15, "frozen": 150}
ENCODED_ONCE = ("frozen_4", "frozen")
FINETUNE: dict[str, Any] = {
    "learning_rate": LEARNING_RATE,
    "epochs": EPOCHS,
    "batch_size": BATCH_SIZE,
    "schedule": "linear",
}
SCRIPT = Path(__file__).with_name("peer_small_text.py")


def measure(report: Report, n_pool: int | None, rounds: int) -> None:
    """Run the peer, then al_ray in both precisions."""
    imports = time.time() - process_started_at()
    dataset = trec6()
    python = peer_python()
    theirs = _run_peer(python, dataset, n_pool, rounds)
    _report_peer(report, theirs)
    for learner, target in LEARNERS.items():
        if learner == "bf16" and not has_fast_bf16():
            report.remark("bf16 is left out: this processor has no instructions for it, and emulates it at a crawl.")
            continue
        _report_ours(report, learner, target, dataset, n_pool, rounds, theirs, imports)
    report.details["small_text"] = theirs


def _initial(dataset: TextDataset, seed: int, n_pool: int | None) -> list[int]:
    """Return the rows that al_ray labels first with this seed; the rows of TREC-6 are its ids."""
    ids, labels = dataset.train.ids[:n_pool], dataset.train.labels[:n_pool]
    assert np.array_equal(ids, np.arange(len(ids))), "rows and ids of TREC-6 are the same"
    truth = LabeledSet(ids=ids, labels=labels)
    picked = StratifiedInitial().pick(truth, INITIAL_SIZE, stream(seed, "initial"))
    return [int(row) for row in picked]


def _run_peer(python: Path, dataset: TextDataset, n_pool: int | None, rounds: int) -> dict[str, Any]:
    """Run one process of the peer for each seed, at once."""
    folder = Path(os.environ.get("AL_RAY_DATA", "")) / "trec6"
    if not (folder / "train.parquet").is_file():
        raise SkipBenchmark("the peer reads TREC-6 as Parquet files. Set AL_RAY_DATA to the folder that holds 'trec6'.")
    began = time.time()
    processes = [
        subprocess.Popen(
            _command(python, folder, seed, _initial(dataset, seed, n_pool), n_pool, rounds),
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
                 "TRANSFORMERS_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in SEEDS
    ]  # fmt: skip
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"small-text failed:\n{errors[-4000:]}")
    runs = {seed: json.loads(printed.splitlines()[-1]) for seed, (printed, _) in zip(SEEDS, outputs, strict=True)}
    return {"whole": time.time() - began, "runs": runs}


def _command(
    python: Path, folder: Path, seed: int, initial: list[int], n_pool: int | None, rounds: int
) -> list[str | Path]:
    options = {
        "data": folder,
        "model": minilm().path,
        "initial": json.dumps(initial),
        "seed": seed,
        "rounds": rounds,
        "query-size": QUERY_SIZE,
        "epochs": EPOCHS,
        "batch-size": BATCH_SIZE,
        "max-tokens": MAX_TOKENS,
        "learning-rate": LEARNING_RATE,
    }
    if n_pool is not None:
        options["n-pool"] = n_pool
    return [python, SCRIPT, *(f"--{name}={value}" for name, value in options.items())]


def _report_peer(report: Report, theirs: dict[str, Any]) -> None:
    runs = theirs["runs"].values()
    phases = {phase: mean(run["seconds"][phase] for run in runs) for phase in next(iter(runs))["seconds"]}
    note = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in phases.items())
    report.add("small-text: loop", _loop_of_peer(theirs), "s", note=f"both seeds at once; a process: {note}")
    report.add("small-text: with start-up", theirs["whole"], "s", note="from the start of the processes to their end")
    _accuracies(report, "small-text", {seed: run["accuracies"] for seed, run in theirs["runs"].items()})


def _loop_of_peer(theirs: dict[str, Any]) -> float:
    runs = theirs["runs"].values()
    return float(max(run["ended"] for run in runs) - min(run["began"] for run in runs))


def _report_ours(
    report: Report,
    learner: str,
    target: float,
    dataset: TextDataset,
    n_pool: int | None,
    rounds: int,
    theirs: dict[str, Any],
    imports: float,
) -> None:
    began = time.time() - imports
    with timed_study(_study(learner, rounds), lanes=len(SEEDS)) as study:
        whole = time.time() - began
        cells = study.cells()
        _check_initial(study, dataset, n_pool)
        loop = max(cell.finished for cell in cells) - min(cell.started for cell in cells)
        compute = mean(sum(map(compute_seconds, cell.recorded)) for cell in cells)
        note = f"both seeds at once, first 'started' to last 'finished'; compute of a cell {compute:.1f} s"
        report.add(f"al_ray {learner}: loop", loop, "s", note=note)
        report.add(
            f"al_ray {learner}: with start-up",
            whole,
            "s",
            note="imports, plan, Ray, tokenising, both cells, Ray's end",
        )
        curves = {
            cell.spec.seed: [entry.record.metrics["accuracy"] for entry in times.recorded if entry.record.metrics]
            for cell, times in zip(study.plan.cells, cells, strict=True)
        }
        _accuracies(report, f"al_ray {learner}", curves)
        report.details[f"al_ray_{learner}"] = {"loop_s": loop, "whole_s": whole, "accuracies": curves}
    ratio = _loop_of_peer(theirs) / loop
    if learner in ENCODED_ONCE:
        of_cells = _loop_of_peer(theirs) / compute
        what = f"small-text / al_ray {learner}: cells"
        report.add(what, of_cells, "x", at_least=target, note="without what is computed once for all cells of a study")
        report.add(f"small-text / al_ray {learner}: loop", ratio, "x", note="with it: embeddings, or hidden states")
    else:
        report.add(f"small-text / al_ray {learner}: loop", ratio, "x", at_least=target, note="wall time, no start-up")
    report.add(f"small-text / al_ray {learner}: whole", theirs["whole"] / whole, "x", note="start-up included")


def _study(learner: str, rounds: int) -> dict[str, Any]:
    frozen: dict[str, dict[str, Any]] = {
        "frozen": {"frozen_layers": "all"},
        "frozen_4": {**FINETUNE, "frozen_layers": 4},
    }
    return {
        "study": f"peer-{learner}",
        "grid": [
            {
                "dataset": "trec6",
                "model": "minilm",
                "precision": "bf16" if learner == "bf16" else "float32",
                "strategy": "least_confidence",
                "initial_size": INITIAL_SIZE,
                "query_size": QUERY_SIZE,
                "rounds": rounds,
                "max_tokens": MAX_TOKENS,
                "finetune": frozen.get(learner, FINETUNE),
                "seed": list(SEEDS),
            }
        ],
    }


def _check_initial(study: TimedStudy, dataset: TextDataset, n_pool: int | None) -> None:
    """Make sure that both began with the same labels; a pool cut short for a trial has others."""
    if n_pool is not None:
        return
    for cell, times in zip(study.plan.cells, study.cells(), strict=True):
        first = times.recorded[0].record.query.ids
        assert sorted(first) == sorted(_initial(dataset, cell.spec.seed, None)), "the first labels differ"


def _accuracies(report: Report, name: str, curves: dict[int, list[float]]) -> None:
    for seed, accuracies in curves.items():
        rounds = " ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        report.add(f"{name}: last test accuracy, seed {seed}", accuracies[-1], "", note=f"by round: {rounds}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer", description="al_ray against small-text 1.4.1.")
    parser.add_argument("--n-pool", type=int, help="rows of the peer's pool: a trial, whose ratio means nothing")
    parser.add_argument("--rounds", type=int, default=5, help="queries after the first labels")
    return parser.parse_args()


def _measure_as_asked(report: Report) -> None:
    options = _options()
    measure(report, options.n_pool, options.rounds)
    if options.n_pool is not None:
        report.name = "peer_trial"
        report.remark(f"a trial: small-text had {options.n_pool} texts in its pool, al_ray all of them.")


if __name__ == "__main__":
    run_benchmark("peer", "active learning on TREC-6: al_ray and small-text", _measure_as_asked)
