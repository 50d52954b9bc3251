"""One text for one value: the JSON that fingerprints and records are made of."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from al_ray.errors import StorageError
from al_ray.experiment.stored_shapes import check_shapes

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
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{where} is truncated or damaged: {error}. Put the file back or move it away.") from error


def check_format(where: str, content: Any, keys: set[str]) -> dict[str, Any]:
    """Return the content of a stored file that has this version's format and exactly these keys beside ``format``.

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
    if content.keys() != {"format", *keys}:
        raise StorageError(
            f"{where} has the keys {sorted(content)}, it should have {sorted({'format', *keys})}. Move it away."
        )
    check_shapes(where, content)
    return content


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError(f"a key stands twice among {sorted(key for key, _ in pairs)}")
    return dict(pairs)
