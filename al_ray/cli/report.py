"""``al-ray report``: what the records say, as one page and as tables."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from al_ray.api import find_study
from al_ray.cli.run import user_errors
from al_ray.errors import without_secrets
from al_ray.storage.address import check_address
from al_ray.terminal import make_console, print_mlflow, print_verdict
from al_ray.tracking.mlflow import log_report
from al_ray.tracking.mlflow_address import tracking_address


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
        console.print(f"page: {without_secrets(written[0])}", soft_wrap=True, highlight=False)
        console.print(f"tables: {len(written) - 1} files beside it", soft_wrap=True, highlight=False)
        if address is not None:
            log_report(records.store, address, written, method_runs(results))
            console.print(f"logged to MLflow: {without_secrets(address)}", soft_wrap=True, highlight=False)
            print_mlflow(console, records.store, address)
