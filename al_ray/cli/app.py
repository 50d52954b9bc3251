"""The console script ``al-ray``: one name for every entry point."""

import json
from collections.abc import Callable

import typer

from al_ray.cli.cache import cache
from al_ray.cli.choose import choose
from al_ray.cli.doctor import doctor
from al_ray.cli.label import label
from al_ray.cli.methods import list_methods
from al_ray.cli.new import new
from al_ray.cli.project import ask, export, status, tell
from al_ray.cli.report import report
from al_ray.cli.run import run
from al_ray.cli.score import score
from al_ray.cli.sync import sync_mlflow
from al_ray.cli.train_imital import train_imital
from al_ray.cli.watch import watch
from al_ray.study.file import study_schema

app = typer.Typer(
    help="Active-learning experiments on text: a study file in, records and MLflow runs out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("new")(new)
app.command("run")(run)
app.command("label")(label)
app.command("watch")(watch)
app.command("report")(report)
app.command("ask")(ask)
app.command("tell")(tell)
app.command("status")(status)
app.command("export")(export)
app.command("score")(score)
app.command("choose")(choose)
app.command("list")(list_methods)
app.command("doctor")(doctor)
app.command("sync")(sync_mlflow)
app.command("train-imital")(train_imital)
app.add_typer(cache, name="cache")


def run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program of its own, as the scripts in ``pipelines`` do."""
    alone = typer.Typer(pretty_exceptions_enable=False)
    alone.command()(command)
    alone()


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of study files, for editors that complete and check YAML."""
    typer.echo(json.dumps(study_schema(), indent=2))
