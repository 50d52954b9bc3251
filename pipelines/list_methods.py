"""``al-ray list``: every data set, confidence, strategy, filter, oracle and stopping rule, with its options."""

from typing import Annotated

import typer
from rich.table import Table

from al_ray.confidence import confidences
from al_ray.data import datasets
from al_ray.data.files import named_folders
from al_ray.errors import DataError
from al_ray.filtering import filters
from al_ray.initial import initial_queries
from al_ray.oracle import oracles
from al_ray.registry import Registry, fields_of
from al_ray.stopping import stopping_rules
from al_ray.strategy import strategies
from pipelines.methods_table import markdown
from pipelines.terminal import make_console

FAMILIES: tuple[Registry[object], ...] = (  # type: ignore[assignment]
    datasets, confidences, strategies, filters, oracles, stopping_rules, initial_queries,
)  # fmt: skip


def list_methods(
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print sources, costs and needs, as in the README.")
    ] = False,
) -> None:
    """Name every method that a study file can use, with its options and their defaults."""
    if as_markdown:
        typer.echo(markdown())
        return
    console = make_console()
    for family in FAMILIES:
        console.print(family_table(family))
    console.print(
        "A model is minilm, a Hub id with a revision, or a folder, of an encoder: BERT, RoBERTa, XLM-RoBERTa, "
        "DistilBERT, ELECTRA, ALBERT, MPNet, DeBERTa. Decoders and encoder-decoders (GPT-2, Llama, XLNet, BART, T5) "
        "are refused.",
        highlight=False,
    )
    console.print(
        "A data set may also be a path: {path: FOLDER or FILE, text: COLUMN, label: COLUMN}, Parquet, CSV or JSONL.",
        highlight=False,
    )
    console.print(_folders(), highlight=False)


def _folders() -> str:
    """Say which folders of ``AL_RAY_DATA`` are data sets besides the registered ones."""
    try:
        others = [name for name in named_folders() if name not in datasets.names()]
    except DataError as error:
        return str(error)
    if not others:
        return "A folder in the one that AL_RAY_DATA names is a data set by its own name; none is there."
    return f"Folders in AL_RAY_DATA are data sets by their own name, with the options of a path: {', '.join(others)}."


def family_table(family: Registry[object]) -> Table:
    """Lay out one family: name, options with defaults, and what it is."""
    table = Table(title=family.family, title_justify="left", expand=False)
    table.add_column("name", no_wrap=True)
    table.add_column("options", overflow="fold")
    table.add_column("what it is", overflow="fold")
    for name in family.names():
        cls = family.get(name)
        options = ", ".join(_option(key, words, default) for key, (words, default) in fields_of(cls).items())
        table.add_row(name, options or "-", (cls.__doc__ or "").strip().split("\n")[0])
    return table


def _option(key: str, words: str, default: object) -> str:
    return f"{key}: {words}" + (" (needed)" if default is None and "None" not in words else f" = {default}")
