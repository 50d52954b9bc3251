"""``al-ray report``: what the records say, as one page and as tables."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from al_ray.report.analysis.results import StudyResults
    from al_ray.report.read import StudyRecords
    from al_ray.storage.folder import Folder

from al_ray.api import find_study
from al_ray.cli.run import user_errors
from al_ray.errors import without_secrets
from al_ray.storage.address import below, check_address, shown
from al_ray.terminal import make_console, print_mlflow, print_verdict
from al_ray.tracking.mlflow import log_report
from al_ray.tracking.mlflow_address import tracking_address

PROJECT = "project.yaml"


def report(
    study: Annotated[str, typer.Argument(help="Study file, name or folder of a study.", metavar="STUDY")],
    storage: Annotated[str | None, typer.Option("--storage", help="Folder or URI of the records.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder or URI for the page and its tables.")] = None,
    tracking: Annotated[
        str | None, typer.Option("--tracking", help="MLflow address to log them to; 'off' for none.")
    ] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Leave cells with damaged records out, and say so on the page.")
    ] = False,
) -> None:
    """Write the verdict on a study, at any time: one HTML page, and the same numbers as CSV and Parquet."""
    from al_ray.report.analysis import analyse
    from al_ray.report.build import FOLDER, write_report
    from al_ray.report.method_runs import method_runs
    from al_ray.report.read import read_study
    from al_ray.storage.folder import Folder

    console = make_console()
    with user_errors(console):
        found = find_study(study, storage)
        if out is not None:
            check_address("--out", out)
        address = tracking_address(found.execution.tracking if tracking is None else tracking, found.storage)
        records = read_study(found.address, skip_damaged=skip_damaged)
        results = analyse(records, description=found.description)
        folder = records.store.folder.child(FOLDER) if out is None else Folder.open(out)
        written = write_report(results, folder, made_at=datetime.now(UTC))
        print_verdict(console, results)
        project = write_project(records, results, folder)
        console.print(f"page: {without_secrets(written[0])}", soft_wrap=True, highlight=False)
        console.print(f"tables: {len(written) - 1} files beside it", soft_wrap=True, highlight=False)
        if address is not None:
            logged = [*written, *([] if project is None else [project])]
            log_report(records.store, address, logged, method_runs(results))
            console.print(f"logged to MLflow: {without_secrets(address)}", soft_wrap=True, highlight=False)
            print_mlflow(console, records.store, address)
        if project is not None:
            console.print(f"use this on your unlabelled pool: {shown(project)}", soft_wrap=True, highlight=False)


def write_project(records: "StudyRecords", results: "StudyResults", folder: "Folder") -> str | None:
    """Write the project file of the method that comes first, for a pool without labels.

    Args:
        records: of the study.
        results: their analysis.
        folder: of the report.

    Returns:
        its location, which opens the file again and may hold a key; None where no method is ranked.

    Raises:
        StorageError: the folder cannot be written.
    """
    from al_ray.project.draft import draft_project, settings_of_cell
    from al_ray.report.verdict import make_verdict
    from al_ray.study.spec import read_spec

    verdict = make_verdict(results)
    of_method = results.cells[(results.cells["method"] == verdict.method) & (results.cells["status"] == "done")]
    if verdict.method is None or of_method.empty:
        return None
    first = of_method.index[0]
    spec = read_spec(records.cell_store(int(first)).spec())
    classes = tuple(records.datasets.get(str(of_method.at[first, "dataset"]), {}).get("class_names", ()))
    data = {"path": "your_texts.csv", "text": "text"}
    where = below(folder.location, PROJECT)
    about = f"{verdict.headline} Name your texts and your classes here."
    written = draft_project(f"{results.study}-labels", data, classes, settings_of_cell(spec), shown(where), about)
    folder.write(PROJECT, written.encode(), f"the project file of study {results.study}")
    return where
