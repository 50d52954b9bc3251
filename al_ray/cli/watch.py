"""``al-ray watch``: the grid of a running study, from its records."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from al_ray.api import find_study
from al_ray.cli.run import user_errors
from al_ray.records.lease import driven_since, living_drivers
from al_ray.records.progress import CellView, Watcher, seconds_left
from al_ray.records.study import StudyStore, open_study
from al_ray.terminal import WideTable, duration, make_console, plain_table

N_SHOWN = 12
STALLED_S = 600.0
NO_DRIVER = "none; the same al-ray run goes on with what is not done"


def watch(
    study: Annotated[str, typer.Argument(help="Study file, name or folder of a study.", metavar="STUDY")],
    storage: Annotated[str | None, typer.Option("--storage", help="Folder or URI of the records.")] = None,
    every_s: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=0.2)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
) -> None:
    """Show a study while it runs: what is done, running, failed and waiting, and how long it will take."""
    console = make_console()
    with user_errors(console):
        store = open_study(find_study(study, storage).address)
        watcher = Watcher(store)
        cells = watcher.look()
        if once or not console.is_terminal:
            console.print(picture(store, cells))
            return
        # Ctrl-C leaves the watch and is no interruption of the study.
        with (
            suppress(KeyboardInterrupt),
            Live(picture(store, cells), console=console, auto_refresh=False) as live,
        ):
            while any(cell.status in ("running", "waiting") for cell in cells):
                time.sleep(every_s)
                cells = watcher.look()
                live.update(picture(store, cells), refresh=True)


def picture(store: StudyStore, cells: Sequence[CellView]) -> RenderableType:
    """Lay out totals, drivers, grid, running cells and failures; a small terminal cuts off what is last.

    Args:
        store: the study's records.
        cells: in grid order.
    """
    runs_unseen = not any(cell.status == "running" for cell in cells) and any(
        cell.status == "waiting" for cell in cells
    )
    since = driven_since(store.folder) if runs_unseen else None
    parts: list[RenderableType] = [Text(totals(store.study, cells, since))]
    if any(cell.status != "done" for cell in cells):
        parts += [Text(f"driver: {driver}") for driver in living_drivers(store.folder) or [NO_DRIVER]]
    parts.append(WideTable(_grid(cells)))
    running = [cell for cell in cells if cell.status == "running"]
    failed = [cell for cell in cells if cell.status == "failed"]
    if running:
        parts.append(_running(running))
    parts += [Text(f"failed: {cell.slug}: {cell.reason}", style="red") for cell in failed[:N_SHOWN]]
    if len(failed) > N_SHOWN:
        parts.append(Text(f"... and {len(failed) - N_SHOWN} more failed", style="red"))
    return Group(*parts)


def totals(name: str, cells: Sequence[CellView], since: datetime | None = None) -> str:
    """Say in one line how far the study is, which somebody has been running since a time, or nobody runs."""
    counts = Counter(cell.status for cell in cells)
    states = ", ".join(f"{counts[state]} {state}" for state in ("done", "running", "failed", "waiting"))
    left = seconds_left(list(cells), since)
    return f"study {name}: {len(cells)} cells, {states}" + (f"; about {duration(left)} left" if left else "")


def _grid(cells: Sequence[CellView]) -> Table:
    settings = list(dict.fromkeys((cell.dataset, cell.model) for cell in cells))
    table = plain_table("method", (f"{dataset}\n{model}" for dataset, model in settings))
    for method in dict.fromkeys(cell.method for cell in cells):
        mine = [cell for cell in cells if cell.method == method]
        table.add_row(method, *(_count([c for c in mine if (c.dataset, c.model) == at]) for at in settings))
    return table


def _count(cells: Sequence[CellView]) -> Text:
    """Write ``3/5``, and after it how many run (>) and failed (!)."""
    if not cells:
        return Text("-", style="dim")
    counts = Counter(cell.status for cell in cells)
    text = Text(f"{counts['done']}/{len(cells)}", style="green" if counts["done"] == len(cells) else "")
    if counts["running"]:
        text.append(f" >{counts['running']}", style="yellow")
    if counts["failed"]:
        text.append(f" !{counts['failed']}", style="red")
    return text


def _running(cells: Sequence[CellView]) -> Table:
    table = plain_table("running", ("rounds", "labels", "accuracy", "last record"))
    for cell in cells[:N_SHOWN]:
        ago = "" if cell.idle_s is None else f"{duration(max(cell.idle_s, 0))} ago"
        stalled = cell.idle_s is not None and cell.idle_s > STALLED_S
        accuracy = "" if cell.accuracy is None else f"{cell.accuracy:.3f}"
        table.add_row(
            cell.slug, str(cell.n_rounds), str(cell.n_labeled), accuracy, Text(ago, style="red" if stalled else "")
        )
    if len(cells) > N_SHOWN:
        table.add_row(f"... and {len(cells) - N_SHOWN} more", "", "", "", "")
    return table
