"""How much of the machine a grid keeps busy: 12 cells of TREC-6 on two lanes, once the lanes are up."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from al_ray.runtime.tasks import CellFinished, CellStarted
from benchmarks.inputs import minilm, trec6
from benchmarks.processes import cpu_seconds, descendants, machine_cpu_seconds
from benchmarks.report import Report, n_cores, run_benchmark
from benchmarks.timed_study import CellTimes, TimedEvent, TimedStudy, compute_seconds, lane_of, timed_study

LANES = 2
STUDY = {
    "study": "grid",
    "defaults": {
        "dataset": "trec6",
        "model": "minilm",
        "precision": "float32",
        "rounds": 2,
        "finetune": {"learning_rate": 1e-4, "epochs": 5, "validation_fraction": 0.0},
    },
    "grid": [
        {
            "strategy": ["least_confidence", "margin"],
            "filters": [[], ["uncertainty_clipping"]],
            "seed": {"range": [42, 45]},
        }
    ],
}


@dataclass(frozen=True)
class CpuSample:
    """CPU time spent up to a moment, in seconds: by each lane worker, by all of al_ray and Ray, by the machine."""

    at: float
    lanes: dict[int, float]
    everything: float
    machine: float
    stolen: float


@dataclass
class CpuWatch:
    """Takes CPU samples while the study runs: at every start and end of a cell."""

    samples: list[CpuSample] = field(default_factory=list)
    _pids: set[int] = field(default_factory=set)

    def on_event(self, timed: TimedEvent) -> None:
        """Sample at the starts and ends of cells; the first start of a lane makes its worker known."""
        if isinstance(timed.event, CellStarted):
            self._pids.add(lane_of(timed.event)[1])
        if isinstance(timed.event, CellStarted | CellFinished):
            self.samples.append(self._sample())

    def _sample(self) -> CpuSample:
        machine, stolen = machine_cpu_seconds()
        here = os.getpid()
        return CpuSample(
            at=time.time(),
            lanes={pid: cpu_seconds(pid) for pid in self._pids},
            everything=sum(map(cpu_seconds, [here, *descendants(here)])),
            machine=machine,
            stolen=stolen,
        )


def measure(report: Report) -> None:
    """Run the study and account for every core second between the first work of both lanes and the last record."""
    trec6()
    minilm()
    watch = CpuWatch()
    with timed_study(STUDY, LANES, watch.on_event) as study:
        began = study.all_lanes_began()
        first = min(watch.samples, key=lambda sample: abs(sample.at - began))
        last = watch.samples[-1]
        _report(report, study, first, last)


def _report(report: Report, study: TimedStudy, first: CpuSample, last: CpuSample) -> None:
    span = last.at - first.at
    total = min(LANES, n_cores()) * span
    lanes = sum(last.lanes[pid] - first.lanes.get(pid, 0.0) for pid in last.lanes)
    compute = _compute(study.cells(), first.at, last.at)
    report.add("span", span, "s", note=f"{len(study.cells())} cells; from both lanes' first work to the last end")
    note = f"CPU time of the lane workers / ({LANES} cores x span)"
    report.add("busy cores, by CPU time", lanes / total, "", at_least=0.85, note=note)
    note = "seconds of fine-tuning, evaluation and scoring in the records / the same"
    report.add("busy cores, by phases", compute / total, "", at_least=0.85, note=note)
    _rest(report, study, first, last, total)
    _others(report, first, last, total, lanes)
    report.details |= {"first": vars(first), "last": vars(last), "compute_s": compute}


def _rest(report: Report, study: TimedStudy, first: CpuSample, last: CpuSample, total: float) -> None:
    """Account for the wall time in which a lane did not compute."""
    lanes = study.lanes().values()
    around = sum(_around(cell, first.at) for cells in lanes for cell in cells)
    changes = [pair for cells in lanes for pair in pairwise(cells) if pair[0].done >= first.at]
    between = sum(later.recorded[0].recorded_at.timestamp() - earlier.done for earlier, later in changes)
    opening = sum(max(cells[0].recorded[0].recorded_at.timestamp() - first.at, 0.0) for cells in lanes)
    tail = sum(last.at - cells[-1].done for cells in lanes)
    report.add("not in phases: around rounds", around / total, "", note="querying, recording, reporting")
    note = "reading pool and weights, building the model; until round 0"
    report.add("not in phases: a lane's first cell", opening / total, "", note=note)
    report.add("not in phases: between cells", between / total, "", note="done.json to round 0 of the next cell")
    report.add(
        "not in phases: end", tail / total, "", note="a lane without cells while the other works, the last event"
    )


def _others(report: Report, first: CpuSample, last: CpuSample, total: float, lanes: float) -> None:
    """Say who else used the cores meanwhile."""
    mine = last.everything - first.everything
    machine = last.machine - first.machine
    note = "driver, Ray's own processes; CPU time / (cores x span)"
    report.add("CPU of al_ray and Ray outside the lane workers", (mine - lanes) / total, "", note=note)
    others, stolen = max(machine - mine, 0.0), last.stolen - first.stolen
    report.add("CPU of everything else on the machine", others / total, "", note="not ours")
    report.add("CPU taken away by the host", stolen / total, "", note="steal")
    note = "on a shared machine the fairer figure: CPU time of the lane workers / what others did not take"
    report.add("busy share of the cores left to us", lanes / (total - others - stolen), "", note=note)


def _compute(cells: Sequence[CellTimes], began: float, ended: float) -> float:
    """Return the compute of all rounds that fell into the span; a round ends when it is recorded."""
    return sum(
        max(0.0, min(end, ended) - max(end - compute_seconds(entry), began))
        for cell in cells
        for entry in cell.recorded
        for end in (entry.recorded_at.timestamp(),)
    )


def _around(cell: CellTimes, began: float) -> float:
    """Return what a cell's rounds took besides compute, from its round 0 to its end."""
    walls = [
        (later.recorded_at - earlier.recorded_at).total_seconds() - compute_seconds(later)
        for earlier, later in pairwise(cell.recorded)
        if earlier.recorded_at.timestamp() >= began
    ]
    return sum(walls) + cell.done - cell.recorded[-1].recorded_at.timestamp()


if __name__ == "__main__":
    run_benchmark("grid", "cores kept busy by a grid", measure)
