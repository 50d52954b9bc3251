"""``al-ray score``: a classifier over a pool of any size."""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from al_ray.cli.run import user_errors
from al_ray.errors import ConfigError, without_secrets
from al_ray.study.file import Execution, set_options
from al_ray.terminal import LINE_EVERY_S, duration, make_console

if TYPE_CHECKING:
    from al_ray.model.score import ModelNote
    from al_ray.runtime.score import ScoringActors, ScoringJob, ShardScored

_OPTIONS = ("address", "cpus_per_worker", "gpus_per_worker", "accelerator_type", "storage_patience_s")


def score(
    pool: Annotated[
        str, typer.Argument(help="Parquet, CSV or JSONL file, or a folder of them; path or URI.", metavar="POOL")
    ],
    model: Annotated[
        str, typer.Option("--model", help="Folder of a classifier: of 'al-ray export', or any.", metavar="FOLDER")
    ],
    to: Annotated[str, typer.Option("--to", help="Folder or URI for the scored rows.", metavar="OUT")],
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.", metavar="COLUMN")] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Of the names of the new columns.")] = "",
    actors: Annotated[
        int | None, typer.Option("--actors", help="Processes with the model; as many as fit.", metavar="N", min=1)
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Score in this process, without Ray.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Execution option, such as address=auto.", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Score a pool of any size: its rows with prediction, probabilities and uncertainty, as Parquet."""
    from al_ray.data.looking import chosen_column
    from al_ray.data.shards import shard_pool
    from al_ray.model.score import ModelNote
    from al_ray.model.source import resolve_model
    from al_ray.runtime.score import ScoringJob, check_job, score_apart, score_here
    from al_ray.storage.folder import Folder

    console = make_console()
    with user_errors(console, kept="Every shard that is written is kept"):
        execution = scoring_execution(set_ or [])
        found = resolve_model(model, None)
        note = ModelNote.read(Path(found.path))
        out = Folder.open(to, patience_s=execution.storage_patience_s)
        with console.status("reading the pool") as status:
            sharded = shard_pool(pool, lambda sentence: status.update(without_secrets(sentence)))
            column = chosen_column("text", text, sharded.guesses(), Path(sharded.address))
        job = ScoringJob(pool=sharded, text=column, model=found, note=note, out=out, prefix=prefix)
        left = check_job(job)
        _announce(console, job, len(left), is_guessed=text is None)
        with RowsShown(console, sum(shard.n_rows for shard in left)) as shown:
            if left and local:
                score_here(job, left, execution.cpus_per_worker, shown)
            elif left:
                score_apart(job, left, scoring_actors(actors, execution), shown)
        _say_done(console, job, shown)


def scoring_execution(assignments: list[str]) -> Execution:
    """Read the execution options that reading a pool has.

    Raises:
        ConfigError: another one, or a bad value.
    """
    for assignment in assignments:
        key = assignment.partition("=")[0]
        if key in Execution.model_fields and key not in _OPTIONS:
            raise ConfigError(f"--set {assignment!r} has no meaning here. This command takes {', '.join(_OPTIONS)}.")
    return set_options(Execution(), assignments)


def scoring_actors(n: int | None, execution: Execution) -> "ScoringActors":
    """Return what actors have, as many as ``n`` or as fit."""
    from al_ray.runtime.cluster.resources import LaneResources
    from al_ray.runtime.score import ScoringActors

    resources = LaneResources(
        cpus_per_worker=execution.cpus_per_worker,
        gpus_per_worker=execution.gpus_per_worker,
        accelerator_type=execution.accelerator_type,
        address=execution.address,
    )
    return ScoringActors(n=n, resources=resources)


def _announce(console: Console, job: "ScoringJob", n_left: int, *, is_guessed: bool) -> None:
    n_there = len(job.pool.shards) - n_left
    console.print(
        f"{job.pool.n_rows:,} rows in {counted(len(job.pool.shards), 'shard')}, text in column {job.text!r}"
        f"{' (guessed; --text names another)' if is_guessed else ''}"
        f"{f'; {n_there} of the shards are there already' if n_there else ''}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"probabilities are {how_calibrated(job.note)}", highlight=False, soft_wrap=True)


def how_calibrated(note: "ModelNote | None") -> str:
    """Say whether probabilities are calibrated, and by what."""
    if note is None or note.temperature is None:
        return "as the model gives them: no temperature was measured for it"
    return f"calibrated by a temperature of {note.temperature:.2f}, from {note.n_calibrated} answers"


class RowsShown:
    """Progress of a scoring: a bar on a terminal, a line now and then elsewhere.

    Args:
        console: where it is shown.
        n_rows: how many are to be scored.
    """

    def __init__(self, console: Console, n_rows: int) -> None:
        self._console, self._n_rows = console, n_rows
        self._began = self._last_line = time.monotonic()
        self.n_scored = self.n_without_text = 0
        columns = (BarColumn(), TextColumn("{task.completed:,} of {task.total:,} rows"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("rows", total=n_rows)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bar away."""
        self._bar.stop()

    def __call__(self, scored: "ShardScored") -> None:
        """Take note of a shard."""
        self.n_scored += scored.shard.n_rows
        self.n_without_text += scored.n_without_text
        self._bar.advance(self._task, scored.shard.n_rows)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self._console.print(
                f"{self.n_scored:,} of {self._n_rows:,} rows, {self.speed:.0f} texts/s", highlight=False, soft_wrap=True
            )

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._began

    @property
    def speed(self) -> float:
        """Texts a second so far."""
        return (self.n_scored - self.n_without_text) / max(self.seconds, 1e-9)


def _say_done(console: Console, job: "ScoringJob", shown: RowsShown) -> None:
    if shown.n_without_text:
        first, second, third = job.new_columns
        console.print(
            f"{shown.n_without_text:,} of {counted(shown.n_scored, 'row')} have no text in column {job.text!r}: "
            f"{first}, {second} and {third} are null there",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    if shown.n_scored:
        speed = f"{shown.speed:.0f} texts/s"
        console.print(f"{counted(shown.n_scored, 'row')} scored in {duration(shown.seconds)}, {speed}", highlight=False)
    else:
        console.print("every shard was scored before; nothing was done", highlight=False)
    console.print(f"scores: {job.out.address}", highlight=False, soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
