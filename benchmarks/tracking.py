"""What MLflow costs a study of quick cells: time a cell at 100 and 5,000 cells, and how long the list of methods takes.

``python -m benchmarks.tracking``, or other sizes with ``--cells 100 1000``. Finished cells of 20 fitted rounds, made up
as for the benchmark of reports, are told to a live tracker as a study tells them, into a SQLite file.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from al_ray.records.study import StudyStore
from al_ray.report.analysis import analyse
from al_ray.report.method_runs import method_runs
from al_ray.report.read import read_study
from al_ray.tracking.mlflow import Projection
from al_ray.tracking.tracker import Tracker
from al_ray.tracking.views import saved_views
from benchmarks.made_study import MadeStudy
from benchmarks.report import Report, run_benchmark

SIZES = (100, 5000)
N_ROUNDS = 20
CPU_MS = 80.0
GROWTH = 1.5
OPENS_S = 5.0
CLOSE_S = 3600.0


def measure(report: Report, sizes: Sequence[int]) -> None:
    """Track a study of each size and read its ranking as MLflow's page does."""
    cpu_ms = {n: _one(report, n) for n in sizes}
    growth = cpu_ms[max(sizes)] / cpu_ms[min(sizes)]
    note = f"a cell of {max(sizes):,} / a cell of {min(sizes):,}"
    report.add("cost a cell, large / small", growth, "", at_most=GROWTH, note=note)


def _one(report: Report, n_cells: int) -> float:
    with tempfile.TemporaryDirectory(prefix="al_ray_tracking_") as storage:
        root = MadeStudy(Path(storage), n_cells, N_ROUNDS).write()
        store = StudyStore.open(storage, root.name)
        address = f"sqlite:///{storage}/mlflow.db"
        projection = Projection(store, address)  # imports MLflow and makes the database, which is paid once
        cells = store.cells()
        specs = {cell.key: cell.spec() for cell in cells}
        wall, cpu = time.perf_counter(), time.process_time()
        tracker = Tracker(store, address)
        tracker.start()
        for cell in cells:
            tracker.cell_started(cell.key, specs[cell.key])
            tracker.cell_finished(cell.key, "done")
        assert tracker.close(CLOSE_S), "MLflow lacks something"
        wall_ms, cpu_ms = (1000 * spent / n_cells for spent in (time.perf_counter() - wall, time.process_time() - cpu))
        note = f"driver, its records read and three calls; wall {wall_ms:.0f} ms"
        report.add(f"{n_cells:,} cells: CPU a cell", cpu_ms, "ms", at_most=CPU_MS, note=note)
        methods = method_runs(analyse(read_study(str(root)), with_arrays=False))
        wall = time.perf_counter()
        projection.show_methods(methods)
        a_method_ms = 1000 * (time.perf_counter() - wall) / max(len(methods), 1)
        report.add(f"{n_cells:,} cells: a method", a_method_ms, "ms", note=f"wall; {len(methods)} of them")
        _read_ranking(report, n_cells, store, address)
        return cpu_ms


def _read_ranking(report: Report, n_cells: int, store: StudyStore, address: str) -> None:
    """Ask the database what the page asks when the view *Ranking* opens: the first hundred runs, best first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    (ranking,) = (view for view in saved_views(store.id(), []) if view.name == "Ranking")
    experiment = client.get_experiment_by_name(store.study).experiment_id
    order = [f"{ranking.state['orderByKey']} DESC"]
    wall = time.perf_counter()
    found = client.search_runs([experiment], str(ranking.state["searchFilter"]), max_results=100, order_by=order)
    seconds = time.perf_counter() - wall
    note = f"{len(found)} methods among {n_cells:,} cells, asked of the database as the page does"
    report.add(f"{n_cells:,} cells: list of the view Ranking", seconds, "s", at_most=OPENS_S, note=note)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=SIZES, help="sizes of the studies")
    asked = parser.parse_args()
    run_benchmark("tracking", "what MLflow costs a study", lambda report: measure(report, asked.cells))


if __name__ == "__main__":
    main()
