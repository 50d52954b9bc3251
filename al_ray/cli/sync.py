"""``al-ray sync``: rebuild every MLflow run of a study from its records."""

from typing import Annotated

import typer

from al_ray.api import find_study
from al_ray.cli.run import user_errors
from al_ray.errors import AlRayError, ExecutionError, without_secrets
from al_ray.records.study import open_study
from al_ray.study.file import MOST_TRACKED, TrackedCells, tracks_cells
from al_ray.terminal import make_console, methods_alone, print_mlflow
from al_ray.tracking.mlflow import MethodRun, Projection, sync
from al_ray.tracking.mlflow_address import tracking_address


def sync_mlflow(
    study: Annotated[str, typer.Argument(help="Study file, name or folder of a study.", metavar="STUDY")],
    storage: Annotated[str | None, typer.Option("--storage", help="Folder or URI of the records.")] = None,
    tracking: Annotated[str | None, typer.Option("--tracking", help="MLflow address to fill.")] = None,
    cells: Annotated[
        TrackedCells | None,
        typer.Option("--cells", help=f"A run for each cell: all, none, or auto: of up to {MOST_TRACKED:,} cells."),
    ] = None,
) -> None:
    """Bring MLflow up to the records: what is missing is logged, what is there stays, nothing is doubled."""
    from al_ray.report.analysis import analyse
    from al_ray.report.method_runs import method_runs
    from al_ray.report.read import read_study

    console = make_console()
    with user_errors(console):
        found = find_study(study, storage)
        address = tracking_address(found.execution.tracking if tracking is None else tracking, found.storage)
        if address is None:
            raise ExecutionError(
                "no MLflow address: tracking is off, or the records are not on a disk, where MLflow would have a file. "
                "Give --tracking http://HOST:PORT, or --tracking sqlite:////FOLDER/mlflow.db."
            )
        store = open_study(found.address)
        methods: list[MethodRun] | None = None
        try:
            methods = method_runs(analyse(read_study(found.address), with_arrays=False))
        except AlRayError as error:  # cells can be shown without a word of what they mean
            sentence = f"the methods are left as MLflow has them, since they cannot be worked out: {error}"
            console.print(without_secrets(sentence), style="yellow", soft_wrap=True, highlight=False)
        plan, wanted = store.plan(), found.execution.tracked_cells if cells is None else cells
        # As many as a run counts, of which all may not be recorded yet.
        n_cells = max(len(store.recorded_keys()), 0 if plan is None else len(plan["cells"]))
        tracks = tracks_cells(wanted, n_cells)
        projection = sync(store, address, methods, tracks_cells=tracks)
        said_of_cells = said(projection) if tracks else methods_alone(n_cells, wanted)
        console.print(f"{without_secrets(address)}: {said_of_cells}", soft_wrap=True, highlight=False)
        print_mlflow(console, store, address)


def said(found: Projection) -> str:
    """Say what a synchronisation found and did."""
    cells, runs, points = _n(found.n_cells, "cell"), _n(found.n_runs, "run"), _n(found.n_points, "metric point")
    doubled = f", {_n(len(found.duplicates), 'run')} that stood there twice deleted" if found.duplicates else ""
    return f"{cells} recorded, {found.n_complete} of them complete there already; {runs} made, {points} added{doubled}."


def _n(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
