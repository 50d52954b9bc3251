"""Pools in the object store: tokenised once by Ray Data, read zero-copy by every worker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from al_ray.errors import ExecutionError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class PoolSource:
    """The texts of one data set and how to tokenise them.

    Attributes:
        tables: split name (``pool``, ``test``) -> table with the columns ``id``, ``label``, ``text``.
        tokenize: table -> table with the same rows in the same order; picklable.
    """

    tables: "Mapping[str, pa.Table]"
    tokenize: "Callable[[pa.Table], pa.Table]"


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
    try:
        tokens = tokenising.materialize()
    except ray.exceptions.RayTaskError as error:
        # A stack trace in words: that of the tokenizer, then what Ray Data says of it.
        own, _, _ = str(error).partition("The above exception was")
        raise ExecutionError(
            f"the texts of the table {split!r} cannot be tokenised: {one_line(own.strip().rpartition(chr(10))[2])}"
        ) from error
    if tokens.count() != table.num_rows:
        raise ExecutionError(
            f"the table {split!r} has {tokens.count()} rows after tokenising, {table.num_rows} went in. "
            "The tokenizer must return one row per row, in the same order."
        )
    # Copied to this process's node: on a cluster the blocks lie where a task ran, perhaps on a machine that goes away,
    # and lanes may hold every CPU that making them again would need.
    return [ray.put(ray.get(block)) for block in tokens.to_arrow_refs()]
