"""Data sets: the texts and the answers of an experiment, read and checked at the border.

A study file names a data set in one of three ways: a name (``trec6``), a mapping with options
(``{name: tickets, seed: 7}``), or a path (``data/mine.csv``, ``{path: data/mine, text: body, label: team}``). A name is
registered, or is that of a folder in ``AL_RAY_DATA``, which then takes the options of a path.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from al_ray.core.types import NO_CLASS, TextDataset
from al_ray.errors import ConfigError, unknown_name
from al_ray.registry import Plugin, Registry, option_of

if TYPE_CHECKING:
    from al_ray.data.files import PathSource

_LOOKS_LIKE_A_PATH = re.compile(r"[/\\]|\.(parquet|csv|jsonl)$")


class DatasetSource(Plugin, Protocol):
    """A place that a data set is read from."""

    def load(self) -> TextDataset:
        """Read and check all rows.

        Raises:
            DataError: the rows are missing, unreadable, or break a rule of the family.
        """
        ...


datasets: Registry[DatasetSource] = Registry("data set", "al_ray.data")


def resolve_dataset(option: str | Mapping[str, Any]) -> TextDataset:
    """Read the data set that a study file names.

    Args:
        option: a registered name, a path, or a mapping with ``name`` or ``path``.

    Raises:
        ConfigError: no such data set, or an option that it does not take.
        DataError: its rows cannot be read or break a rule of the family.
    """
    return _source(option).load()


def normalise_option(option: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the data set's option with every field written out, for identity and records.

    Two ways to write the same option give the same mapping, and the mapping builds the same source again. Its ``name``
    is fit for a file name.
    """
    normal = option_of(_source(option))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in normal.items()}


def near_equal_notes(dataset: TextDataset) -> list[str]:
    """Say which classes, and which data slices, have names that a reader would take for one; each counts by itself."""
    from al_ray.data.splits import look_alikes

    splits = dataset.train, dataset.test
    classes = [Counter(dataset.class_names[c] for c in split.labels.tolist() if c != NO_CLASS) for split in splits]
    groups = [Counter(split.groups or ()) for split in splits]
    families = (("classes", dataset.class_names, classes), ("groups", (*(groups[0] | groups[1]),), groups))
    return [
        f"the {kind} {_with_counts(alike, *counts)} have names that look alike, and count as {len(alike)} {kind}. If "
        "they are one, write its name in one way in the data."
        for kind, names, counts in families
        for alike in look_alikes(names)
    ]


def _with_counts(names: list[str], train: Counter[str], test: Counter[str]) -> str:
    same = len({unicodedata.normalize("NFC", name) for name in names}) < len(names)
    spell = ascii if same else repr  # letters of two Unicode forms look the same in quotes, too
    listed = [f"{spell(name)} ({train[name]:,} training, {test[name]:,} test)" for name in names]
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def _source(option: str | Mapping[str, Any]) -> "DatasetSource | PathSource":
    from al_ray.data.files import PathSource, named_folder, named_folders

    if isinstance(option, str) and _LOOKS_LIKE_A_PATH.search(option):
        option = {"path": option}
    if isinstance(option, Mapping) and "path" in option:
        return PathSource.from_option(option)
    name = option.get("name") if isinstance(option, Mapping) else option
    if isinstance(name, str) and name not in datasets.names():
        if folder := named_folder(name):
            more = {key: option[key] for key in option if key != "name"} if isinstance(option, Mapping) else {}
            return PathSource.from_option({"path": str(folder), **more})
        raise ConfigError(
            f"{unknown_name('data set', name, {*datasets.names(), *named_folders()})} Name files of your own by their "
            "path, {path: ..., text: ..., label: ...}, or put a folder of that name where AL_RAY_DATA points."
        )
    return datasets.build(option)
