"""``al-ray choose``: which texts of a pool of any size to label, in one pass over it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from al_ray.cli.run import user_errors
from al_ray.cli.score import RowsShown, counted, how_calibrated, scoring_actors, scoring_execution
from al_ray.errors import ConfigError, without_secrets
from al_ray.storage.address import above, is_uri, shown
from al_ray.terminal import duration, make_console

if TYPE_CHECKING:
    import pyarrow as pa

    from al_ray.runtime.choose import ChoosingJob, Chosen
    from al_ray.storage.folder import Folder


def choose(
    pool: Annotated[
        str, typer.Argument(help="Parquet, CSV or JSONL file, or a folder of them; path or URI.", metavar="POOL")
    ],
    model: Annotated[
        str, typer.Option("--model", help="Folder of a classifier: of 'al-ray export', or any.", metavar="FOLDER")
    ],
    n: Annotated[int, typer.Option("--n", help="How many texts to choose.", metavar="N", min=1)],
    to: Annotated[str, typer.Option("--to", help="New .parquet or .jsonl file for them; path or URI.", metavar="FILE")],
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.", metavar="COLUMN")] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Column that names a row; else its file and row do.", metavar="COLUMN")
    ] = None,
    labeled: Annotated[
        str | None,
        typer.Option("--labeled", help="File with the ids of rows that are labelled already.", metavar="FILE"),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Column that is empty where a row has no label yet.", metavar="COLUMN")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the pass and of its draws.")] = 0,
    n_dimensions: Annotated[
        int,
        typer.Option("--dimensions", help="Width that gradients are projected to.", metavar="WIDTH", min=1, max=8192),
    ] = 512,
    actors: Annotated[
        int | None, typer.Option("--actors", help="Processes with the model; as many as fit.", metavar="N", min=1)
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Choose in this process, without Ray.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Execution option, such as address=auto.", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Choose N texts to label from a pool of any size: unsure and unlike each other, in one pass (VeSSAL)."""
    from al_ray.data.looking import chosen_column
    from al_ray.data.shards import shard_pool
    from al_ray.model.score import ModelNote
    from al_ray.model.source import resolve_model
    from al_ray.runtime.choose import ChoosingJob, check_choosing, choose_apart, choose_here, labeled_ids

    console = make_console()
    with user_errors(console, kept="Nothing is written before the pass has ended: the same command begins again"):
        execution = scoring_execution(set_ or [])
        out, name = _new_file(to, execution.storage_patience_s)
        found = resolve_model(model, None)
        note = ModelNote.read(Path(found.path))
        with console.status("reading the pool") as status:
            sharded = shard_pool(pool, lambda sentence: status.update(without_secrets(sentence)))
            if sharded.filesystem.type_name == out.filesystem.type_name and sharded.is_inside(out.path):
                raise ConfigError(
                    f"{out.where(name)} lies inside the pool, which would then hold its own rows twice. Name a file "
                    "beside it."
                )
            column = chosen_column("text", text, sharded.guesses(), Path(sharded.address))
            if labeled is not None and id_ is None:
                raise ConfigError("--labeled names rows by their ids: name the column of them too, --id COLUMN.")
            job = ChoosingJob(
                pool=sharded,
                text=column,
                model=found,
                note=note,
                n=n,
                seed=seed,
                n_dimensions=n_dimensions,
                id=id_,
                label=label,
                labeled=frozenset() if labeled is None or id_ is None else labeled_ids(labeled, id_),
            )
            check_choosing(job)
        _announce(console, job, is_guessed=text is None)
        with RowsShown(console, sharded.n_rows) as rows:
            if local:
                chosen = choose_here(job, execution.cpus_per_worker, rows)
            else:
                chosen = choose_apart(job, scoring_actors(actors, execution), rows)
        out.write(name, _FORMATS[Path(name).suffix](chosen.table), "the chosen texts")
        _say_done(console, job, chosen, rows)
        console.print(f"chosen texts: {out.where(name)}", highlight=False, soft_wrap=True)


def _new_file(location: str, patience_s: float) -> "tuple[Folder, str]":
    """Return the folder and the name of a file that is to be written at the end.

    Raises:
        ConfigError: it has another format, or is there already.
        StorageError: its folder cannot be written.
    """
    from al_ray.storage.folder import Folder

    holder, name = above(location if is_uri(location) else os.path.abspath(os.path.expanduser(location)))
    if Path(name).suffix not in _FORMATS:
        raise ConfigError(
            f"--to {shown(location)!r} ends in neither {' nor '.join(_FORMATS)}, which keep every text as it is. Name "
            "such a file."
        )
    folder = Folder.open(holder, patience_s=patience_s)
    if folder.exists(name):
        raise ConfigError(f"{folder.where(name)} is there already. Name a new file, or delete it.")
    return folder, name


def _parquet(table: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = pa.BufferOutputStream()
    pq.write_table(table, written)
    return bytes(written.getvalue().to_pybytes())


def _jsonl(table: "pa.Table") -> bytes:
    import json

    return "".join(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in table.to_pylist()).encode()


_FORMATS: "dict[str, Callable[[pa.Table], bytes]]" = {".parquet": _parquet, ".jsonl": _jsonl}


def _announce(console: Console, job: "ChoosingJob", *, is_guessed: bool) -> None:
    known = f"; {len(job.labeled):,} ids are labelled already" if job.labeled else ""
    console.print(
        f"{job.n:,} of {counted(job.pool.n_rows, 'row')} in {counted(len(job.pool.shards), 'shard')}, text in column "
        f"{job.text!r}{' (guessed; --text names another)' if is_guessed else ''}{known}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"probabilities are {how_calibrated(job.note)}", highlight=False, soft_wrap=True)


def _say_done(console: Console, job: "ChoosingJob", chosen: "Chosen", rows: RowsShown) -> None:
    def warn(sentence: str) -> None:
        console.print(sentence, style="yellow", highlight=False, soft_wrap=True)

    if chosen.n_without_text:
        what = f"text in column {job.text!r}" + ("" if job.id is None else f" or no id in column {job.id!r}")
        warn(f"{chosen.n_without_text:,} of {counted(chosen.n_read, 'row')} have no {what} and were left out")
    if chosen.n_labeled:
        console.print(f"{counted(chosen.n_labeled, 'row')} left out as labelled already", highlight=False)
    elif job.labeled:
        warn(f"none of the {len(job.labeled):,} labelled ids was met in column {job.id!r}: is it the right one?")
    n_chosen = chosen.table.num_rows
    if n_chosen < job.n:
        warn(f"only {counted(n_chosen, 'row')} could be chosen: no more have a text and no label")
    n_drawn = n_chosen - chosen.n_accepted
    drawn = f"; the pass accepted {chosen.n_accepted:,}, and {n_drawn:,} of the others were drawn at random"
    console.print(
        f"{n_chosen:,} of {counted(chosen.n_read, 'row')} chosen in {duration(rows.seconds)}, {rows.speed:.0f} texts/s"
        f"{drawn if n_drawn else ''}",
        highlight=False,
        soft_wrap=True,
    )
