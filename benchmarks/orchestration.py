"""What al_ray itself costs: around a round's compute, between two cells of a lane, and before the first cell.

The study is real (the embedded tickets, MiniLM, float32) and short, so that the lanes change cells often.
"""

import os
from functools import partial
from itertools import pairwise
from statistics import median

from al_ray.runtime.tasks import CellStarted
from benchmarks.inputs import minilm
from benchmarks.processes import cpu_seconds, descendants, process_started_at
from benchmarks.report import Report, n_cores, run_benchmark
from benchmarks.timed_study import CellTimes, TimedEvent, TimedStudy, compute_seconds, timed_study

LANES = 2
STUDY = {
    "study": "orchestration",
    "defaults": {
        "dataset": "tickets",
        "model": "minilm",
        "precision": "float32",
        "rounds": 3,
        "finetune": {"learning_rate": 1e-4, "epochs": 2, "validation_fraction": 0.0},
    },
    "grid": [{"strategy": ["least_confidence", "random"], "seed": {"range": [42, 46]}}],
}


def measure(report: Report) -> None:
    """Run the study once and read its events and records."""
    minilm()
    if n_cores() < LANES:
        report.remark(f"this machine has {n_cores()} core(s) for {LANES} lanes.")
    cpu_at: list[float] = []
    with timed_study(STUDY, LANES, partial(_sample, cpu_at)) as study:
        _rounds(report, study)
        _between_cells(report, study)
        _start(report, study, cpu_at)


def _rounds(report: Report, study: TimedStudy) -> None:
    pairs = [pair for cell in study.cells() for pair in pairwise(cell.recorded)]
    walls = [(later.recorded_at - earlier.recorded_at).total_seconds() for earlier, later in pairs]
    compute = [compute_seconds(later) for _, later in pairs]
    extra = [wall - work for wall, work in zip(walls, compute, strict=True)]
    note = f"{len(extra)} rounds: record to record, minus its fine-tuning, evaluation and scoring"
    report.add("around a round's compute, median", median(extra), "s", at_most=0.2, note=note)
    report.add("around a round's compute, worst", max(extra), "s", at_most=0.2, note="the slowest of them")
    report.add("a round, median", median(walls), "s", note=f"of it compute: {median(compute):.2f} s")
    report.details["around_rounds_s"] = extra


def _between_cells(report: Report, study: TimedStudy) -> None:
    pairs = [pair for cells in study.lanes().values() for pair in pairwise(cells)]
    gaps = [_gap(earlier, later) for earlier, later in pairs]
    seen = [later.started - earlier.finished for earlier, later in pairs]
    note = f"{len(gaps)} changes of a warm lane: done.json to round 0 of the next cell, its model built"
    report.add("from cell to cell, median", median(gaps), "s", at_most=0.5, note=note)
    report.add("from cell to cell, worst", max(gaps), "s", at_most=0.5, note="the slowest of them")
    report.add("'finished' to 'started', median", median(seen), "s", note="the same, by the events in the driver")
    report.details["between_cells_s"] = gaps


def _gap(earlier: CellTimes, later: CellTimes) -> float:
    return later.recorded[0].recorded_at.timestamp() - earlier.done


def _sample(cpu_at: list[float], timed: TimedEvent) -> None:
    """Note the CPU time of all processes so far when a lane begins its first cell."""
    if isinstance(timed.event, CellStarted) and len(cpu_at) < LANES:
        here = os.getpid()
        cpu_at.append(sum(map(cpu_seconds, [here, *descendants(here)])))


def _start(report: Report, study: TimedStudy, cpu_at: list[float]) -> None:
    began = study.all_lanes_began()
    note = f"from the start of this process until {LANES} lanes had begun their first cell"
    report.add("start of a study", began - process_started_at(), "s", at_most=30, note=note)
    note = f"of all processes alive by then; the start cannot take less than 1/{n_cores()} of it"
    report.add("of it CPU time", cpu_at[-1], "s", note=note)
    report.details["start_cpu_s"] = cpu_at


if __name__ == "__main__":
    run_benchmark("orchestration", "what al_ray adds to the compute", measure)
