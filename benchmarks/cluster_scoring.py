"""How long one cell's pool takes to score with a lane of one core, alone and with a core that is free beside it.

Both take turns in one lane, on the same weights, and their scores must be equal to the last bit.
"""

import argparse
from collections import defaultdict
from functools import partial
from statistics import median

import numpy as np
import pyarrow as pa

from al_ray.data import resolve_dataset
from al_ray.model.source import resolve_model
from al_ray.model.tokens import tokenize_table
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.driver import run_grid
from al_ray.runtime.pool import PoolSource, text_table
from al_ray.runtime.tasks import CellEvent, CellFailed, RoundEnded
from al_ray.study.forecast import has_fast_bf16
from benchmarks.cells import benchmark_cell
from benchmarks.inputs import MAX_TOKENS, minilm
from benchmarks.report import Report, SkipBenchmark, n_cores, run_benchmark
from benchmarks.scoring_cell import score_alone_and_shared

N_TEXTS, N_TURNS, BATCH_SIZE = 12_000, 3, 64
WANTED = 0.6
# Beneath this what is started and sent tells more than what is computed.
LEAST_S = 30.0


def measure(report: Report, n_texts: int, n_turns: int, model: str) -> None:
    """Score the pool in turns, on two cores of this machine."""
    if n_cores() < 2:
        raise SkipBenchmark("this machine has one core, and so none beside the lane")
    precision = "bf16" if has_fast_bf16() else "float32"
    seconds = defaultdict[str, list[float]](list)

    def listen(event: CellEvent) -> None:
        if isinstance(event, CellFailed):
            raise RuntimeError(f"{event.failure.error}: {event.failure.message}\n{event.failure.traceback}")
        if isinstance(event, RoundEnded):
            for name, value in event.metrics.items():
                seconds[name].append(value)

    found = minilm() if model == "minilm" else resolve_model(model, None)
    spec = {"n_turns": n_turns, "batch_size": BATCH_SIZE, "precision": precision, "model": model}
    tokenize = partial(tokenize_table, model=found, max_tokens=MAX_TOKENS)
    run_grid(
        cells=[benchmark_cell("turns", "tickets", spec, n_classes=6)],
        pools={"tickets": PoolSource(tables={"pool": tickets(n_texts)}, tokenize=tokenize)},
        run_cell=score_alone_and_shared,
        resources=LaneResources(lanes=1, cpus_per_worker=1, scoring="cluster"),
        on_event=listen,
    )
    alone, shared = median(seconds["alone"]), median(seconds["shared"])
    note = f"{n_texts:,} texts, {model}, {precision}, median of {n_turns} turns"
    report.add("lane of one core, alone", alone, "s", note=note)
    report.add("with what is free beside it", shared, "s", note=f"{n_cores() - 1} more cores; scores bit-equal")
    ratio = median(np.divide(seconds["shared"], seconds["alone"]).tolist())
    report.add("shared / alone", ratio, "", at_most=WANTED if alone >= LEAST_S else None, note="median over the turns")
    cpu = median(np.divide(seconds["cpu shared"], seconds["cpu alone"]).tolist())
    note = (
        "CPU seconds of all of Ray, which other programs disturb less; half of it is what two idle cores would come to"
    )
    report.add("shared / alone, CPU time", cpu, "", note=note)
    note = "right after a small fit, so that the processes beside the lane start meanwhile"
    report.add("first scoring, shared", seconds["first"][0], "s", note=note)
    if alone < LEAST_S:
        report.remark(f"The lane alone took less than {LEAST_S:.0f} s, so no target is set. Ask for more --texts.")
    report.details |= {"seconds": seconds}


def tickets(n_texts: int) -> pa.Table:
    """Return a table of that many texts, up to a million."""
    return text_table(resolve_dataset({"name": "tickets", "n_train": n_texts, "n_test": 6}).train)


def main() -> None:
    """Run the benchmark, perhaps on another pool."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster_scoring", description=__doc__)
    parser.add_argument("--texts", type=int, default=N_TEXTS)
    parser.add_argument("--turns", type=int, default=N_TURNS)
    parser.add_argument("--model", default="minilm", help="minilm, or the folder of an encoder")
    asked = parser.parse_args()
    run_benchmark(
        "cluster_scoring",
        "one cell's pool, scored by its lane and by all cores",
        lambda report: measure(report, asked.texts, asked.turns, asked.model),
    )


if __name__ == "__main__":
    main()
