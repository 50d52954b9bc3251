"""Pools beyond memory: files on any file system, cut into shards of rows that are read one at a time."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from al_ray.data.looking import N_LOOKED_AT, Guesses, guess_columns
from al_ray.data.rows import (
    FORMATS,
    NAMED_SEPARATOR,
    Head,
    csv_rows,
    doubled_columns,
    fields_up_to,
    find_separator,
    first_line,
    json_object,
    missing_file,
    not_utf8,
)
from al_ray.errors import DataError
from al_ray.storage.address import check_address, hidden, is_uri, shown

# A shard is a number of grains: where each of them begins is found on the way through a file.
GRAIN_ROWS, MOST_GRAINS = 256, 16
# In so many shards a pool is cut at least, where they are larger than a grain, so that many processes share it.
_N_SHARDS = 64
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
# What a column of JSON becomes, by the kinds of its values.
_TYPES: dict[frozenset[str], pa.DataType] = {
    frozenset(): pa.string(),
    frozenset({"str"}): pa.string(),
    frozenset({"bool"}): pa.bool_(),
    frozenset({"int"}): pa.int64(),
    frozenset({"float"}): pa.float64(),
    frozenset({"int", "float"}): pa.float64(),
}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some rows of a file, one after the other.

    Attributes:
        file: number of the file in its pool.
        number: of the shard in its file, from 0.
        start: number of its first row in the file.
        n_rows: how many.
        offset: byte of the file at which its first row begins; 0 in Parquet.
    """

    file: int
    number: int
    start: int
    n_rows: int
    offset: int = 0

    @property
    def name(self) -> str:
        """What it is called among all shards of the pool; in the order of the rows."""
        return f"part-{self.file:05d}-{self.number:05d}"


@dataclass(frozen=True, kw_only=True)
class PoolFile:
    """One file of a pool.

    Attributes:
        path: on the pool's file system.
        size: bytes.
        modified_ns: when it was last written, nanoseconds since 1970; 0 where the file system does not say.
        header: of CSV, the column names in its order.
        separator: of CSV.
    """

    path: str
    size: int
    modified_ns: int
    header: tuple[str, ...] = ()
    separator: str = ","


@dataclass(frozen=True, kw_only=True)
class ShardedPool:
    """A pool of rows in files of one format, whose texts stay where they are until a shard is read.

    Attributes:
        address: path or URI for people.
        filesystem: where the files are; picklable.
        root: path of the file or folder there.
        format: ``.parquet``, ``.csv`` or ``.jsonl``.
        files: in the order of their paths.
        shards: in the order of the rows.
        columns: names, in the order of the first file.
        types: of the columns of a JSONL pool; None: its values are of several kinds, lists or objects, and stay JSON.
    """

    address: str
    filesystem: fs.FileSystem
    root: str
    format: str
    files: tuple[PoolFile, ...]
    shards: tuple[Shard, ...]
    columns: tuple[str, ...]
    types: dict[str, pa.DataType | None]

    @property
    def n_rows(self) -> int:
        """Rows of all files."""
        return sum(shard.n_rows for shard in self.shards)

    def is_inside(self, path: str) -> bool:
        """Tell whether a folder of the same file system is that of the pool, or lies in it."""
        return f"{path}/".startswith(f"{self.root}/")

    def read(self, shard: Shard) -> pa.Table:
        """Read the rows of a shard, all columns: as Parquet has them, CSV as texts, JSONL by the kinds of its values.

        Raises:
            DataError: they cannot be read.
        """
        file = self.files[shard.file]
        with _readable(self.filesystem, file.path):
            if self.format == ".parquet":
                return self._read_parquet(file, shard)
            with _text_lines(self.filesystem, file.path, shard.offset) as lines, fields_up_to(file.size):
                if self.format == ".csv":
                    rows = list(
                        itertools.islice(csv.reader(lines, delimiter=file.separator, strict=True), shard.n_rows)
                    )
                    values = dict(zip(file.header, zip(*rows, strict=True), strict=True))
                    return pa.table({name: _strings(values[name]) for name in self.columns})
                objects = [json.loads(line) for line in itertools.islice(lines, shard.n_rows)]
        return pa.table({name: _json_column(objects, name, type_) for name, type_ in self.types.items()})

    def _read_parquet(self, file: PoolFile, shard: Shard) -> pa.Table:
        with self.filesystem.open_input_file(file.path) as source, pq.ParquetFile(source, pre_buffer=False) as parquet:
            sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            end = shard.start + shard.n_rows
            groups = [n for n, (size, last) in enumerate(zip(sizes, ends, strict=True))
                      if last - size < end and last > shard.start]  # fmt: skip
            at = ends[groups[0]] - sizes[groups[0]]
            parts = []
            for batch in parquet.iter_batches(batch_size=shard.n_rows, row_groups=groups, use_threads=False):
                first, last = max(shard.start - at, 0), min(end - at, batch.num_rows)
                if first < last:
                    parts.append(batch.slice(first, last - first))
                at += batch.num_rows
                if at >= end:
                    break
            return pa.Table.from_batches(parts).select(list(self.columns))

    def texts(self, table: pa.Table, name: str) -> list[Any]:
        """Return the values of a column of a shard; None where one is not UTF-8, which Parquet does not check."""
        try:
            return list(table[name].to_pylist())
        except UnicodeDecodeError:
            return [_text_of(value) for value in table[name]]

    def guesses(self) -> Guesses:
        """Guess from the first rows which columns hold texts."""
        first = self.read(self.shards[0]).slice(0, N_LOOKED_AT)
        unusable = {
            each.name: f"holds {each.type}"
            for each in first.schema
            if pa.types.is_nested(each.type) or pa.types.is_binary(each.type) or pa.types.is_large_binary(each.type)
        }
        usable = {name: first[name].to_pylist() for name in first.column_names if name not in unusable}
        return guess_columns(Head(columns=usable, unusable=unusable))

    def check_text_column(self, name: str) -> None:
        """Make sure that a column can hold texts; empty ones among them are no matter.

        Raises:
            DataError: Parquet says that it holds something else.
        """
        type_ = self.read(self.shards[0]).schema.field(name).type
        value = type_.value_type if pa.types.is_dictionary(type_) else type_
        if not any(is_text(value) for is_text in _TEXTS):
            raise DataError(f"{self.address}: column {name!r} holds {type_} and no texts. Name another: --text COLUMN.")


def shard_pool(location: str, tell: Callable[[str], None] = lambda sentence: None) -> ShardedPool:
    """Look through the files of a pool and cut them into shards of 256 to 4,096 rows, more in larger pools.

    Of Parquet the footers are read; CSV and JSONL are read to their ends once, a row at a time, so that a line that is
    broken is told before anything is computed.

    Args:
        location: a file, or a folder of files of one format with the same columns, as path or URI.
        tell: told of each file that is read.

    Raises:
        DataError: nothing is there, several formats, other columns in some files, or a file that cannot be read.
        StorageError: no address of anything.
    """
    check_address("the pool", location)
    address = shown(location)
    filesystem, root, infos = _listed(location)
    formats = sorted({Path(info.path).suffix for info in infos})
    if len(formats) > 1:
        raise DataError(
            f"{address} holds files of several formats: {', '.join(formats)}. Give a folder of one, or a file."
        )
    scan = {".parquet": _scan_parquet, ".csv": _scan_csv, ".jsonl": _scan_jsonl}[formats[0]]
    files: list[PoolFile] = []
    scanned: list[_Found] = []
    columns: tuple[str, ...] = ()
    kinds: dict[str, set[str]] = {}
    for info in infos:
        tell(f"reading {Path(info.path).name}")
        with _readable(filesystem, info.path):
            found = scan(filesystem, info, kinds)
        if found.n_rows == 0:
            continue
        names = found.columns or columns
        columns = columns or names
        if formats[0] != ".jsonl" and {*names} != {*columns}:
            odd = sorted({*names} ^ {*columns})
            raise DataError(
                f"{info.path} has other columns than {files[0].path}: {', '.join(map(repr, odd[:5]))}. All files of a "
                "pool need the same; score them one by one."
            )
        scanned.append(found)
        files.append(
            PoolFile(
                path=info.path,
                size=info.size,
                modified_ns=info.mtime_ns or 0,
                header=found.columns,
                separator=found.separator,
            )
        )
    if not scanned:
        raise DataError(f"{address} has no rows. Give a file or folder with at least one.")
    if formats[0] == ".jsonl":
        columns = tuple(kinds)
    return ShardedPool(
        address=address,
        filesystem=filesystem,
        root=root.rstrip("/"),
        format=formats[0],
        files=tuple(files),
        shards=_cut(scanned),
        columns=columns,
        types={name: _TYPES.get(frozenset(found)) for name, found in kinds.items()},
    )


def _cut(files: "Sequence[_Found]") -> tuple[Shard, ...]:
    """Return the shards of all files, which depend on nothing but their rows."""
    n_rows = sum(found.n_rows for found in files)
    n_grains = min(max(n_rows // (GRAIN_ROWS * _N_SHARDS), 1), MOST_GRAINS)
    size = n_grains * GRAIN_ROWS
    return tuple(
        Shard(
            file=file,
            number=number,
            start=number * size,
            n_rows=min(size, found.n_rows - number * size),
            offset=found.offsets[number * n_grains] if found.offsets else 0,
        )
        for file, found in enumerate(files)
        for number in range(-(-found.n_rows // size))
    )


def _listed(location: str) -> tuple[fs.FileSystem, str, list[fs.FileInfo]]:
    """Return where a pool is and its files in the order of their paths; hidden ones are left out.

    Raises:
        DataError: nothing is there that can be read.
    """
    try:
        if is_uri(location):
            filesystem, path = fs.FileSystem.from_uri(location)
        else:
            filesystem, path = fs.LocalFileSystem(), str(Path(location).expanduser().absolute())
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.Directory:
            found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
            inside = [each for each in found if each.is_file and not _is_hidden(each.path[len(path) :])]
        else:
            inside = [info] if info.is_file else []
    except (OSError, pa.ArrowException) as error:
        why = hidden(first_line(error), location)
        raise DataError(f"the pool {shown(location)} cannot be opened: {why}. Correct the address.") from None
    if info.type == fs.FileType.NotFound:
        near = f"{shown(location)} is not there." if is_uri(location) else missing_file(Path(location).expanduser())
        raise DataError(f"{near} Give a Parquet, CSV or JSONL file, or a folder of such files.")
    usable = sorted((each for each in inside if Path(each.path).suffix in FORMATS), key=lambda each: each.path)
    if not usable:
        raise DataError(
            f"{shown(location)} holds no file that ends in {', '.join(FORMATS)}. Give a file of one of these formats, "
            "or a folder of such files."
        )
    return filesystem, path, usable


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.strip("/").split("/"))


@dataclass(frozen=True)
class _Found:
    """What a look through a file found; ``offsets`` are the bytes at which each grain of rows begins."""

    n_rows: int
    columns: tuple[str, ...]
    offsets: tuple[int, ...] = ()
    separator: str = ","


def _scan_parquet(filesystem: fs.FileSystem, info: fs.FileInfo, kinds: dict[str, set[str]]) -> _Found:
    with filesystem.open_input_file(info.path) as source, pq.ParquetFile(source) as parquet:
        names = parquet.schema_arrow.names
        _check_names(info.path, names)
        return _Found(parquet.metadata.num_rows, tuple(names))


def _scan_csv(filesystem: fs.FileSystem, info: fs.FileInfo, kinds: dict[str, set[str]]) -> _Found:
    file = Path(info.path)
    with _text_lines(filesystem, info.path) as text:
        first = text.readline()
        named = NAMED_SEPARATOR.fullmatch(first)
        separator = named[1] if named else find_separator(file, io.StringIO(first + text.readline(), newline=""), {})
    with _text_lines(filesystem, info.path) as text, fields_up_to(info.size):
        lines = _CountedLines(text, _mark_length(filesystem, info.path))
        if named:
            next(lines)
        rows = csv_rows(file, lines, separator, n_before=1 if named else 0)
        header = next(rows, None)
        if header is None:
            raise DataError(f"{file} is empty. Its first line must name the columns.")
        _check_names(info.path, header)
        offsets, n_rows, at = [], 0, lines.offset
        for _ in rows:
            if n_rows % GRAIN_ROWS == 0:
                offsets.append(at)
            n_rows, at = n_rows + 1, lines.offset
    return _Found(n_rows, tuple(header), tuple(offsets), separator)


def _scan_jsonl(filesystem: fs.FileSystem, info: fs.FileInfo, kinds: dict[str, set[str]]) -> _Found:
    offsets, n_rows = [], 0
    with _text_lines(filesystem, info.path) as text:
        lines = _CountedLines(text, _mark_length(filesystem, info.path))
        at = lines.offset
        for line in lines:
            if n_rows % GRAIN_ROWS == 0:
                offsets.append(at)
            n_rows, at = n_rows + 1, lines.offset
            for name, value in json_object(Path(info.path), n_rows, line.removesuffix("\n")).items():
                found = kinds.setdefault(name, set())
                if value is not None:
                    found.add(_kind(value))
    return _Found(n_rows, (), tuple(offsets))


def _kind(value: Any) -> str:
    if type(value) is int and not -(2**63) <= value < 2**63:
        return "large"
    return type(value).__name__


def _check_names(path: str, names: Sequence[str]) -> None:
    for name, why in doubled_columns(names).items():
        raise DataError(f"{path}: column {name!r} {why}.")


class _CountedLines:
    """Lines of a text, and how many bytes of the file were read when one was given."""

    def __init__(self, text: TextIO, offset: int) -> None:
        self._text, self.offset = text, offset

    def __iter__(self) -> "_CountedLines":
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.offset += len(line.encode())
        return line


@contextmanager
def _text_lines(filesystem: fs.FileSystem, path: str, offset: int = 0) -> Iterator[TextIO]:
    """Open a text file from a byte on; a mark at its beginning is no part of it."""
    newline = "\n" if path.endswith(".jsonl") else ""  # a return within a line is white space of JSON
    with filesystem.open_input_file(path) as source:
        source.seek(offset or _mark_length(filesystem, path))
        with io.TextIOWrapper(source, encoding="utf-8", newline=newline) as text:
            yield text


def _mark_length(filesystem: fs.FileSystem, path: str) -> int:
    with filesystem.open_input_file(path) as source:
        start = source.read(4)
    if b"\0" in start:
        raise UnicodeDecodeError("utf-8", start, 0, 1, "zero bytes, as in UTF-16")
    return len(_BYTE_ORDER_MARK) if start.startswith(_BYTE_ORDER_MARK) else 0


@contextmanager
def _readable(filesystem: fs.FileSystem, path: str) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        if isinstance(filesystem, fs.LocalFileSystem) and path.endswith((".csv", ".jsonl")):
            raise not_utf8(Path(path)) from None
        raise DataError(f"{path} is not UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}. Copy it again.") from None


def _strings(values: Sequence[Any]) -> pa.Array:
    """Make a column of texts; half characters, which no text can hold, become question marks."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        whole = [None if value is None else value.encode("utf-8", "replace").decode() for value in values]
        return pa.array(whole, pa.string())


def _text_of(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def _json_column(objects: Sequence[dict[str, Any]], name: str, type_: pa.DataType | None) -> pa.Array:
    values = [each.get(name) for each in objects]
    if type_ is None:
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return _strings(values) if type_ in (None, pa.string()) else pa.array(values, type_)
