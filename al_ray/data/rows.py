"""Read the rows of Parquet, CSV and JSONL files as they stand: nothing is dropped, converted or repaired."""

import csv
import difflib
import io
import itertools
import json
import os
import re
import shlex
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.errors import DataError, unknown_name

FORMATS = (".parquet", ".csv", ".jsonl")
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
NAMED_SEPARATOR = re.compile(r'"?sep=(\t|[^"\s])"?\s*', re.IGNORECASE)  # as Excel writes it
_LINE_END = re.compile(rb"\r\n?|\n")
_BYTE_ORDER_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# Where the zeros are among the first four bytes of Latin letters.
_ZERO_BYTES = {"x0x0": "UTF-16LE", "0x0x": "UTF-16BE", "x000": "UTF-32LE", "000x": "UTF-32BE"}
_field_limit = threading.Lock()


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


@dataclass(frozen=True, kw_only=True)
class Head:
    """The first rows of a file of which nothing is known yet.

    Attributes:
        columns: name -> first values, of every column that could hold texts or classes; in CSV each value is text.
        unusable: name of every other column -> why it cannot.
    """

    columns: dict[str, list[Any]]
    unusable: dict[str, str]


def read_head(file: Path, n_rows: int) -> Head:
    """Read the first rows of a file, all columns; the rest of the file is neither read nor checked.

    Raises:
        DataError: the file is missing, unreadable or of another format.
    """
    head: Head = _read_by({".parquet": _parquet_head, ".csv": _csv_head, ".jsonl": _jsonl_head}, file, n_rows)
    return head


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A small table that people had in their hands: its rows with their places, and no more columns than are wanted.

    Attributes:
        where: the file.
        columns: names of all its columns, as the file has them.
        rows: place as people find it again (``row 2`` in a spreadsheet, where the header is row 1; ``line 2`` of JSONL)
            and the cells that are not empty, by wanted column.
        is_typed: false for CSV, where every cell is text.
        is_unicode: false where the file is in some other encoding, or holds nothing but ASCII, as what an encoding
            without the other letters leaves.
    """

    where: str
    columns: tuple[str, ...]
    rows: list[tuple[str, dict[str, Any]]]
    is_typed: bool = True
    is_unicode: bool = True


def read_sheet(file: Path, wanted: Collection[str]) -> Sheet:
    """Read a file that came back from a spreadsheet or a program, with the habits that these have.

    A CSV file may be UTF-8, UTF-16 or in an encoding of 8 bits, with any separator; lines of empty cells are skipped
    and cells that are missing at the end of a line are empty. Columns are found whatever their order and case.

    Args:
        file: .csv, .tsv, .txt (all as CSV), .jsonl or .parquet.
        wanted: names of the columns to read, in lower case; any of them may be missing.

    Raises:
        DataError: the file is missing, unreadable or of another format, or has a wanted column twice.
    """
    csv_formats = dict.fromkeys((".csv", ".tsv", ".txt"), _csv_sheet)
    sheet: Sheet = _read_by({".parquet": _parquet_sheet, ".jsonl": _jsonl_sheet, **csv_formats}, file, wanted)
    return sheet


def missing_file(path: Path) -> str:
    """Say that nothing is at a path: from which folder a relative one was looked up, and what is near."""
    start = "" if path.is_absolute() else f" in {Path.cwd()}"
    names = [each.name for each in path.parent.iterdir()] if os.path.isdir(path.parent) else []
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
    return f"{path} is not there{start}.{hint}"


def _read_file(file: Path, wanted: Mapping[str, str]) -> Rows:
    rows: Rows = _read_by({".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}, file, wanted)
    return rows


def _read_by(readers: Mapping[str, Callable[[Path, Any], Any]], file: Path, argument: Any) -> Any:
    """Read a file by the reader of its format, with the errors that all formats share."""
    if not os.path.isfile(file):  # of a name that is too long, too
        raise DataError(f"{missing_file(file)} Give the path of a file that ends in {', '.join(FORMATS)}.")
    if file.suffix not in readers:
        raise DataError(
            f"{file} ends in {file.suffix!r}, but al_ray reads {', '.join(FORMATS)}. Rename it to .csv if it is a "
            "table of text, with whatever separator; convert it if it is anything else."
        )
    try:
        return readers[file.suffix](file, argument)
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}.") from None


def _read_parquet(file: Path, wanted: Mapping[str, str]) -> Rows:
    with _open_parquet(file) as parquet:
        schema = parquet.schema_arrow
        _check_columns(file, wanted, schema.names)
        table = parquet.read(columns=list(dict.fromkeys(wanted.values())))
    columns = {name: _values(file, name, table.column(name)) for name in wanted.values()}
    return Rows(
        where=str(file),
        columns=columns,
        class_names=_class_names(file, schema, wanted["label"]) if "label" in wanted else {},
    )


def _parquet_head(file: Path, n_rows: int) -> Head:
    with _open_parquet(file) as parquet:
        schema = parquet.schema_arrow
        unusable = doubled_columns(schema.names) | {
            each.name: f"holds {each.type}" for each in schema if pa.types.is_nested(each.type) or _is_binary(each.type)
        }
        usable = [name for name in schema.names if name not in unusable]
        head = next(parquet.iter_batches(batch_size=n_rows, columns=usable), None) if usable else None
    table = schema.empty_table() if head is None else pa.Table.from_batches([head])
    return Head(columns={name: _values(file, name, table.column(name)) for name in usable}, unusable=unusable)


def _is_binary(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_))


@contextmanager
def _open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: its schema metadata is not readable ({error}). Write the file again.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} is not a whole Parquet file ({file.stat().st_size} bytes): {first_line(error)}. "
            "It may be half-written, truncated or a placeholder; copy it again."
        ) from None


def _values(file: Path, name: str, column: pa.ChunkedArray) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError as error:
        row = next(i for i, value in enumerate(column) if not _is_readable(value))
        raise DataError(
            f"{file}: column {name!r} is not UTF-8 in row {row} (counted from 0), at byte {error.start} of the value"
            f"{_as_windows(error.object, error.start)}. Write the file again, with texts that are UTF-8."
        ) from None


def _is_readable(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def not_utf8(file: Path) -> DataError:
    """Return the error of a text file in another encoding; says where, and which encoding it may be."""
    content = file.read_bytes()
    try:
        content.decode()
        at = 0  # valid UTF-8 with zeros, as UTF-16 of plain letters is
    except UnicodeDecodeError as error:
        at = 0 if b"\0" in content[:4] else error.start
    number = len(_LINE_END.findall(content, 0, at)) + 1
    what, fix = _encoding_advice(file, content, at)
    return DataError(f"{file}, line {number} is not UTF-8, at byte {at} of the file (counted from 0){what}. {fix}")


def _encoding_advice(file: Path, content: bytes, at: int) -> tuple[str, str]:
    """Say what a text file may be in place of UTF-8, and what to do."""
    if not content[:at].isascii():
        return _as_windows(content, at), "All before it is UTF-8: mend the characters that are not."
    encoding = _other_encoding(content)
    if encoding is None:
        return "", "Save it as UTF-8."
    shown = _as_windows(content, at) if encoding == "WINDOWS-1252" else f"; it looks like {encoding}"
    new = file.with_stem(f"{file.stem}_utf8")
    command = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(file))} > {shlex.quote(str(new))}"
    return shown, f"Save it as UTF-8, in that case by: {command}"


def _other_encoding(content: bytes) -> str | None:
    """Return the encoding that a file which is not UTF-8 may be in, or None."""
    marked = [name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)]
    zeros = _ZERO_BYTES.get("".join("0" if byte == 0 else "x" for byte in content[:4]))
    for encoding in (*marked, zeros, None if b"\0" in content else "WINDOWS-1252"):
        try:
            if encoding is not None and content.decode(encoding):
                return encoding
        except UnicodeDecodeError:
            continue
    return None


def _as_windows(content: bytes, at: int, n: int = 12) -> str:
    """Quote the place of a byte that is not UTF-8 as Windows-1252 has it, for the reader to judge."""
    start = max([end.end() for end in _LINE_END.finditer(content, max(at - n, 0), at)], default=max(at - n, 0))
    excerpt = re.split(r"[\r\n]", content[start : at + n].decode("windows-1252", "replace"))[0]
    return f"; if it is Windows-1252, {excerpt!r} stands there"


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
    with _open_csv(file, wanted) as (header, rows):
        _check_columns(file, wanted, header, _csv_hint(header))
        columns: dict[str, list[Any]] = {name: [] for name in wanted.values()}
        keep = [(values.append, header.index(name)) for name, values in columns.items()]
        for row in rows:  # a large file has columns that nobody asked for, which are not kept
            for append, at in keep:
                append(row[at])
    return Rows(where=str(file), columns=columns, is_typed=False)


def _csv_head(file: Path, n_rows: int) -> Head:
    with _open_csv(file, {}) as (header, rows):
        values = list(zip(*itertools.islice(rows, n_rows), strict=True)) or [()] * len(header)
    unusable = doubled_columns(header)
    columns = {name: list(each) for name, each in zip(header, values, strict=True) if name not in unusable}
    return Head(columns=columns, unusable=unusable)


def _csv_sheet(file: Path, wanted: Collection[str]) -> Sheet:
    content = file.read_bytes()
    encoding = _sheet_encoding(content)
    lines = io.StringIO(content.decode(encoding or "latin-1"), newline="")
    with fields_up_to(len(content)):
        header, records = _header_and_rows(file, lines, {}, may_be_short=True)
        names = _wanted_columns(file, header, wanted)
        places = ((f"row {number}", record) for number, record in enumerate(records, start=2))
        rows = [(place, dict(zip(header, record, strict=True))) for place, record in places if any(record)]
    return Sheet(
        where=str(file),
        columns=tuple(header),
        rows=[(place, _cells(row, names)) for place, row in rows],
        is_typed=False,
        is_unicode=encoding is not None and not content.isascii(),
    )


def _sheet_encoding(content: bytes) -> str | None:
    """Return the encoding of a text file where it is sure: UTF-8, or another one that has a mark of its own."""
    try:
        if b"\0" not in content[:4]:
            content.decode("utf-8-sig")
            return "utf-8-sig"
    except UnicodeDecodeError:
        pass
    found = _other_encoding(content)
    return None if found == "WINDOWS-1252" else found


def _jsonl_sheet(file: Path, wanted: Collection[str]) -> Sheet:
    rows = [(f"line {number}", row) for number, row in enumerate(_json_rows(file), start=1)]
    columns = tuple(dict.fromkeys(key for _, row in rows for key in row))
    names = _wanted_columns(file, columns, wanted)
    return Sheet(where=str(file), columns=columns, rows=[(place, _cells(row, names)) for place, row in rows])


def _parquet_sheet(file: Path, wanted: Collection[str]) -> Sheet:
    with _open_parquet(file) as parquet:
        columns = tuple(parquet.schema_arrow.names)
        names = _wanted_columns(file, columns, wanted)
        table = parquet.read(columns=list(names))
    values = [_values(file, name, table.column(name)) for name in names]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    return Sheet(
        where=str(file),
        columns=columns,
        rows=[(f"row {number}", _cells(row, names)) for number, row in enumerate(rows, start=1)],
    )


def _wanted_columns(file: Path, header: Sequence[str], wanted: Collection[str]) -> dict[str, str]:
    """Return the columns of a header that are wanted, with the names under which they are wanted.

    Raises:
        DataError: two of them differ in case or white space alone.
    """
    found = {name: name.strip().lower() for name in header}
    for column in wanted:
        same = [name for name in header if name.strip().lower() == column]
        if len(same) > 1:
            raise DataError(f"{file} has {len(same)} columns called {column!r}. Rename all but one.")
    return {name: column for name, column in found.items() if column in wanted}


def _cells(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the wanted cells of a row that hold anything; NaN is how pandas writes an empty one."""
    found = {column: row.get(name) for name, column in names.items()}
    return {column: value for column, value in found.items() if value not in (None, "") and value == value}


def doubled_columns(names: Sequence[str]) -> dict[str, str]:
    """Return the names that stand in a header more than once, and what to do."""
    return {
        name: "stands in the header more than once: rename all but one" for name in names if list(names).count(name) > 1
    }


@contextmanager
def _open_csv(file: Path, wanted: Mapping[str, str]) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """Yield the header of a CSV file and an iterator over its rows."""
    with file.open(encoding="utf-8-sig", newline="") as lines, fields_up_to(file.stat().st_size):
        if "\0" in lines.read(4):
            raise not_utf8(file)
        lines.seek(0)
        yield _header_and_rows(file, lines, wanted)


def _header_and_rows(
    file: Path, lines: TextIO, wanted: Mapping[str, str], *, may_be_short: bool = False
) -> tuple[list[str], Iterator[list[str]]]:
    """Return the header of a CSV text and an iterator over its rows."""
    named = NAMED_SEPARATOR.fullmatch(lines.readline())
    separator = named[1] if named else find_separator(file, lines, wanted)
    if not named:
        lines.seek(0)
    rows = csv_rows(file, lines, separator, n_before=1 if named else 0, may_be_short=may_be_short)
    header = next(rows, None)
    if header is None:
        raise DataError(f"{file} is empty. Its first line must name the columns.")
    return header, rows


@contextmanager
def fields_up_to(n: int) -> Iterator[None]:
    """Let the csv module read values of any length for now; its limit is one for the whole process."""
    with _field_limit:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, n))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def find_separator(file: Path, lines: TextIO, wanted: Mapping[str, str]) -> str:
    """Return the separator under which the header names the wanted columns, else the one that finds most columns."""
    headers = {separator: _header(lines, separator) for separator in _SEPARATORS}
    fitting = [separator for separator, header in headers.items() if wanted and {*wanted.values()} <= {*header}]
    if fitting and all(headers[separator] == headers[fitting[0]] for separator in fitting):
        return fitting[0]  # one column, which no separator divides
    if len(fitting) > 1:
        raise DataError(
            f"{file}: its header names the columns with {' and with '.join(map(repr, fitting))} between them. "
            f"Put the one that is right into a line of its own above it: sep={fitting[0]}"
        )
    if not fitting and not headers[","]:
        return ","  # an empty file, or a header that is no CSV: told with its place when the rows are read
    return fitting[0] if fitting else max(headers, key=lambda separator: len(headers[separator]))


def _header(lines: TextIO, separator: str) -> list[str]:
    lines.seek(0)
    try:
        return next(csv.reader(lines, delimiter=separator, strict=True), [])
    except csv.Error:  # said with its place when the rows are read
        return []


def csv_rows(
    file: Path, lines: Iterable[str], separator: str, n_before: int, *, may_be_short: bool = False
) -> Iterator[list[str]]:
    """Yield the header and the rows, all of one length; ``n_before`` lines of the file stand above them.

    Args:
        file: for messages.
        lines: where the header is next.
        separator: between two values.
        n_before: lines that were read already.
        may_be_short: fill a row with empty values up to the header's length, and drop empty ones beyond it, as
            spreadsheets leave them.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    n_columns = None
    while True:
        number = n_before + reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            last = n_before + reader.line_num
            raise DataError(
                f"{file}, line {number} is not CSV{f' (read to line {last})' if last > number else ''}: {error}. "
                'Close every quoted value, and double the quotes inside it: "say ""hello""".'
            ) from None
        if row is None:
            return
        if may_be_short and n_columns is not None:
            beyond = row[n_columns:]
            row = row if any(beyond) else [*row[:n_columns], *[""] * (n_columns - len(row))]
        if n_columns is not None and len(row) != n_columns:
            raise DataError(
                f"{file}, line {number} has {len(row)} values, but the header names {n_columns} columns. "
                f"Quote values that hold a {_SEPARATORS.get(separator, repr(separator))}, and take out blank lines."
            )
        n_columns = len(row)
        yield row


def _csv_hint(header: Sequence[str]) -> str:
    """Say what else may be wrong with a header that does not name the columns."""
    mark = re.search(r"[^\w\s\"'.-]", header[0]) if len(header) == 1 else None
    hint = f" If its columns are separated by {mark[0]!r}, write above them: sep={mark[0]}" if mark else ""
    return f" The first line must name the columns.{hint}"


def _read_jsonl(file: Path, wanted: Mapping[str, str]) -> Rows:
    present: dict[str, None] = {}
    columns: dict[str, list[Any]] = {name: [] for name in wanted.values()}
    for row in _json_rows(file):
        present |= dict.fromkeys(row)
        for name, values in columns.items():
            values.append(row.get(name))
    if present:
        _check_columns(file, wanted, list(present))
    return Rows(where=str(file), columns=columns)


def _jsonl_head(file: Path, n_rows: int) -> Head:
    rows = list(itertools.islice(_json_rows(file), n_rows))
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
    nested = [name for name, values in columns.items() if any(isinstance(value, list | dict) for value in values)]
    usable = {name: values for name, values in columns.items() if name not in nested}
    return Head(columns=usable, unusable=dict.fromkeys(nested, "holds lists or objects"))


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:  # a return within a line is white space of JSON
        if "\0" in lines.read(4):
            raise not_utf8(file)
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            yield json_object(file, number, line.removesuffix("\n"))


def json_object(file: Path, number: int, line: str) -> dict[str, Any]:
    """Return what a line of JSONL holds.

    Raises:
        DataError: it is no JSON object.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also a whole number of thousands of digits
        raise DataError(f"{file}, line {number} is not JSON: {error}. Write one object per line.") from None
    if not isinstance(row, dict):
        raise DataError(f"{file}, line {number} is {line[:40]!r}, not an object. Write one {{...}} per line.")
    return row


def _check_columns(file: Path, wanted: Mapping[str, str], present: Sequence[str], hint: str = "") -> None:
    for option, name in wanted.items():
        if name not in present:
            raise DataError(
                f"{file}: {unknown_name('column', name, present)} "
                f"Name the right one in the data set's option: {{path: ..., {option}: ...}}.{hint}"
            )
        if list(present).count(name) > 1:
            raise DataError(f"{file} has {list(present).count(name)} columns called {name!r}. Rename all but one.")


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).splitlines()[0].rstrip(".")
