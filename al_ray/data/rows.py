"""Read the rows of Parquet, CSV and JSONL files as they stand: nothing is dropped, converted or repaired."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.errors import DataError, unknown_name

FORMATS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The wanted columns of one split, unchecked.

    Attributes:
        where: the file or files, for messages.
        columns: name -> values ``[n_rows]``; None where a value is missing.
        class_names: column -> class names written in the file's own metadata.
        is_typed: false for CSV, where every value is text.
    """

    where: str
    columns: dict[str, list[Any]]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    is_typed: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def read_rows(files: Sequence[Path], wanted: Mapping[str, str]) -> Rows:
    """Read one split from one file or from its parts in order.

    Args:
        files: at least one, all of one format.
        wanted: option -> column name, for example ``{"text": "body", "label": "team"}``.

    Raises:
        DataError: a file is missing, unreadable, of another format, or lacks a column.
    """
    parts = [_read_file(file, wanted) for file in files]
    if len({tuple(sorted(part.class_names.items())) for part in parts}) > 1:
        raise DataError(f"{files[0].parent}: the parts of a split name different classes. Write them all the same way.")
    return Rows(
        where=str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more parts",
        columns={name: [v for part in parts for v in part.columns[name]] for name in parts[0].columns},
        class_names=parts[0].class_names,
        is_typed=parts[0].is_typed,
    )


def _read_file(file: Path, wanted: Mapping[str, str]) -> Rows:
    if not file.is_file():
        raise DataError(f"{file} is not there. Give the path of a file that ends in {', '.join(FORMATS)}.")
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if file.suffix not in readers:
        raise DataError(f"{file} ends in {file.suffix!r}, but al_ray reads {', '.join(FORMATS)}. Convert or rename it.")
    try:
        return readers[file.suffix](file, wanted)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}.") from None


def _read_parquet(file: Path, wanted: Mapping[str, str]) -> Rows:
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            _check_columns(file, wanted, schema.names)
            table = parquet.read(columns=list(dict.fromkeys(wanted.values())))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} is not a whole Parquet file ({file.stat().st_size} bytes): {_first_line(error)}. "
            "It may be half-written, truncated or a placeholder; copy it again."
        ) from None
    columns = {name: table.column(name).to_pylist() for name in wanted.values()}
    return Rows(where=str(file), columns=columns, class_names=_class_names(file, schema, wanted["label"]))


def _class_names(file: Path, schema: pa.Schema, label: str) -> dict[str, tuple[str, ...]]:
    """Read the class names that Hugging Face ``datasets`` or a plain ``class_names`` entry keeps beside the schema."""
    metadata = schema.metadata or {}
    try:
        plain = json.loads(metadata.get(b"class_names", b"null"))
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = features.get(label, {}).get("names") or plain
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: its schema metadata is not readable ({error}). Write the file again.") from None
    if not names:
        return {}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{file}: its schema metadata names the classes {str(names)[:100]}; they must be a list of texts."
        )
    return {label: tuple(names)}


def _read_csv(file: Path, wanted: Mapping[str, str]) -> Rows:
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise DataError(f"{file} is empty. Its first line must name the columns.")
            _check_columns(file, wanted, header)
            rows = list(_csv_rows(file, reader, len(header)))
        except csv.Error as error:
            raise DataError(f"{file}, line {reader.line_num} is not CSV: {error}. Mend the line (quotes?).") from None
    at = {name: header.index(name) for name in wanted.values()}
    return Rows(where=str(file), columns={name: [row[i] for row in rows] for name, i in at.items()}, is_typed=False)


def _csv_rows(file: Path, reader: Any, n_columns: int) -> Iterator[list[str]]:
    for row in reader:
        if len(row) != n_columns:
            raise DataError(
                f"{file}, line {reader.line_num} has {len(row)} values, but the header names {n_columns} columns. "
                "Quote values that hold a comma, and take out blank lines."
            )
        yield row


def _read_jsonl(file: Path, wanted: Mapping[str, str]) -> Rows:
    lines = file.read_bytes().decode("utf-8-sig").split("\n")
    if lines[-1] == "":
        lines.pop()
    rows = [_json_object(file, number, line) for number, line in enumerate(lines, start=1)]
    if rows:
        _check_columns(file, wanted, list(dict.fromkeys(key for row in rows for key in row)))
    return Rows(where=str(file), columns={name: [row.get(name) for row in rows] for name in wanted.values()})


def _json_object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also a whole number of thousands of digits
        raise DataError(f"{file}, line {number} is not JSON: {error}. Write one object per line.") from None
    if not isinstance(row, dict):
        raise DataError(f"{file}, line {number} is {line[:40]!r}, not an object. Write one {{...}} per line.")
    return row


def _check_columns(file: Path, wanted: Mapping[str, str], present: Sequence[str]) -> None:
    for option, name in wanted.items():
        if name not in present:
            raise DataError(
                f"{file}: {unknown_name('column', name, present)} "
                f"Name the right one in the data set's option: {{{option}: ...}}."
            )
        if list(present).count(name) > 1:
            raise DataError(f"{file} has {list(present).count(name)} columns called {name!r}. Rename all but one.")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
