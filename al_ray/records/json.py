"""JSON of stored files: one spelling for hashes, format version, and the shape of what every key holds."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import datetime
from typing import Any

from al_ray.errors import StorageError
from al_ray.registry import LARGEST
from al_ray.storage.folder import Folder

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
            raise StorageError(f"{where}: {key} is {_value_shown(value)}, it should be {words}. Move the file away.")


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


def _are_methods(value: Any) -> bool:
    texts, lists = ("name", "confidence", "strategy"), ("filters", "clipping")
    return isinstance(value, dict) and all(
        isinstance(method, dict)
        and method.keys() == {*texts, *lists, "role"}
        and all(_is_text(method[name]) for name in texts)
        and all(_is_list_of(_is_text, method[name]) for name in lists)
        and method["role"] in ("query", "random", "passive")
        for method in value.values()
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


def _value_shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "study": (_is_text, "a text"),
    "id": (_is_id, "16 hexadecimal digits"),
    "created_at": (_is_time, "a time with its zone"),
    "cells": (_are_planned_cells, "the list of planned cells"),
    "methods": (_are_methods, "the methods of the planned cells"),
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


FORMAT = 1
_LEAVES = frozenset({str, int, float, bool, type(None)})


def canonical_json(value: Any, *, indent: int | None = None) -> str:
    """Write a value as the one JSON text that stands for it: keys sorted, ASCII, floats exact, no spaces.

    NaN and infinities are refused: JSON has no word for them, and NaN is not even equal to itself. A value that does
    not exist is ``None``.

    Args:
        value: mappings with text keys, lists, tuples, text, bool, int, finite float and None, nested at will.
        indent: spaces a level, for files that people read; the values are the same.

    Raises:
        StorageError: something else is in it; the message says where.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        return json.dumps(_plain(value), sort_keys=True, allow_nan=False, separators=separators, indent=indent)
    except (TypeError, ValueError):
        for path, leaf in flatten(value):
            _check_leaf(path, leaf)
        raise


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value, in hexadecimal (64 digits).

    Raises:
        StorageError: the value has no JSON form.
    """
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def identity_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a spec in its JSON form decides what is computed.

    A data set and a model are their content: once that is known, neither name nor path counts.
    """
    kept, model = dict(spec), spec.get("model")
    if kept.get("dataset_sha256"):
        kept.pop("dataset", None)
    if isinstance(model, Mapping) and model.get("sha256") and model.get("settings_sha256"):
        kept["model"] = {key: value for key, value in model.items() if key not in ("name", "revision")}
    return kept


def cell_fingerprint(spec: Mapping[str, Any]) -> str:
    """Return the fingerprint of a cell: that of its identity."""
    return fingerprint(identity_of(spec))


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a nested value with its dotted path, such as ``filters[0].fraction``.

    An empty mapping or list is a leaf: it says something.
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, _join(path, key))
    elif isinstance(value, (list, tuple)) and value:
        for index, inner in enumerate(value):
            yield from flatten(inner, f"{path}[{index}]")
    else:
        yield path, value


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List what differs between two specs, one ``field: old -> new`` each, in the order of the fields' names."""
    before, after = dict(flatten(old)), dict(flatten(new))
    return [
        f"{path}: {_shown(before, path)} -> {_shown(after, path)}"
        for path in sorted(before.keys() | after.keys())
        if _shown(before, path) != _shown(after, path)
    ]


def _shown(fields: Mapping[str, Any], path: str) -> str:
    return canonical_json(fields[path]) if path in fields else "(not there)"


def _join(path: str, key: object) -> str:
    if not isinstance(key, str):
        raise StorageError(f"{path or 'the value'} has the key {key!r}; keys of JSON are text.")
    return f"{path}.{key}" if path else key


def _check_leaf(path: str, leaf: Any) -> None:
    where = path or "the value"
    if isinstance(leaf, float) and not math.isfinite(leaf):
        raise StorageError(f"{where} is {leaf}, which JSON cannot hold. Leave the field out or write null.")
    if not isinstance(leaf, (str, bool, int, float, type(None), Mapping, list, tuple)):
        raise StorageError(f"{where} is a {type(leaf).__name__}, which JSON cannot hold: {leaf!r}.")


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        # Records are mostly long lists of numbers, which need no second look, one by one, at what they are.
        return value if _LEAVES.issuperset(map(type, value)) else [_plain(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if not all(isinstance(key, str) for key in value):
        raise TypeError("json would turn these keys into text")
    return {key: _plain(inner) for key, inner in value.items()}


def parse_json(where: str, text: bytes) -> Any:
    """Read the JSON of a stored file strictly: no NaN, no key twice.

    Raises:
        StorageError: it is truncated or no JSON; the message names the file.
    """
    try:
        return _STRICT.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{where} is truncated or damaged: {error}. Put the file back or move it away.") from error


def read_json(folder: Folder, name: str, keys: set[str], optional: Set[str] = frozenset()) -> dict[str, Any] | None:
    """Return the content of a stored file, checked as by :func:`check_format`, or None where there is no such file.

    Raises:
        StorageError: it is damaged, or of another version.
    """
    text, where = folder.read(name), folder.where(name)
    return None if text is None else check_format(where, parse_json(where, text), keys, optional)


def json_file(content: Any, *, indent: int | None = 1) -> bytes:
    """Return the bytes of a stored file, laid out for people unless ``indent`` is None."""
    return (canonical_json(content, indent=indent) + "\n").encode("ascii")


def check_format(where: str, content: Any, keys: set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    """Return the content of a stored file that has this version's format and exactly these keys beside ``format``.

    Args:
        where: address of the file, for messages.
        content: what :func:`parse_json` returned.
        keys: that it has.
        optional: that it may have beside them, since older versions did not write them.

    Raises:
        StorageError: it was written by another version, or is something else.
    """
    if not isinstance(content, dict) or "format" not in content:
        raise StorageError(f"{where} is not a record of al_ray. Move it away.")
    if content["format"] != FORMAT:
        raise StorageError(
            f"{where} has format {content['format']!r}, this al_ray reads format {FORMAT}. "
            f"Use the al_ray that wrote it."
        )
    if content.keys() - optional != {"format", *keys}:
        raise StorageError(
            f"{where} has the keys {sorted(content)}, it should have {sorted({'format', *keys})}. Move it away."
        )
    check_shapes(where, content)
    return content


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice among {sorted(key for key, _ in pairs)}")
    return found


_STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique_keys)
