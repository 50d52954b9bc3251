"""Studies of 1,000, 10,000 and 100,000 quick cells: what planning, running, records, watching and the report cost.

``python -m benchmarks.grid_size``, or smaller with ``--cells 200 1000``. Plans are made of every size and of 100,000
cells. Cells are run that compute nothing and record 22 rounds of the real size, on two lanes. Watching and the report
are those of studies made up for it, 50 methods on ten pairs of data set and model. What is said of 100,000 cells beyond
the plan is extrapolated, along the line through the two sizes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from al_ray.model.worker import Worker
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, CellTask, ReportRound
from al_ray.study.file import load_study, set_options
from al_ray.study.plan import plan_study
from al_ray.study.run import run_study
from benchmarks.inputs import minilm
from benchmarks.made_study import MadeStudy
from benchmarks.quick_cells import Clocks, record_made_cell
from benchmarks.report import Report, run_benchmark

SIZES, LARGE = (1000, 10_000), 100_000
LANES, N_ROUNDS, PART_SIZE, N_METHODS, N_SETTINGS = 2, 20, 10, 50, 10
PLAN_S, PLAN_GIB = 60, 1
REPORT_S, REPORT_GIB = 300, 2
GROWTH = 1.1
MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Cost:
    """What a program took: seconds from its start to its end, of processors, and the most memory, in GiB."""

    wall_s: float
    cpu_s: float
    peak_gib: float

    def at(self, n: int, n_here: int, smaller: "Cost", n_smaller: int) -> "Cost":
        """Return what it takes for ``n`` cells, on the line through two measurements."""

        def line(name: str) -> float:
            here, before = getattr(self, name), getattr(smaller, name)
            return float(here + (here - before) / (n_here - n_smaller) * (n - n_here))

        return Cost(line("wall_s"), line("cpu_s"), line("peak_gib"))

    def __str__(self) -> str:
        return f"{self.cpu_s:.1f} s of CPU, {self.peak_gib:.2f} GiB"


def measure(report: Report, sizes: Sequence[int]) -> None:
    """Plan, run, watch and report on studies of two sizes."""
    minilm()
    _plans(report, sizes)
    _runs(report, sizes)
    _reports(report, sizes)


def study_of(n_cells: int) -> dict[str, Any]:
    """Return a study of so many frozen cells: four strategies, and as many seeds as it takes."""
    defaults = {
        "dataset": {"name": "tickets", "n_train": 2000, "n_test": 500},
        "model": "minilm",
        "rounds": N_ROUNDS,
        "finetune": {"frozen_layers": "all"},
    }
    strategies = ["margin", "entropy", "least_confidence", "random"]
    grid = [{"seed": {"range": [0, n_cells // len(strategies)]}, "strategy": strategies}]
    return {"study": f"grid-{n_cells}", "defaults": defaults, "grid": grid}


def cost_of(command: Sequence[str]) -> Cost:
    """Run a command and return what it took.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / GIB)


def _al_ray(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "al_ray", *arguments]


def _plans(report: Report, sizes: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory(prefix="al_ray_grid_size_") as folder:
        for n in sorted({*sizes, LARGE}):
            file = Path(folder, f"{n}.yaml")
            file.write_text(yaml.safe_dump(study_of(n)), encoding="utf-8")
            cost = cost_of(_al_ray("run", str(file), "--plan", "--storage", folder))
            note = f"al-ray run --plan, from the start of Python; {cost}"
            report.add(f"plan of {n:,} cells", cost.wall_s, "s", at_most=PLAN_S if n == LARGE else None, note=note)
            if n == LARGE:
                report.add(f"plan of {n:,} cells, memory", cost.peak_gib, "GiB", at_most=PLAN_GIB)


def made_cell(task: CellTask, pool: Any, worker: Worker, report: ReportRound) -> Any:
    """Record rounds of the real size at once."""
    return record_made_cell(task, worker, report, 0.0)


def _runs(report: Report, sizes: Sequence[int]) -> None:
    from al_ray.study import run as study_module

    study_module.run_cell = made_cell  # type: ignore[attr-defined]
    cpu_ms = {}
    for n in sizes:
        storage = tempfile.mkdtemp(prefix="al_ray_grid_size_")
        try:
            begin, end, n_events = _run(n, storage)
            cpu_ms[n], wall_ms = (1000 * spent / n for spent in (end.cpu - begin.cpu, end.at - begin.at))
            note = (
                f"all of al_ray and Ray; records of 22 rounds and no computing; wall {wall_ms:.0f} ms on {LANES} lanes"
            )
            report.add(f"{n:,} cells: CPU a cell", cpu_ms[n], "ms", note=note)
            files = [path for path in Path(storage).rglob("*") if path.is_file()]
            n_bytes = sum(path.stat().st_size for path in files)
            report.add(f"{n:,} cells: files", len(files), "", note=f"{n_bytes / n / 1024:.0f} KiB a cell")
            report.details |= {f"run of {n}": {"n_events": n_events, "n_bytes": n_bytes, "n_files": len(files)}}
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    small, large = min(sizes), max(sizes)
    note = f"CPU a cell of {large:,} / of {small:,}; 1 is constant"
    report.add("a cell, large / small", cpu_ms[large] / cpu_ms[small], "", at_most=GROWTH, note=note)


def _run(n_cells: int, storage: str) -> tuple[Clocks, Clocks, int]:
    """Run a study; return the clocks when every lane had begun, when all cells had ended, and how much was told."""
    study = load_study(study_of(n_cells))
    execution = set_options(study.execution, [f"storage={storage}", f"lanes={LANES}", "tracking=off"])
    lanes, seen, clocks, told = set[Any](), dict[int, tuple[str, float]](), list[Clocks](), [0, 0]

    def listen(event: CellEvent) -> None:
        told[0] += 1
        if isinstance(event, CellFailed):
            raise RuntimeError(f"cell {event.key} failed: {event.failure}")
        if isinstance(event, CellStarted) and len(lanes) < LANES:
            lanes.add(event.where["pid"])
            if len(lanes) == LANES:
                clocks.append(Clocks.now(seen))
        if isinstance(event, CellFinished):
            told[1] += 1
            if told[1] == n_cells:
                clocks.append(Clocks.now(seen))

    run_study(plan_study(study, storage), execution, local=False, listener=listen)
    if len(clocks) < 2:
        raise RuntimeError(f"{n_cells} cells were over before {LANES} lanes were there: take more")
    return clocks[0], clocks[-1], told[0]


def _reports(report: Report, sizes: Sequence[int]) -> None:
    commands: dict[str, Callable[[str], list[str]]] = {
        "watch": lambda study: _al_ray("watch", "--once", study),
        "report": lambda study: _al_ray("report", study, "--tracking", "off"),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for n in sizes:
        with tempfile.TemporaryDirectory(prefix="al_ray_grid_size_") as storage:
            n_seeds = max(n // (N_METHODS * N_SETTINGS), 1)
            study = MadeStudy(Path(storage), n, N_ROUNDS, n_seeds=n_seeds, part_size=PART_SIZE).write()
            for name, command in commands.items():
                costs[name].append(cost_of(command(str(study))))
                report.add(f"{name} of {n:,} cells", costs[name][-1].wall_s, "s", note=str(costs[name][-1]))
    (small, large), named = (min(sizes), max(sizes)), f"{LARGE:,} cells, extrapolated"
    for name, (first, second) in costs.items():
        much = second.at(LARGE, large, first, small)
        targets = {"at_most": REPORT_S} if name == "report" else {}
        # Of two wall times on a shared machine the line may even fall.
        report.add(f"{name} of {named}: CPU", much.cpu_s, "s", note="the wall time is no less", **targets)
        if name == "report":
            report.add(f"{name} of {named}: memory", much.peak_gib, "GiB", at_most=REPORT_GIB)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid_size", description=__doc__)
    parser.add_argument("--cells", type=int, nargs=2, default=SIZES, help="the two sizes, the smaller first")
    asked = parser.parse_args()
    run_benchmark("grid_size", "grids of quick cells", lambda report: measure(report, asked.cells))


if __name__ == "__main__":
    main()
