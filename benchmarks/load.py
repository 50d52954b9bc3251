"""What a cell costs when there are many: time and memory of a grid of 100, 300 and 1,000 cells that do next to nothing.

``python -m benchmarks.load``, or fewer with ``--cells 30 60``. Each grid runs in a process of its own through the real
lanes (Ray Tune, Ray Train worker groups, the exchange); the cells report three rounds of the size of real ones and wait
a few milliseconds. What grows with the number of cells already run would show as a slope, in seconds or in memory.
With ``--study`` the grids run as ``al-ray run`` runs them, with small real records, the live table and MLflow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from al_ray.core.seeding import stream
from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.model.worker import Worker
from al_ray.records.study import StudyStore
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.pool import CellPool, PoolSource
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, CellTask, ReportRound, RoundEnded
from benchmarks.cells import benchmark_cell
from benchmarks.processes import cpu_seconds, descendants
from benchmarks.report import Report, run_benchmark

SIZES = (100, 300, 1000)
LANES = 2
N_ROUNDS, QUERY_SIZE, N_CLASSES = 3, 25, 6
WORK_S = 0.005
COST_RATIO = 1.5
FEWEST = 6
# A trial of Ray Tune is an object with a dozen small ones, and the study keeps a spec and a state a cell: some KB. What
# must not stay are a cell's rounds (10 KB each in Python), its log or its records.
KIB_A_CELL = 20.0
KIB = 2**10
MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")
WATCHED = {"ray::ExchangeState": "exchange", "ray::RayTrainWorker": "lane workers", "gcs_server": "Ray's GCS"}


@dataclass
class GridClocks:
    """Takes the driver's clocks and memory at the end of every cell, and those of all others after each third."""

    n_cells: int
    began: float = 0.0
    ended: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    others: list[dict[str, float]] = field(default_factory=list)
    _lanes: set[int] = field(default_factory=set)
    _roles: dict[int, str] = field(default_factory=dict)

    def __call__(self, event: CellEvent) -> None:
        """Take in one event."""
        if isinstance(event, CellFailed):
            raise RuntimeError(f"cell {event.key} failed: {event.failure.message}")
        if isinstance(event, CellStarted) and event.where["pid"] not in self._lanes:
            self._lanes.add(event.where["pid"])
            self.began = time.perf_counter()
        if isinstance(event, CellFinished):
            self.ended.append(time.perf_counter())
            self.rss.append(resident(os.getpid()))
            self.cpu.append(time.process_time())
            if len(self.ended) in self._thirds_end():
                self.others.append(state_of_others(self._roles))

    def result(self) -> dict[str, Any]:
        """Return the figures: seconds and CPU seconds a cell, memory in bytes."""
        after = [at for at in range(len(self.ended)) if self.ended[at] > self.began]
        came_late = len(after) < FEWEST
        if came_late:
            after = list(range(len(self.ended)))
        first, last = thirds(after)
        cpu = [self.cpu[at - 1] + other["cpu_s"] for at, other in zip(self._thirds_end(), self.others, strict=True)]
        sizes = [later - earlier for earlier, later in pairwise(self._thirds_end())]
        return {
            "n_cells": self.n_cells,
            "came_late": came_late,
            "cell_s": self._pace(self.ended, after),
            "cell_first_s": self._pace(self.ended, first),
            "cell_last_s": self._pace(self.ended, last),
            "cpu_first_s": self._pace(self.cpu, first),
            "cpu_last_s": self._pace(self.cpu, last),
            "rss": [fmean(self.rss[at] for at in part[-10:]) for part in (first, after[: 2 * len(after) // 3], last)],
            "cpu_all_s": [(b - a) / n for (a, b), n in zip(pairwise(cpu), sizes, strict=True)],
            "rss_slope": slope([self.rss[at] for at in after[len(after) // 3 :]]),
            "others": self.others,
        }

    def _thirds_end(self) -> list[int]:
        # With fewer cells than lanes left the first lane leaves, and its memory and CPU time with it.
        return [self.n_cells // 3, 2 * self.n_cells // 3, self.n_cells - LANES]

    def _pace(self, clock: Sequence[float], cells: Sequence[int]) -> float:
        return (clock[cells[-1]] - clock[cells[0]]) / max(len(cells) - 1, 1)


def stub_cell(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Report three made-up rounds with as many metrics as real ones; write records where the task names a storage."""
    store = None
    if task.storage:
        store = StudyStore.open(task.storage, task.study).cell_folder(task.slug, task.fingerprint)
        store.begin(task.spec, task.provenance)
    for index in range(N_ROUNDS):
        time.sleep(WORK_S)
        record = made_round(index)
        if store is not None:
            store.append(record)
        report(RoundEnded(task.key, index, record.n_labeled, record.metrics))
    if store is not None:
        store.finish({"n_rounds": N_ROUNDS})


def made_round(index: int) -> RoundRecord:
    """Return a round with answers, beliefs and metrics of the usual number."""
    import numpy as np

    draws = stream(0, "load", index)
    ids = np.arange(index * QUERY_SIZE, (index + 1) * QUERY_SIZE)
    probs = draws.dirichlet(np.ones(N_CLASSES), size=QUERY_SIZE)
    return RoundRecord(
        round_index=index,
        n_labeled=index * QUERY_SIZE,
        query=Query(ids=ids, scores=draws.random(QUERY_SIZE), probs=probs if index else None),
        annotation=Annotation(ids=ids, labels=ids % N_CLASSES, abstained=np.zeros(QUERY_SIZE, dtype=np.bool_)),
        metrics={f"metric_{n}": float(n) for n in range(20)} | {"accuracy": 0.5} if index else {},
        seconds={"finetune": 0.1, "score": 0.1},
        stop_reason="all rounds done" if index == N_ROUNDS - 1 else None,
    )


def tokenize(table: pa.Table) -> pa.Table:
    """Give every text one token."""
    return table.append_column("input_ids", pa.array([[1]] * table.num_rows, pa.list_(pa.int32())))


def run_grid_alone(n_cells: int) -> dict[str, Any]:
    """Run a grid of stub cells without records in this process."""
    from al_ray.runtime.driver import run_grid

    watch = GridClocks(n_cells)
    table = pa.table({"id": range(10), "label": [0] * 10, "text": ["text"] * 10})
    spec = {f"field_{n}": n for n in range(40)}
    run_grid(
        cells=[benchmark_cell(f"cell-{n}", "pool", dict(spec), N_CLASSES) for n in range(n_cells)],
        pools={"pool": PoolSource(tables={"pool": table, "test": table}, tokenize=tokenize)},
        run_cell=stub_cell,
        resources=LaneResources(lanes=LANES),
        on_event=watch,
    )
    return watch.result()


def run_as_study(n_cells: int) -> dict[str, Any]:
    """Run a study of stub cells as ``al-ray run`` does: records, the live table, MLflow's thread."""
    from al_ray.study import run as study_module
    from al_ray.study.file import load_study, set_options
    from al_ray.study.plan import plan_study
    from al_ray.terminal import Progress, make_console

    study_module.run_cell = stub_cell  # type: ignore[attr-defined]
    watch = GridClocks(n_cells)
    grid = [{"dataset": "tickets", "strategy": "margin", "seed": {"range": [0, n_cells]}}]
    with tempfile.TemporaryDirectory(prefix="al_ray_load_") as storage:
        study = load_study({"study": "load", "grid": grid})
        plan = plan_study(study, storage)
        execution = set_options(study.execution, [f"storage={storage}", f"lanes={LANES}"])
        progress = Progress(make_console(), {cell.key: [1.0] * N_ROUNDS for cell in plan.cells}, n_before=0)
        ended = time.perf_counter()

        def listen(event: CellEvent) -> None:
            nonlocal ended
            progress(event)
            watch(event)
            ended = time.perf_counter()

        with progress:
            study_module.run_study(plan, execution, local=False, listener=listen)
        return watch.result() | {"after_last_s": time.perf_counter() - ended}


def resident(pid: int) -> float:
    """Return the resident memory of a process in bytes; 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0.0


def state_of_others(roles: dict[int, str]) -> dict[str, float]:
    """Return the resident memory of the processes that this one started, by what they are, and their CPU time.

    Args:
        roles: what is known of processes by their titles, which Ray changes with every call; is added to.

    Returns:
        also ``scratch_files`` and ``scratch_bytes``: what the run keeps in its folder for temporary files.
    """
    pids = descendants(os.getpid())
    roles |= {pid: role for pid in pids if (role := _role(pid))}
    found = {"cpu_s": sum(map(cpu_seconds, pids))}
    for pid in pids:
        name = roles.get(pid, "other")
        found[name] = found.get(name, 0.0) + resident(pid)
    folders = Path(tempfile.gettempdir()).glob(f"al_ray_*_{os.getpid()}_*")
    scratch = [path for folder in folders for path in _below(folder)]
    return found | {"scratch_files": len(scratch), "scratch_bytes": float(sum(map(_size, scratch)))}


def _below(folder: Path) -> list[Path]:
    return [Path(above) / name for above, folders, files in os.walk(folder) for name in (*folders, *files)]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _role(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return None
    return next((role for start, role in WATCHED.items() if start in words[:120]), None)


def thirds(cells: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Return the first and the last third."""
    n = max(len(cells) // 3, 2)
    return cells[:n], cells[-n:]


def slope(values: Sequence[float]) -> float:
    """Return how much values grow from one to the next, by least squares."""
    import numpy as np

    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def measure(report: Report, sizes: Sequence[int], as_study: bool) -> None:
    """Run each grid in a process of its own and compare the largest with the smallest."""
    found = {n: _in_own_process(n, as_study) for n in sizes}
    for n, one in found.items():
        _report_one(report, n, one)
    small, large = found[min(sizes)], found[max(sizes)]
    _report_others(report, max(sizes), large)
    is_full = (min(sizes), max(sizes)) == (min(SIZES), max(SIZES))
    note = f"a cell of {large['n_cells']:,} / a cell of {small['n_cells']:,}"
    report.add("cost a cell, large / small", large["cell_s"] / small["cell_s"], "",
               at_most=COST_RATIO if is_full else None, note=note)  # fmt: skip
    first, last = large["cell_first_s"], large["cell_last_s"]
    report.add("cost a cell, last / first third", last / first, "", at_most=COST_RATIO if is_full else None,
               note=f"of {large['n_cells']:,} cells")  # fmt: skip
    report.add("driver's memory a cell", large["rss_slope"] / KIB, "KiB", at_most=KIB_A_CELL if is_full else None,
               note=f"growth over the last two thirds of {large['n_cells']:,} cells, by least squares")  # fmt: skip
    for n, one in found.items():
        if one["came_late"]:
            report.remark(f"Of {n:,} cells fewer than {FEWEST} were left when the last lane came, so all are counted.")
    if as_study:
        report.remark("As a study: with records, the live table and MLflow in a SQLite file.")
    report.details |= {str(n): one for n, one in found.items()}


def _report_one(report: Report, n: int, one: dict[str, Any]) -> None:
    first, last = 1000 * one["cell_first_s"], 1000 * one["cell_last_s"]
    note = f"end to end on {LANES} lanes; first third {first:.0f} ms, last third {last:.0f} ms"
    report.add(f"{n:,} cells: wall a cell", 1000 * one["cell_s"], "ms", note=note)
    first, last = 1000 * one["cpu_first_s"], 1000 * one["cpu_last_s"]
    report.add(f"{n:,} cells: CPU of the driver a cell", last, "ms", note=f"last third; first third {first:.1f} ms")
    sizes = ", ".join(f"{size / MIB:.0f}" for size in one["rss"])
    report.add(f"{n:,} cells: driver", one["rss"][-1] / MIB, "MiB", note=f"resident after each third: {sizes}")
    second, third = (1000 * each for each in one["cpu_all_s"])
    note = f"driver, lanes and all of Ray; last third, second third {second:.0f} ms"
    report.add(f"{n:,} cells: CPU of everything a cell", third, "ms", note=note)
    if "after_last_s" in one:
        report.add(f"{n:,} cells: after the last", one["after_last_s"], "s", note="lanes end, MLflow catches up")


def _report_others(report: Report, n: int, one: dict[str, Any]) -> None:
    begin, end = one["others"][0], one["others"][-1]
    for role in WATCHED.values():
        grown = (end.get(role, 0.0) - begin.get(role, 0.0)) / MIB
        report.add(
            f"{n:,} cells: {role}", end.get(role, 0.0) / MIB, "MiB", note=f"{grown:+.1f} MiB since the first third"
        )
    grown = (end["scratch_bytes"] - begin["scratch_bytes"]) / KIB / (n - n // 3)
    note = f"{end['scratch_files']:,.0f} files and folders; {grown:.1f} KiB a cell"
    report.add(f"{n:,} cells: temporary files", end["scratch_bytes"] / MIB, "MiB", note=note)


def _in_own_process(n_cells: int, as_study: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.load", "--grid", str(n_cells), *(["--study"] if as_study else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Run the benchmark, or, with ``--grid``, one grid alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=SIZES, help="sizes of the grids")
    parser.add_argument("--study", action="store_true", help="with records, the live table and MLflow")
    parser.add_argument("--grid", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.grid is not None:
        with redirect_stdout(sys.stderr):
            found = (run_as_study if asked.study else run_grid_alone)(asked.grid)
        print(json.dumps(found))
        return
    run_benchmark("load", "a grid of many cells", lambda report: measure(report, asked.cells, asked.study))


if __name__ == "__main__":
    main()
