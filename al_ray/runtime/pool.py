"""Pools in the object store: tokenised and encoded once by Ray Data, read zero-copy by every worker."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from al_ray.core.types import TextSplit
from al_ray.errors import ExecutionError, one_line
from al_ray.model.encoding import Encoder, blocks_of, encode_table

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

BLOCK_ROWS = 4096
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class PoolSource:
    """The texts of one data set, how to tokenise them, and what else cells read of them.

    Attributes:
        tables: split name (``pool``, ``test``) -> table with the columns ``id``, ``label``, ``text``.
        tokenize: table -> table with the same rows in the same order; picklable.
        encoders: key of an encoding -> what loads its model on a device; picklable.
    """

    tables: "Mapping[str, pa.Table]"
    tokenize: "Callable[[pa.Table], pa.Table]"
    encoders: "Mapping[str, Callable[[torch.device], Encoder]]" = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CellPool:
    """What a cell is given of its pool.

    Attributes:
        tables: tokens of each split (columns id, label, tokens, maybe group).
        encoded: gives an encoding by its key, once it is there: split -> an array ``[n, n_features]`` by the table's
            rows, or ``[n_tokens, n_features]`` by its tokens; read-only.
    """

    tables: "Mapping[str, pa.Table]"
    encoded: Callable[[str], Arrays]


def text_table(split: TextSplit) -> "pa.Table":
    """Return a split as a table of ``id``, ``label``, ``text`` and, where it has slices, ``group``; ids ascending."""
    import pyarrow as pa

    table = pa.table({"id": split.ids, "label": split.labels, "text": pa.array(split.texts, pa.string())})
    if split.groups is not None:
        table = table.append_column("group", pa.array(split.groups, pa.string()))
    return table.sort_by("id")


def local_pool(source: PoolSource, device: "torch.device") -> CellPool:
    """Tokenise a pool in this process, and encode it when it is asked for."""
    tables = {split: source.tokenize(table) for split, table in source.tables.items()}

    @functools.cache
    def encoded(key: str) -> Arrays:
        encode = source.encoders[key](device)
        return {split: encode_table(table, encode) for split, table in tables.items()}

    return CellPool(tables=tables, encoded=encoded)


@dataclass(frozen=True)
class PoolRefs:
    """Tokenised tables in the object store: split name -> references of their Arrow blocks, in row order.

    The store keeps a block as long as a reference to it lives in the process that prepared it.
    """

    blocks: Mapping[str, Sequence[Any]]

    def tables(self) -> "dict[str, pa.Table]":
        """Return the tables; their buffers are views of the object store."""
        import pyarrow as pa
        import ray

        return {split: pa.concat_tables(ray.get(list(blocks))) for split, blocks in self.blocks.items()}


@dataclass(frozen=True)
class EncodedRefs:
    """One encoding in the object store: split name -> reference of an array, as long as its maker lives."""

    arrays: Mapping[str, Any]

    def load(self) -> Arrays:
        """Return the arrays, views of the object store."""
        import ray

        return dict(zip(self.arrays, ray.get(list(self.arrays.values())), strict=True))


def prepare_pool(source: PoolSource) -> PoolRefs:
    """Tokenise the tables of a pool once, in blocks of 4,096 rows, and leave them in the object store.

    Raises:
        ExecutionError: the tokenizer failed, or returned other rows than it was given.
    """
    return PoolRefs({split: _tokenised_blocks(split, table, source.tokenize) for split, table in source.tables.items()})


def _tokenised_blocks(split: str, table: "pa.Table", tokenize: "Callable[[pa.Table], pa.Table]") -> list[Any]:
    import ray
    import ray.data

    n_blocks = max(1, -(-table.num_rows // BLOCK_ROWS))
    texts = ray.data.from_arrow([table.slice(i * BLOCK_ROWS, BLOCK_ROWS) for i in range(n_blocks)])
    texts.context.enable_progress_bars = False
    texts.context.execution_options.preserve_order = True
    tokenising = texts.map_batches(tokenize, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
    tokens = _materialized(tokenising, f"the texts of the table {split!r} cannot be tokenised")
    if tokens.count() != table.num_rows:
        raise ExecutionError(
            f"the table {split!r} has {tokens.count()} rows after tokenising, {table.num_rows} went in. "
            "The tokenizer must return one row per row, in the same order."
        )
    # Copied to this process's node: on a cluster the blocks lie where a task ran, perhaps on a machine that goes away,
    # and lanes may hold every CPU that making them again would need.
    return [ray.put(ray.get(block)) for block in tokens.to_arrow_refs()]


@dataclass(frozen=True, kw_only=True)
class EncodingActors:
    """Processes that encode a pool side by side, each with the model loaded.

    Attributes:
        n: how many.
        cpus: CPUs that Ray counts for each.
        gpus: GPUs of each, whole or a fraction.
        threads: CPU threads that each computes with.
    """

    n: int
    cpus: float
    gpus: float
    threads: int


def prepare_encoding(
    pool: PoolRefs, make_encoder: "Callable[[torch.device], Encoder]", actors: EncodingActors
) -> EncodedRefs:
    """Encode all splits of a pool by a Ray Data pool of actors, and leave an array each in the object store.

    Raises:
        ExecutionError: the model cannot be loaded, or rows were lost.
    """
    import ray
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    tables = pool.tables()
    blocks = [block for table in tables.values() for block in blocks_of(table) if block.num_rows]
    tokens = ray.data.from_arrow(blocks)
    tokens.context.enable_progress_bars = False
    tokens.context.execution_options.preserve_order = True
    encoding = tokens.map_batches(
        EncodingActor,
        fn_constructor_args=(make_encoder, actors.threads, actors.gpus > 0),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=min(actors.n, len(blocks))),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus,
    )
    encoded = _materialized(encoding, "the texts cannot be encoded").to_arrow_refs()
    # Joined on this process's node by a task, whose result is this process's: here it would take as much memory again.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    join = ray.remote(_joined).options(num_cpus=0, scheduling_strategy=here)
    arrays, start = {}, 0
    for split, table in tables.items():
        arrays[split] = join.remote(start, table["id"].to_numpy(), *encoded)
        start += table.num_rows
    ray.get(list(arrays.values()))  # views, no copies; where rows were lost, it is told here
    return EncodedRefs(arrays)


class EncodingActor:
    """One process of a Ray Data pool, which encodes block after block.

    Args:
        make_encoder: loads the model on a device.
        threads: CPU threads to compute with.
        on_gpu: whether it has a GPU.
    """

    def __init__(self, make_encoder: "Callable[[torch.device], Encoder]", threads: int, on_gpu: bool) -> None:
        from al_ray.model.worker import set_threads

        set_threads(threads)
        import torch

        self._encode = make_encoder(torch.device("cuda" if on_gpu else "cpu"))

    def __call__(self, block: "pa.Table") -> "pa.Table":
        """Return the ids of a block with what it was encoded to: a flat list a text, and the width of its rows."""
        import pyarrow as pa

        encoded = self._encode(block)
        # A row a text, or a row a token.
        lengths = np.ones(len(block), np.int64)
        if len(encoded) != len(block):
            lengths = block["tokens"].combine_chunks().value_lengths().to_numpy().astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(lengths)]) * encoded.shape[1]
        values = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(np.ascontiguousarray(encoded).reshape(-1)))
        width = pa.array(np.full(len(block), encoded.shape[1], np.int32))
        return pa.table({"id": block["id"], "values": values, "width": width})


def _joined(start: int, ids: npt.NDArray[np.int64], *blocks: "pa.Table") -> npt.NDArray[Any]:
    """Put the rows of one split together again, from ``start`` on, as one array."""
    import pyarrow as pa

    encoded = pa.concat_tables(blocks).slice(start, len(ids))
    assert np.array_equal(encoded["id"].to_numpy(), ids), "rows were lost, doubled or moved while they were encoded"
    width = encoded["width"][0].as_py() if len(ids) else 1
    return np.concatenate([chunk.flatten().to_numpy() for chunk in encoded["values"].chunks]).reshape(-1, width)


def _materialized(dataset: Any, what: str) -> Any:
    with data_errors(what):
        return dataset.materialize()


@contextlib.contextmanager
def data_errors(what: str) -> Iterator[None]:
    """Say in one sentence what failed in a task or an actor of Ray Data.

    Args:
        what: could not be done.

    Raises:
        ExecutionError: with the reason.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        # A stack trace in words: that of our function, then what Ray Data says of it.
        own, _, _ = str(error).partition("The above exception was")
        raise ExecutionError(f"{what}: {one_line(own.strip().rpartition(chr(10))[2])}") from error
