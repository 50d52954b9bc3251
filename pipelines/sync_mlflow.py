"""``al-ray sync``: rebuild every MLflow run of a study from its records."""

from pathlib import Path
from typing import Annotated

import typer

from al_ray.errors import ExecutionError
from al_ray.experiment.store import StudyStore
from al_ray.experiment.study_file import Execution, load_study
from al_ray.experiment.tracking import sync, tracking_address
from pipelines.run_study import user_errors
from pipelines.terminal import make_console


def sync_mlflow(
    study: Annotated[str, typer.Argument(help="Study file, or the name of a recorded study.", metavar="STUDY")],
    storage: Annotated[str | None, typer.Option("--storage", help="Folder or URI of the records.")] = None,
    tracking: Annotated[str | None, typer.Option("--tracking", help="MLflow address to fill.")] = None,
) -> None:
    """Bring MLflow up to the records: what is missing is logged, what is there stays, nothing is doubled."""
    console = make_console()
    with user_errors(console):
        name, execution = study, Execution()
        if study.endswith((".yaml", ".yml")):
            loaded = load_study(Path(study))
            name, execution = loaded.name, loaded.execution
        folder = storage or execution.storage
        address = tracking_address(tracking or execution.tracking, folder)
        if address is None:
            raise ExecutionError("no MLflow address: give --tracking, or set MLFLOW_TRACKING_URI.")
        report = sync(StudyStore.open(folder, name), address)
        console.print(f"{report}", soft_wrap=True, highlight=False)
