"""Pools: tokenised and encoded once by Ray Data, read without a copy by every worker.

Tokens lie in the object store. Encodings lie there too, or, where they are kept in the storage and the object store is
too small for them, in files that every worker maps.
"""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from al_ray.core.types import TextSplit
from al_ray.errors import ExecutionError, one_line
from al_ray.model.encoding import Encoder, blocks_of, encode_table
from al_ray.model.stored import ROWS, Rows, StoredEncoding, completed, completed_here
from al_ray.runtime.cluster.scratch import shared_file

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
        stored: key of an encoding -> split -> its place in the storage; encodings without one are not kept.
        reads_tokens: whether cells read tokens; where they read encodings alone, texts are tokenised to be encoded.
    """

    tables: "Mapping[str, pa.Table]"
    tokenize: "Callable[[pa.Table], pa.Table]"
    encoders: "Mapping[str, Callable[[torch.device], Encoder]]" = field(default_factory=dict)
    stored: Mapping[str, Mapping[str, StoredEncoding]] = field(default_factory=dict)
    reads_tokens: bool = True


@dataclass(frozen=True, kw_only=True)
class CellPool:
    """What a cell is given of its pool.

    Attributes:
        tables: of each split (columns id, label, maybe group, and tokens where cells read them).
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
    return table if (np.diff(split.ids) > 0).all() else table.sort_by("id")


def local_pool(source: PoolSource, device: "torch.device") -> CellPool:
    """Tokenise a pool in this process, and encode it when it is asked for, unless the storage has what it comes to."""

    @functools.cache
    def tokens(split: str) -> "pa.Table":
        return source.tokenize(source.tables[split])

    @functools.cache
    def encoded(key: str) -> Arrays:
        make_encoder, stored = source.encoders[key], source.stored.get(key)
        if stored is not None:
            begun = {split: each.begin(device.type) for split, each in stored.items()}
            return completed_here(begun, tokens, lambda: make_encoder(device))
        encode = make_encoder(device)
        return {split: encode_table(tokens(split), encode) for split in source.tables}

    tables = {split: tokens(split) for split in source.tables} if source.reads_tokens else untokenised(source)
    return CellPool(tables=tables, encoded=encoded)


def untokenised(source: PoolSource) -> "dict[str, pa.Table]":
    """Return what cells read of a pool that read no tokens."""
    return {split: table.drop_columns("text") for split, table in source.tables.items()}


@dataclass(frozen=True)
class PoolRefs:
    """Tables of a pool in the object store: split name -> references of their Arrow blocks, in row order.

    The store keeps a block as long as a reference to it lives in the process that prepared it.
    """

    blocks: Mapping[str, Sequence[Any]]

    def tables(self) -> "dict[str, pa.Table]":
        """Return the tables; their buffers are views of the object store."""
        import pyarrow as pa
        import ray

        return {split: pa.concat_tables(ray.get(list(blocks))) for split, blocks in self.blocks.items()}


@dataclass(frozen=True, kw_only=True)
class EncodedRefs:
    """One encoding of a pool, for workers on all nodes.

    Attributes:
        arrays: split -> reference of an array in the object store, as long as its maker lives.
        files: split -> where its numbers are stored; of the splits that are not in the object store.
        store_bytes: that it takes of the object store.
        how: how it was had and where it lies, in words.
    """

    arrays: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, StoredEncoding] = field(default_factory=dict)
    store_bytes: int = 0
    how: str = "encoded"

    def load(self) -> Arrays:
        """Return the arrays, views of the object store or of a file."""
        import ray

        arrays = dict(zip(self.arrays, ray.get(list(self.arrays.values())), strict=True))
        return {**arrays, **{split: _mapped(stored) for split, stored in self.files.items()}}


def _mapped(stored: StoredEncoding) -> Rows:
    """Map what is stored, in place; from a bucket the first process of this machine that asks fetches it."""
    path = Path(stored.folder.path) / ROWS
    if not stored.folder.is_local:
        path = shared_file(f"{stored.key}.npy", stored.put_together)
    return stored.mapped(path, proved=False)


def put_untokenised(source: PoolSource) -> PoolRefs:
    """Leave the tables of a pool in the object store, for cells that read no tokens."""
    import ray

    return PoolRefs({split: [ray.put(table)] for split, table in untokenised(source).items()})


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

    @property
    def device(self) -> str:
        """What they compute on, in torch's word."""
        return _device(self.gpus)


def _device(gpus: float) -> str:
    return "cuda" if gpus > 0 else "cpu"


def prepare_encoding(
    tokens: "Callable[[], Mapping[str, pa.Table]]",
    make_encoder: "Callable[[torch.device], Encoder]",
    actors: EncodingActors,
    stored: Mapping[str, StoredEncoding] | None = None,
    room_bytes: float = math.inf,
) -> EncodedRefs:
    """Encode all splits of a pool by a Ray Data pool of actors, unless the storage has them already.

    Args:
        tokens: gives the tokens of each split; called only where something has to be encoded.
        make_encoder: loads the model on a device.
        actors: that encode.
        stored: split -> where to keep and to look for them; None: nowhere.
        room_bytes: of the object store, for this encoding; of what is stored and larger, workers map files.

    Raises:
        ExecutionError: the model cannot be loaded, or rows were lost.
        StorageError: the storage cannot be read or written.
    """
    if stored is None:
        return _encoded_into_the_store(tokens(), make_encoder, actors)
    return _stored_encoding(tokens, make_encoder, actors, stored, room_bytes)


def _encoded_into_the_store(
    tables: "Mapping[str, pa.Table]", make_encoder: "Callable[[torch.device], Encoder]", actors: EncodingActors
) -> EncodedRefs:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    blocks = [block for table in tables.values() for block in blocks_of(table) if block.num_rows]
    encoded = _run_actors(blocks, EncodingActor, actors, make_encoder)
    # Joined on this process's node by a task, whose result is this process's: here it would take as much memory again.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    join = ray.remote(_joined).options(num_cpus=0, scheduling_strategy=here)
    arrays, start = {}, 0
    for split, table in tables.items():
        arrays[split] = join.remote(start, table["id"].to_numpy(), *encoded)
        start += table.num_rows
    views = ray.get(list(arrays.values()))  # no copies; where rows were lost, it is told here
    return EncodedRefs(arrays=arrays, store_bytes=sum(view.nbytes for view in views))


def _stored_encoding(
    tokens: "Callable[[], Mapping[str, pa.Table]]",
    make_encoder: "Callable[[torch.device], Encoder]",
    actors: EncodingActors,
    stored: Mapping[str, StoredEncoding],
    room_bytes: float,
) -> EncodedRefs:
    """Let actors write what is missing to the storage, and put into the object store what fits there."""
    import pyarrow as pa
    import ray

    begun = {split: each.begin(actors.device) for split, each in stored.items()}
    n_texts, n_computed, in_store = sum(each.n_texts for each in begun.values()), 0, dict[str, int]()

    def compute(missing: Mapping[str, Sequence[int]]) -> None:
        nonlocal n_computed
        tables, blocks = tokens(), []
        for split, numbers in missing.items():
            of_split = blocks_of(tables[split])
            for number in numbers:
                block = of_split[number].append_column("split", pa.array([split] * len(of_split[number])))
                blocks.append(block.append_column("part", pa.array([number] * len(block))))
        written = pa.concat_tables(ray.get(_run_actors(blocks, StoringActor, actors, make_encoder, begun)))
        n_computed += sum(written["n_texts"].to_pylist())

    def read(each: StoredEncoding) -> Any:
        n_bytes = each.n_bytes()
        if sum(in_store.values()) + n_bytes > room_bytes:
            if each.folder.is_local:
                each.rows()  # put together and proved here, once for all workers
            return each
        in_store[each.key] = n_bytes
        return ray.put(each.rows())

    found = completed(begun, compute, read)
    files = {split: each for split, each in found.items() if isinstance(each, StoredEncoding)}
    how = "encoded"
    if n_computed < n_texts:
        how = f"encoded ({n_texts - n_computed} of them were in the cache)" if n_computed else "found in the cache"
    if files:
        n_bytes = sum(each.n_bytes() for each in files.values())
        how += (
            f", of which {n_bytes / 2**30:.2f} GiB are read from disk, since the object store has "
            f"{max(room_bytes, 0.0) / 2**30:.2f} GiB left,"
        )
    return EncodedRefs(
        arrays={split: each for split, each in found.items() if split not in files},
        files=files,
        store_bytes=sum(in_store.values()),
        how=how,
    )


def _run_actors(blocks: "Sequence[pa.Table]", actor: type, actors: EncodingActors, *arguments: Any) -> list[Any]:
    """Hand blocks of tokens to processes that encode; return references of what they return, in order."""
    import ray.data

    tokens = ray.data.from_arrow(list(blocks))
    tokens.context.enable_progress_bars = False
    tokens.context.execution_options.preserve_order = True
    encoding = tokens.map_batches(
        actor,
        fn_constructor_args=(actors.threads, actors.gpus, *arguments),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=min(actors.n, len(blocks))),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus,
    )
    references: list[Any] = _materialized(encoding, "the texts cannot be encoded").to_arrow_refs()
    return references


class EncodingActor:
    """One process of a Ray Data pool, which encodes block after block.

    Args:
        threads: CPU threads to compute with.
        gpus: GPUs of it, whole or a fraction, which also bounds the GPU memory it may take.
        make_encoder: loads the model on a device.
    """

    def __init__(self, threads: int, gpus: float, make_encoder: "Callable[[torch.device], Encoder]") -> None:
        from al_ray.model.worker import bound_memory, set_threads

        set_threads(threads)
        import torch

        device = torch.device(_device(gpus))
        if 0 < gpus < 1:
            bound_memory(gpus, device)
        self._encode = make_encoder(device)

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


class StoringActor(EncodingActor):
    """One that writes what it encodes to the storage, so that it goes through no other process.

    Args:
        threads, gpus, make_encoder: as of :class:`EncodingActor`.
        stored: split -> where to write; begun.
    """

    def __init__(
        self,
        threads: int,
        gpus: float,
        make_encoder: "Callable[[torch.device], Encoder]",
        stored: Mapping[str, StoredEncoding],
    ) -> None:
        super().__init__(threads, gpus, make_encoder)
        self._stored = stored

    def __call__(self, block: "pa.Table") -> "pa.Table":
        """Write the part that a block is (columns ``split`` and ``part``), and return how many texts it had."""
        import pyarrow as pa

        split, part = block["split"][0].as_py(), block["part"][0].as_py()
        self._stored[split].write(part, self._encode(block))
        return pa.table({"n_texts": [len(block)]})


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
        own = re.split("The above exception was|Failed to apply UDF transform", str(error))[0]
        raise ExecutionError(f"{what}: {one_line(own.strip().rpartition(chr(10))[2])}") from error
