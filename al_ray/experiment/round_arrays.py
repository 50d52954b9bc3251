"""The arrays of one round as one Parquet file: several tables, each a run of rows of its own.

Column ``table`` says which table a row belongs to; a table's columns are named ``table.column`` and are null in the
rows of the others. So one file a round is enough, every Parquet reader reads it, and all rounds of a study can be
queried at once: ``SELECT "pool.id", "pool.score" FROM '*/round-*.parquet' WHERE "table" = 'pool'``.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.errors import StorageError
from al_ray.storage.folder import check_name

Columns = Mapping[str, npt.NDArray[Any]]
Tables = Mapping[str, Columns]


def encode_tables(tables: Tables) -> bytes:
    """Write tables of equally long columns as Parquet; the same tables always give the same bytes.

    Args:
        tables: table name -> column name -> ``[n]`` or ``[n, width]``; numbers, bool or text.

    Raises:
        StorageError: columns of one table differ in length, or a column has another shape or type.
    """
    padded = {name: _arrow_table(name, columns) for name, columns in tables.items()}
    schema = pa.unify_schemas([table.schema for table in padded.values()])
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=["table"], write_page_checksum=True) as out:
        for table in padded.values():
            out.write_table(_padded(table, schema), row_group_size=max(1, table.num_rows))
    return sink.getvalue()


def decode_tables(data: bytes, where: str) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Read back what :func:`encode_tables` wrote, with the same shapes and types.

    Raises:
        StorageError: the file is damaged; the message names it.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        filled = [group for group in range(file.num_row_groups) if file.metadata.row_group(group).num_rows]
        groups = {_name_of(file, group): [group] for group in filled}
        names = dict.fromkeys(field.split(".", 1)[0] for field in file.schema_arrow.names if field != "table")
        return {name: _read_columns(file, groups.get(name, []), name) for name in names}
    except (OSError, pa.ArrowException, KeyError, IndexError) as error:
        raise StorageError(
            f"{where} is damaged: {error}. Move the folder of its cell away; the cell is then run anew."
        ) from error


def _arrow_table(name: str, columns: Columns) -> pa.Table:
    check_name("table", name.replace(".", "/"))
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise StorageError(f"the columns of table {name!r} must be equally long, found {lengths}.")
    arrays = {f"{name}.{column}": _arrow_array(f"{name}.{column}", values) for column, values in columns.items()}
    length = next(iter(lengths.values()))
    return pa.table({"table": pa.repeat(pa.scalar(name), length), **arrays})


def _arrow_array(name: str, values: npt.NDArray[Any]) -> pa.Array:
    if values.dtype.kind not in "iufbU" or values.ndim not in (1, 2) or 0 in values.shape[1:]:
        raise StorageError(
            f"array {name!r} has shape {values.shape} and type {values.dtype}. "
            f"Records hold [n] and [n, width] of numbers, bool or text."
        )
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _padded(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name] if field.name in table.schema.names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _name_of(file: pq.ParquetFile, group: int) -> str:
    column = file.read_row_group(group, columns=["table"])["table"]
    return str(column[0].as_py())


def _read_columns(file: pq.ParquetFile, groups: list[int], name: str) -> dict[str, npt.NDArray[Any]]:
    prefix = f"{name}."
    wanted = [field for field in file.schema_arrow.names if field.startswith(prefix)]
    table = file.read_row_groups(groups, columns=wanted)
    return {field.removeprefix(prefix): _numpy(table[field].combine_chunks()) for field in wanted}


def _numpy(column: pa.Array) -> npt.NDArray[Any]:
    if pa.types.is_fixed_size_list(column.type):
        return _numpy(column.flatten()).reshape(len(column), column.type.list_size)
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def n_rows(tables: Tables) -> dict[str, int]:
    """Return the rows of each table, by name."""
    return {name: len(next(iter(columns.values()))) for name, columns in sorted(tables.items())}
