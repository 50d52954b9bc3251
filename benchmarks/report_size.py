"""How long the report of a large study takes, and how much memory: 5,000 cells with learning curves of 21 points.

``python -m benchmarks.report_size``, or smaller with ``--cells 500 --rounds 11``. The study is made up and written into
a temporary folder first, so its files are in the disk's cache. The report is read, worked out, drawn and written in a
process of its own on 2 cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.made_study import MadeStudy
from benchmarks.report import Report, n_cores, run_benchmark

N_CELLS, N_ROUNDS = 5000, 21
N_CORES = 2
LIMIT_S, LIMIT_GIB = 60, 2
MIB, GIB = 2**20, 2**30


def measure(report: Report, n_cells: int, n_rounds: int) -> None:
    """Write the study, then report on it once."""
    with tempfile.TemporaryDirectory() as storage:
        started = time.perf_counter()
        study = MadeStudy(Path(storage), n_cells, n_rounds).write()
        made_s = time.perf_counter() - started
        found = _in_own_process(study)
    is_full = (n_cells, n_rounds) == (N_CELLS, N_ROUNDS)
    size = f"{n_cells:,} cells x {n_rounds} rounds"
    note = f"{size}, from the start of Python to the last file"
    report.add("report, wall", found["wall_s"], "s", at_most=LIMIT_S if is_full else None, note=note)
    report.add("report, CPU", found["cpu_s"], "s", note="user and system time of the same process")
    for step in ("import", "read", "work_out", "write"):
        report.add(f"of it: {step.replace('_', ' ')}", found[f"{step}_s"], "s")
    report.add("memory, peak", found["peak_gib"], "GiB", at_most=LIMIT_GIB if is_full else None, note="resident")
    report.add("page", found["page_mib"], "MiB", note="report.html")
    report.add("all files", found["files_mib"], "MiB", note=f"{found['n_files']:.0f} of them")
    report.remark(f"Making the study up took {made_s:.0f} s, which is in no figure.")
    if not is_full:
        report.remark(f"The targets hold for {N_CELLS:,} cells x {N_ROUNDS} rounds; this was a smaller study.")
    if n_cores() < N_CORES:
        report.remark(f"this machine has {n_cores()} core(s), the targets are for {N_CORES}.")
    report.details |= {"n_cells": n_cells, "n_rounds": n_rounds, "made_s": made_s, **found}


def report_on(study: Path) -> dict[str, float]:
    """Report on a study in this process; return what it took."""
    began = time.perf_counter()
    from al_ray.report.analysis import analyse
    from al_ray.report.build import FOLDER, write_report
    from al_ray.report.read import read_study

    imported = time.perf_counter()
    records = read_study(str(study))
    read = time.perf_counter()
    results = analyse(records)
    worked_out = time.perf_counter()
    folder = records.store.folder.child(FOLDER)
    files = [Path(name) for name in write_report(results, folder, made_at=datetime.now(UTC))]
    times = os.times()
    return {
        "import_s": imported - began,
        "read_s": read - imported,
        "work_out_s": worked_out - read,
        "write_s": time.perf_counter() - worked_out,
        "cpu_s": times.user + times.system,
        "peak_gib": _peak_gib(),
        "page_mib": files[0].stat().st_size / MIB,
        "files_mib": sum(file.stat().st_size for file in files) / MIB,
        "n_files": len(files),
    }


def _in_own_process(study: Path) -> dict[str, float]:
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.report_size", "--study", str(study)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=_keep_to_cores)
    return {"wall_s": time.perf_counter() - started, **json.loads(done.stdout)}


def _peak_gib() -> float:
    """Return the largest resident memory of this process so far, from Linux's ``/proc``."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024 / GIB


def _keep_to_cores() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:N_CORES])


def main() -> None:
    """Run the benchmark, or, with ``--study``, the report of it alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_size", description=__doc__)
    parser.add_argument("--cells", type=int, default=N_CELLS, help=f"cells of the study (default {N_CELLS})")
    parser.add_argument("--rounds", type=int, default=N_ROUNDS, help=f"points of a learning curve (default {N_ROUNDS})")
    parser.add_argument("--study", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.study is not None:
        print(json.dumps(report_on(asked.study)))
        return
    run_benchmark("report_size", "the report of a large study", lambda r: measure(r, asked.cells, asked.rounds))


if __name__ == "__main__":
    main()
