"""What lies around a cell of a second: frozen 21-round cells of TREC-6 on two lanes, beside the same cells alone.

``python -m benchmarks.quick_cells``, or more with ``--cells 250 1000``. The same kind of cell runs one after the other
in this process without Ray (``--local``), then in grids of two sizes on two lanes. Busy is what the cells of a grid
take alone, on as many cores as there are lanes, against what the grid took, the start of both left out. With ``--made``
the cells compute nothing: they use up CPU time and write records of the real size, so that no model is needed.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from al_ray.core.seeding import stream
from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.model.worker import Worker
from al_ray.runtime.tasks import CellFinished, CellStarted, CellTask, ReportRound
from benchmarks.inputs import minilm, trec6
from benchmarks.processes import cpu_seconds, descendants, kind_of, machine_cpu_seconds
from benchmarks.report import Report, n_cores, run_benchmark
from benchmarks.timed_study import CellTimes, TimedEvent, TimedStudy, lane_of, timed_study

LANES = 2
SIZES = (60, 240)
N_ALONE, N_FIRST, N_LAST = 24, 4, 8
N_QUERIES, QUERY_SIZE, N_TEST, N_CLASSES = 20, 25, 500, 6
MADE_ROUND_S = 0.035
BUSY, GROWTH, AROUND_MS = 0.85, 1.5, 150.0


def study_of(n_cells: int) -> dict[str, Any]:
    """Return a study of so many cells that differ in their seeds."""
    defaults = {
        "dataset": "trec6",
        "model": "minilm",
        "precision": "float32",
        "rounds": N_QUERIES,
        "query_size": QUERY_SIZE,
        "initial_size": QUERY_SIZE,
        "finetune": {"frozen_layers": "all"},
    }
    return {
        "study": "quick-cells",
        "defaults": defaults,
        "grid": [{"strategy": "margin", "seed": {"range": [0, n_cells]}}],
    }


@dataclass(frozen=True)
class Clocks:
    """A moment: wall time, the CPU time of al_ray and Ray so far, by process kind, and of the machine; in seconds."""

    at: float
    cpu: float
    machine: float
    stolen: float
    by_kind: Mapping[str, float]

    @classmethod
    def now(cls, seen: dict[int, tuple[str, float]]) -> "Clocks":
        """Read the clocks; CPU times are those of this process and all that it started.

        Args:
            seen: kind and CPU time of each process when it was last looked at, and so those of the dead; is added to.
        """
        machine, stolen = machine_cpu_seconds()
        here, by_kind = os.getpid(), dict[str, float]()
        for pid in (here, *descendants(here)):
            if cpu_s := cpu_seconds(pid):
                seen[pid] = "this process" if pid == here else kind_of(pid), cpu_s
        for kind, cpu_s in seen.values():
            by_kind[kind] = by_kind.get(kind, 0.0) + cpu_s
        return cls(time.time(), sum(by_kind.values()), machine, stolen, by_kind)


@dataclass(frozen=True)
class Stretch:
    """A part of a run: how many cells were computed in it (a part of one counts as such), and the clocks around it."""

    n_cells: float
    begin: Clocks
    end: Clocks

    @property
    def wall_s(self) -> float:
        """Its length."""
        return self.end.at - self.begin.at

    @property
    def cpu_s(self) -> float:
        """CPU time of al_ray and Ray in it."""
        return self.end.cpu - self.begin.cpu

    def cpu_by_kind(self) -> dict[str, float]:
        """Return the CPU time of each kind of process in it, the most first."""
        spent = {kind: self.end.by_kind[kind] - self.begin.by_kind.get(kind, 0.0) for kind in self.end.by_kind}
        return dict(sorted(spent.items(), key=lambda pair: -pair[1]))

    @property
    def others_s(self) -> float:
        """CPU time that other programs and the host took meanwhile."""
        machine = self.end.machine - self.begin.machine
        return max(machine - self.cpu_s, 0.0) + self.end.stolen - self.begin.stolen


@dataclass
class Watch:
    """Reads the clocks when every lane has ended a few cells, and at the end of each of the last cells.

    A lane for which no cell is left is ended before the other lanes are done.
    """

    n_cells: int
    n_lanes: int
    n_first: int
    clocks: list[Clocks] = field(default_factory=list)
    _cpu_seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    _lane_of: dict[str, Any] = field(default_factory=dict)
    _n_ended: dict[Any, int] = field(default_factory=dict)

    def __call__(self, timed: TimedEvent) -> None:
        """Take in one event."""
        event = timed.event
        if isinstance(event, CellStarted):
            self._lane_of[event.key] = lane_of(event)
        if isinstance(event, CellFinished):
            lane = self._lane_of[event.key]
            self._n_ended[lane] = self._n_ended.get(lane, 0) + 1
            are_warm = len(self._n_ended) == self.n_lanes and min(self._n_ended.values()) >= self.n_first
            is_near_the_end = self.n_cells - sum(self._n_ended.values()) < N_LAST
            if are_warm and (not self.clocks or is_near_the_end):
                self.clocks.append(Clocks.now(self._cpu_seen))

    def stretch(self, study: TimedStudy) -> Stretch:
        """Return what was between the first look at the clocks and the last.

        Raises:
            RuntimeError: the grid was over before all lanes were there.
        """
        if len(self.clocks) < 2:
            raise RuntimeError(f"{self.n_cells} cells were over before {self.n_lanes} lanes were warm: take more")
        begin, end = self.clocks[0], self.clocks[-1]
        return Stretch(sum(computed_within(cells, begin.at, end.at) for cells in lanes_of(study)), begin, end)


def lanes_of(study: TimedStudy) -> list[list[CellTimes]]:
    """Return the cells of every lane in the order in which it ran them."""
    return [sorted(cells, key=lambda cell: cell.done) for cells in study.lanes().values()]


def computed_within(cells: Sequence[CellTimes], begin: float, end: float) -> float:
    """Return how many cells of a lane were computed within a time, by the ends that they recorded."""
    return sum(
        max(min(cell.done, end) - max(before.done, begin), 0.0) / (cell.done - before.done)
        for before, cell in pairwise(cells)
    )


def made_cell(task: CellTask, pool: Any, worker: Worker, report: ReportRound) -> Any:
    """Use up CPU time and record rounds of the real size."""
    return record_made_cell(task, worker, report, MADE_ROUND_S)


def record_made_cell(task: CellTask, worker: Worker, report: ReportRound, round_s: float) -> Any:
    """Record made-up rounds as a cell does, each after so many seconds of CPU time."""
    from al_ray.study.cell import open_records, summarize

    records = open_records(task, worker, report)
    rounds = records.rounds()
    with records:
        for index in range(len(rounds), N_QUERIES + 2):
            spent = time.thread_time() + round_s
            while time.thread_time() < spent:
                sum(range(1000))
            rounds.append(made_round(task.spec["seed"], index))
            records.append(rounds[-1], made_arrays(task.spec["seed"], index))
        records.finish(summarize(rounds))
    return records.held()


def made_round(seed: int, index: int) -> RoundRecord:
    """Return a round with answers, beliefs and metrics of the usual number."""
    draws = stream(seed, "quick cells", index)
    is_last = index == N_QUERIES + 1
    ids = np.arange(index * QUERY_SIZE, (index + (not is_last)) * QUERY_SIZE)
    probs = draws.dirichlet(np.ones(N_CLASSES), size=len(ids)) if index else None
    return RoundRecord(
        round_index=index,
        n_labeled=index * QUERY_SIZE,
        query=Query(ids=ids, scores=draws.random(len(ids)), probs=probs),
        annotation=Annotation(ids=ids, labels=ids % N_CLASSES, abstained=np.zeros(len(ids), dtype=np.bool_)),
        metrics={"accuracy": 0.5, **{f"metric_{n}": draws.random() for n in range(20)}} if index else {},
        seconds={"finetune": 0.01, "evaluate": 0.01, "score": 0.01} if index else {},
        stop_reason=f"all {N_QUERIES} rounds done" if is_last else None,
    )


def made_arrays(seed: int, index: int) -> dict[str, dict[str, Any]]:
    """Return the predictions of a test split, of the real size."""
    if not index:
        return {}
    log_probs = np.log(stream(seed, "quick cells", index, "test").dirichlet(np.ones(N_CLASSES), size=N_TEST))
    ids = np.arange(N_TEST)
    return {"test": {"id": ids, "label": ids % N_CLASSES, "log_probs": log_probs.astype(np.float32)}}


def measure(report: Report, sizes: Sequence[int], is_made: bool) -> None:
    """Run the cells alone, then the grids, and compare."""
    trec6()
    minilm()
    if is_made:
        from al_ray.study import run as study_module

        study_module.run_cell = made_cell  # type: ignore[attr-defined]
    alone, gap_s = _run(N_ALONE, None)
    grids = {n: _run(n, LANES) for n in sizes}
    cell_s, cell_cpu_s = alone.wall_s / alone.n_cells, alone.cpu_s / alone.n_cells
    note = f"{1000 * cell_cpu_s:.0f} ms of CPU; between cells, last round to first round {1000 * gap_s:.0f} ms"
    report.add("a cell alone, without Ray", 1000 * cell_s, "ms", note=note)
    around = {}
    for n, (grid, gap_s) in grids.items():
        _report_grid(report, n, grid, gap_s, cell_s, is_largest=n == max(sizes))
        around[n] = 1000 * (grid.cpu_s / grid.n_cells - cell_cpu_s)
        note = "CPU of everything a cell - CPU of a cell alone: hand-over, events, driver, all of Ray"
        report.add(f"{n:,} cells: around a cell", around[n], "ms", at_most=AROUND_MS, note=note)
        spent = [f"{kind} {1000 * cpu_s / grid.n_cells:.0f}" for kind, cpu_s in grid.cpu_by_kind().items()]
        report.remark(f"{n:,} cells, CPU ms a cell by process: {', '.join(spent[:8])}.")
    small, large = around[min(sizes)], around[max(sizes)]
    note = f"around a cell of {max(sizes):,} / of {min(sizes):,}; 1 is constant"
    report.add("around a cell, large / small", large / small, "", at_most=GROWTH, note=note)
    if is_made:
        report.remark("Made cells: CPU time used up, and records of the real size.")
    report.details |= {"alone": asdict(alone), **{str(n): asdict(grid) for n, (grid, _) in grids.items()}}


def _run(n_cells: int, lanes: int | None) -> tuple[Stretch, float]:
    """Run cells; return the stretch without the start, and the median time between two cells of a lane in seconds."""
    watch = Watch(n_cells, lanes or 1, N_FIRST)
    with timed_study(study_of(n_cells), lanes, watch) as study:
        gaps = [
            later.recorded[0].recorded_at.timestamp() - earlier.recorded[-1].recorded_at.timestamp()
            for cells in lanes_of(study)
            for earlier, later in pairwise(cells)
        ]
        return watch.stretch(study), median(gaps)


def _report_grid(report: Report, n: int, grid: Stretch, gap_s: float, cell_s: float, *, is_largest: bool) -> None:
    cores = min(LANES, n_cores())
    alone_s, total_s = cell_s * grid.n_cells, cores * grid.wall_s
    target = BUSY if is_largest else None
    note = f"a cell alone x {grid.n_cells:.0f} / ({cores} cores x {grid.wall_s:.0f} s); start left out"
    report.add(f"{n:,} cells: busy", alone_s / total_s, "", at_least=target, note=note)
    note = f"the same on a shared machine / what others did not take; they took {grid.others_s / total_s:.0%}"
    report.add(f"{n:,} cells: busy share of the cores left to us", alone_s / (total_s - grid.others_s), "", note=note)
    note = "median over both lanes; last round of a cell to the first round of the next"
    report.add(f"{n:,} cells: between cells", 1000 * gap_s, "ms", note=note)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick_cells", description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=SIZES, help="sizes of the grids")
    parser.add_argument("--made", action="store_true", help="cells that use up CPU time instead of learning")
    asked = parser.parse_args()
    run_benchmark("quick_cells", "cells of a second", lambda report: measure(report, asked.cells, asked.made))


if __name__ == "__main__":
    main()
