"""The console script ``al-ray``: one name for every entry point."""

import json
from collections.abc import Callable
from typing import Any

import typer

from al_ray.cli.doctor import doctor
from al_ray.cli.methods import list_methods
from al_ray.cli.report import report
from al_ray.cli.run import run
from al_ray.cli.sync import sync_mlflow
from al_ray.cli.watch import watch
from al_ray.study.file import StudyFile
from al_ray.study.spec import CellSpec

app = typer.Typer(
    help="Active-learning experiments on text: a study file in, records and MLflow runs out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("run")(run)
app.command("watch")(watch)
app.command("report")(report)
app.command("list")(list_methods)
app.command("doctor")(doctor)
app.command("sync")(sync_mlflow)


def run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program of its own, as the scripts in ``pipelines`` do."""
    alone = typer.Typer(pretty_exceptions_enable=False)
    alone.command()(command)
    alone()


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of study files, for editors that complete and check YAML."""
    typer.echo(json.dumps(study_schema(), indent=2))


def study_schema() -> dict[str, Any]:
    """Return the JSON schema of a study file; in a grid block every value may also be a list of values."""
    outer = StudyFile.model_json_schema()
    inner = CellSpec.model_json_schema()
    definitions = {**outer.pop("$defs", {}), **inner.pop("$defs", {})}
    axes = {
        key: {"anyOf": [value, {"type": "array"}, {"type": "object"}, {"type": "string"}]}
        for key, value in inner["properties"].items()
    }
    cell = {"type": "object", "properties": axes, "additionalProperties": False}
    outer["properties"]["defaults"] = cell
    outer["properties"]["grid"]["items"] = cell
    return {**outer, "$defs": definitions}
