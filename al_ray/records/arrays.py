"""The arrays of one round as one Parquet file: several tables, each a run of rows of its own.

Column ``table`` says which table a row belongs to; a table's columns are named ``table.column`` and are null in the
rows of the others. So one file a round is enough, every Parquet reader reads it, and all rounds of a study can be
queried at once: ``SELECT "pool.id", "pool.score" FROM '*/round-*.parquet' WHERE "table" = 'pool'``. Rows ``[width]``
are lists whose length stands in the field's metadata: readers trip over lists of a fixed size that may be null.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.errors import StorageError
from al_ray.storage.folder import check_name

Columns = Mapping[str, npt.NDArray[Any]]
Tables = Mapping[str, Columns]

_TABLE = pa.field("table", pa.string())
_WIDTH = b"width"


def encode_tables(tables: Tables) -> bytes:
    """Write tables of equally long columns as Parquet; the same tables always give the same bytes.

    Args:
        tables: table name -> column name -> ``[n]`` or ``[n, width]``; numbers, bool or text.

    Raises:
        StorageError: columns of one table differ in length, or a column has another shape or type.
    """
    parts = [_arrow_table(name, columns) for name, columns in tables.items()]
    schema = pa.schema([_TABLE, *(field for part in parts for field in part.schema if field != _TABLE)])
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=["table"], write_page_checksum=True) as out:
        for part in parts:
            padded = pa.concat_tables([schema.empty_table(), part], promote_options="default")
            out.write_table(padded, row_group_size=max(1, part.num_rows))
    return sink.getvalue()


def decode_tables(data: bytes, where: str) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Read back what :func:`encode_tables` wrote, with the same shapes and types.

    Raises:
        StorageError: the file is damaged; the message names it.
    """
    with _named(where):
        file = _open(data)
        names = dict.fromkeys(field.split(".", 1)[0] for field in file.schema_arrow.names if field != "table")
        return {name: _read_columns(file, name) for name in names}


def decode_table(data: bytes, where: str, name: str, columns: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read some columns of one table, those that are there.

    Raises:
        StorageError: the file is damaged; the message names it.
    """
    with _named(where):
        return _read_columns(_open(data), name, columns)


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, IndexError, ValueError) as error:
        raise StorageError(
            f"{where} is damaged: {error}. Put the file back, or move the folder of its cell away; the cell is then "
            "run anew."
        ) from error


def _open(data: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def _arrow_table(name: str, columns: Columns) -> pa.Table:
    check_name("table", name.replace(".", "/"))
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise StorageError(f"the columns of table {name!r} must be equally long, found {lengths}.")
    arrays = {f"{name}.{column}": _arrow_array(f"{name}.{column}", values) for column, values in columns.items()}
    length = next(iter(lengths.values()))
    widths = [{_WIDTH: str(v.shape[1]).encode()} if v.ndim > 1 else None for v in columns.values()]
    types = [(field, array.type) for field, array in arrays.items()]
    fields = [pa.field(*field, metadata=width) for field, width in zip(types, widths, strict=True)]
    return pa.table([pa.repeat(pa.scalar(name), length), *arrays.values()], schema=pa.schema([_TABLE, *fields]))


def _arrow_array(name: str, values: npt.NDArray[Any]) -> pa.Array:
    if values.dtype.kind not in "iufbU" or values.ndim not in (1, 2) or 0 in values.shape[1:]:
        raise StorageError(
            f"array {name!r} has shape {values.shape} and type {values.dtype}. "
            f"Records hold [n] and [n, width] of numbers, bool or text."
        )
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1:
        return flat
    ends = np.arange(len(values) + 1, dtype=np.int64) * values.shape[1]
    return pa.LargeListArray.from_arrays(pa.array(ends), flat).cast(pa.list_(flat.type))


def _groups_of(file: pq.ParquetFile, name: str) -> list[int]:
    """Return the row groups of a table; each group holds one table's rows, so the statistics of one column tell."""
    found = []
    for group in range(file.num_row_groups):
        if not file.metadata.row_group(group).num_rows:
            continue
        column = file.metadata.row_group(group).column(0)
        first = column.statistics.min if column.statistics is not None and column.statistics.has_min_max else None
        if first is None:
            first = file.read_row_group(group, columns=["table"])["table"][0].as_py()
        if first == name:
            found.append(group)
    return found


def _read_columns(file: pq.ParquetFile, name: str, columns: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    there = [field.removeprefix(f"{name}.") for field in file.schema_arrow.names if field.startswith(f"{name}.")]
    wanted = {column: f"{name}.{column}" for column in there if columns is None or column in columns}
    table = file.read_row_groups(_groups_of(file, name), columns=list(wanted.values()), use_threads=False)
    return {
        column: _column(table.schema.field(field), table[field].combine_chunks()) for column, field in wanted.items()
    }


def _column(field: pa.Field, column: pa.Array) -> npt.NDArray[Any]:
    if not pa.types.is_list(column.type):
        return _numpy(column)
    width = int((field.metadata or {})[_WIDTH])
    lengths = np.diff(column.offsets.to_numpy())
    if column.null_count or np.any(lengths != width):
        raise ValueError(f"a row of {field.name} has another length than {width}")
    return _numpy(column.flatten()).reshape(len(column), width)


def _numpy(column: pa.Array) -> npt.NDArray[Any]:
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def n_rows(tables: Tables) -> dict[str, int]:
    """Return the rows of each table, by name."""
    return {name: len(next(iter(columns.values()))) for name, columns in sorted(tables.items())}
