"""``al-ray cache``: list and delete the encodings that a storage keeps for all studies and projects in it."""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from al_ray.cli.run import user_errors
from al_ray.errors import ConfigError, StorageError
from al_ray.model.stored import CACHE, FoundEncoding, found_encodings
from al_ray.records.lease import living_drivers
from al_ray.storage.address import below, shown
from al_ray.storage.folder import Folder, check_name, size_text
from al_ray.study.file import Execution
from al_ray.terminal import make_console, plain_table

_N_KEY = 8
_STORAGE = typer.Option("--storage", help="Folder or URI of the records, in which the cache lies.")

cache = typer.Typer(
    help="What encoders made of pools, kept for all studies and projects of a storage.", no_args_is_help=True
)


@cache.command("list")
def list_cache(storage: Annotated[str, _STORAGE] = Execution().storage) -> None:
    """Show what is kept: of which texts and model, how large, who read it last, and whether it is in use."""
    console = make_console()
    with user_errors(console):
        opened = Folder.open(storage)
        found = found_encodings(opened)
        where = shown(below(storage, CACHE))
        if not found:
            console.print(f"{where} holds no encoding.", soft_wrap=True, highlight=False)
            return
        console.print(cache_table(found))
        console.print(f"{where}: {_n(found)}.", soft_wrap=True, highlight=False)
        _say_in_use(console, _in_use(opened, found), "in use, and not deleted unless with --force")


@cache.command("clear")
def clear_cache(
    which: Annotated[
        list[str] | None,
        typer.Argument(
            help="Start of a key, or the name of a data set, model, study or project.", metavar="[WHICH]..."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All encodings of the storage.")] = False,
    storage: Annotated[str, _STORAGE] = Execution().storage,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete also what a running study may be reading.")] = False,
) -> None:
    """Delete encodings; records stay, and whatever is needed again is computed again."""
    console = make_console()
    with user_errors(console, kept="What was not deleted yet is kept"):
        opened = Folder.open(storage)
        chosen = _chosen(found_encodings(opened), which or [], everything)
        in_use = {} if force else _in_use(opened, chosen)
        free = [each for each in chosen if each.key not in in_use]
        _say_in_use(console, in_use, "in use, and kept")
        if not free:
            console.print("nothing was deleted.")
            raise typer.Exit(1 if in_use else 0)
        console.print(cache_table(free))
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError(f"this would delete {_n(free)}. Say --yes, since there is no terminal to ask in.")
            if not typer.confirm(f"Delete {_n(free)}?"):
                console.print("nothing was deleted.")
                return
        for each in free:
            each.delete()
        console.print(f"{_n(free)} deleted; every record is kept.", highlight=False)


def cache_table(found: Sequence[FoundEncoding]) -> Table:
    """Lay out encodings, the one that was read last at the top."""
    table = plain_table("encoding", ["key", "texts", "size", "last read", "by"])
    table.columns[-1].overflow = "fold"
    for each in sorted(found, key=lambda each: max(each.uses.values(), default=""), reverse=True):
        texts = f"{each.n_texts:,}" if each.is_whole else f"{each.n_stored:,} of {each.n_texts:,}"
        last = max(each.uses, key=lambda user: each.uses[user], default="")
        row = (each.key[:_N_KEY], texts, size_text(each.n_bytes), each.uses.get(last, "")[:10], last)
        table.add_row(_described(each), *row)
    return table


def _described(each: FoundEncoding) -> str:
    """Say what an encoding is of, in words that a terminal may show: ``about.json`` may come from anywhere."""
    about = each.about
    if not about:
        return "(no about.json)"
    output = about.get("output")
    what = f"layer {output}" if isinstance(output, int) else str(output)
    model = str(about.get("model")).rstrip("/").rpartition("/")[2]
    return f"{about.get('data')}: {what} of {model}, {about.get('precision')}, {about.get('device')}"


def _chosen(found: Sequence[FoundEncoding], which: Sequence[str], everything: bool) -> list[FoundEncoding]:
    """Return the encodings that are named.

    Raises:
        ConfigError: none is named, or there is none of that name.
    """
    if everything == bool(which):
        raise ConfigError("name what to delete (al-ray cache list shows keys, data sets and models), or say --all.")
    chosen: dict[str, FoundEncoding] = {}
    for name in which:
        matching = [each for each in found if name in _names(each) or (len(name) >= 4 and each.key.startswith(name))]
        if not matching:
            known = sorted({word for each in found for word in (*_names(each), each.key[:_N_KEY])})
            raise ConfigError(f"no encoding is called {name!r}. Known: {', '.join(known) or 'none'}.")
        chosen |= {each.key: each for each in matching}
    return list(found) if everything else list(chosen.values())


def _names(each: FoundEncoding) -> set[str]:
    data, model = str(each.about.get("data", "")), str(each.about.get("model", ""))
    names = {data, data.rpartition(" (")[0], model, model.rstrip("/").rpartition("/")[2], *each.uses}
    return {name for name in names if name}


def _in_use(storage: Folder, found: Sequence[FoundEncoding]) -> dict[str, str]:
    """Return the encodings that a study or project has read which runs now: key -> which, in words."""
    drivers = {user: _drivers(storage, user) for each in found for user in each.uses}
    return {each.key: f"{user} ({drivers[user]})" for each in found for user in each.uses if drivers[user]}


def _drivers(storage: Folder, user: str) -> str:
    try:
        return "; ".join(living_drivers(storage.child(check_name("study", user))))
    except StorageError as error:
        return f"its lease cannot be read: {error}"


def _say_in_use(console: Console, in_use: Mapping[str, str], what: str) -> None:
    for key, user in in_use.items():
        console.print(
            f"{key[:_N_KEY]} is {what}: {user}", style="yellow", markup=False, soft_wrap=True, highlight=False
        )


def _n(found: Sequence[FoundEncoding]) -> str:
    plural = "" if len(found) == 1 else "s"
    return f"{len(found)} encoding{plural}, {size_text(sum(each.n_bytes for each in found))}"
