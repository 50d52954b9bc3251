"""What stands in a stored file, checked once where it is read: records may come from somebody else, or be damaged.

The name of a key says what its value is, in whichever file it stands. Keys that are not named here are free.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from al_ray.errors import StorageError
from al_ray.registry import LARGEST

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{16}")


def check_shapes(where: str, content: Mapping[str, Any]) -> None:
    """Make sure that the values of a stored file are what their keys say.

    Raises:
        StorageError: naming the file, the key, the value found and what it should be.
    """
    for key, value in content.items():
        fits, words = _SHAPES.get(key, (_anything, ""))
        if not fits(value):
            raise StorageError(f"{where}: {key} is {_shown(value)}, it should be {words}. Move the file away.")


def is_provenance(value: Any) -> bool:
    """Tell whether it is a list of runs, each a mapping whose class names, where it has some, are texts."""
    return isinstance(value, list) and all(
        isinstance(entry, dict) and _is_list_of(_is_text, entry.get("class_names", [])) for entry in value
    )


def _anything(value: Any) -> bool:
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and bool(_FINGERPRINT.fullmatch(value))


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and bool(_ID.fullmatch(value))


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_spec(value: Any) -> bool:
    """Tell whether it may be a spec: what is in it is checked where it is read; a seed also counts rows of tables."""
    return isinstance(value, dict) and _is_count(value.get("seed"))


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_count(n) for n in value.values())


def _are_planned_cells(value: Any) -> bool:
    return isinstance(value, list) and all(_is_planned_cell(cell) for cell in value)


def _is_planned_cell(cell: Any) -> bool:
    texts = ("slug", "dataset", "model", "method", "variant", "strategy")
    return (
        isinstance(cell, dict)
        and all(_is_text(cell.get(name)) for name in texts)
        and (cell.get("fingerprint", 0) is None or _is_fingerprint(cell.get("fingerprint")))
        and _is_count(cell.get("seed"))
    )


def _are_datasets(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_dataset(note) for note in value.values())


def _is_dataset(note: Any) -> bool:
    return (
        isinstance(note, dict)
        and _is_list_of(_is_text, note.get("class_names"))
        and _is_list_of(_is_count, note.get("class_counts"))
        and (note.get("group_counts") is None or _are_counts(note["group_counts"]))
        and all(_is_count(note.get(name)) for name in ("n_train", "n_test"))
        and _is_text(note.get("source"))
    )


def _is_list_of(fits: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(fits(each) for each in value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "study": (_is_text, "a text"),
    "id": (_is_id, "16 hexadecimal digits"),
    "created_at": (_is_time, "a time with its zone"),
    "cells": (_are_planned_cells, "the list of planned cells"),
    "datasets": (_are_datasets, "the data sets by name"),
    "slug": (_is_text, "a text"),
    "fingerprint": (_is_fingerprint, "64 hexadecimal digits"),
    "spec": (_is_spec, "a cell's spec with its seed"),
    "finished_at": (_is_time, "a time with its zone"),
    "summary": (_is_mapping, "the cell's final figures"),
    "failed_at": (_is_time, "a time with its zone"),
    "reason": (_is_mapping, "what failed"),
    "recorded_at": (_is_time, "a time with its zone"),
    "tables": (_are_counts, "the rows of each table"),
    "sha256": (_is_fingerprint, "64 hexadecimal digits"),
    "record": (_is_mapping, "a round's record"),
    "host": (_is_text, "a text"),
    "host_id": (_is_text, "a text"),
    "pid": (_is_count, "the number of a process"),
    "process_start": (_is_count, "when a process started"),
    "since": (_is_time, "a time with its zone"),
    "renewed_at": (_is_time, "a time with its zone"),
}
