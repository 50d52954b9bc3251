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
from al_ray.storage.memory import Files

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
            if not isinstance(key, str):
                raise StorageError(f"{path or 'the value'} has the key {key!r}; keys of JSON are text.")
            yield from flatten(inner, f"{path}.{key}" if path else key)
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


def read_json(folder: Files, name: str, keys: set[str], optional: Set[str] = frozenset()) -> dict[str, Any] | None:
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
    """Return the content of a stored file, of this version's format, with these keys beside ``format`` and no others.

    Args:
        where: address of the file, for messages.
        content: what :func:`parse_json` returned.
        keys: that it has.
        optional: that it may have beside them, since older versions did not write them.

    Raises:
        StorageError: it was written by another version, or is something else; the message names the file and, where a
            value is wrong, its key, the value found and what it should be.
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
    for key, value in content.items():
        if key in _SHAPES and not _SHAPES[key][0](value):
            shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
            raise StorageError(f"{where}: {key} is {shown}, it should be {_SHAPES[key][1]}. Move the file away.")
    return content


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice among {sorted(key for key, _ in pairs)}")
    return found


_STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique_keys)


Shape = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _digits(n: int) -> Shape:
    return lambda value: isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{n}}}", value) is not None


def _or_null(fits: Shape) -> Shape:
    return lambda value: value is None or fits(value)


def _list_of(fits: Shape) -> Shape:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _mapping_of(fits: Shape) -> Shape:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _with(**keys: Shape) -> Shape:
    """Return the shape of a mapping that has these keys, and may have others."""
    return lambda value: (
        isinstance(value, dict) and all(key in value and fits(value[key]) for key, fits in keys.items())
    )


is_provenance = _list_of(lambda run: isinstance(run, dict) and _list_of(_text)(run.get("class_names", [])))
"""Whether a value is a list of runs, each a mapping whose class names, where it has some, are texts."""

_PLANNED_CELL = _with(
    **dict.fromkeys(("slug", "dataset", "model", "method", "variant", "strategy"), _text),
    fingerprint=_or_null(_digits(64)),
    seed=_count,
)
_METHOD = _with(
    **dict.fromkeys(("name", "confidence", "strategy"), _text),
    **dict.fromkeys(("filters", "clipping"), _list_of(_text)),
    role=("query", "random", "passive", "bound").__contains__,
)
_DATASET = _with(
    class_names=_list_of(_text),
    class_counts=_list_of(_count),
    group_counts=_or_null(_mapping_of(_count)),
    n_train=_count,
    n_test=_count,
    source=_text,
)
_SHAPES: Mapping[str, tuple[Shape, str]] = {
    **dict.fromkeys(("study", "slug", "host", "host_id"), (_text, "a text")),
    **dict.fromkeys(
        ("created_at", "finished_at", "failed_at", "recorded_at", "since", "renewed_at"),
        (_time, "a time with its zone"),
    ),
    **dict.fromkeys(("fingerprint", "sha256"), (_digits(64), "64 hexadecimal digits")),
    "id": (_digits(16), "16 hexadecimal digits"),
    "cells": (_list_of(_PLANNED_CELL), "the list of planned cells"),
    "methods": (_mapping_of(_METHOD), "the methods of the planned cells"),
    "datasets": (_mapping_of(_DATASET), "the data sets by name"),
    # What is in a spec is checked where it is read; a seed also counts rows of tables.
    "spec": (_with(seed=_count), "a cell's spec with its seed"),
    "summary": (_with(), "the cell's final figures"),
    "reason": (_with(), "what failed"),
    "record": (_with(), "a round's record"),
    "tables": (_mapping_of(_count), "the rows of each table"),
    "pid": (_count, "the number of a process"),
    "process_start": (_count, "when a process started"),
}
