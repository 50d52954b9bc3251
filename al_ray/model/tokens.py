"""Tokenised texts: flat token arrays that come from Arrow without a copy and are gathered with numpy alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from al_ray.core.types import IntArray
from al_ray.errors import ModelError
from al_ray.model.source import ResolvedModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENS_TYPE = pa.list_(pa.int32())
# Float32, or the bits of bf16, which numpy lacks.
HiddenStates = npt.NDArray[np.float32] | npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class TokenizedSplit:
    """One split of a data set as token ids, all texts one after the other.

    Attributes:
        ids: example ids ``[n]``, unique, in any order.
        labels: class indices ``[n]``.
        tokens: token ids of all texts ``[n_tokens]`` int32, special tokens included.
        offsets: ``[n + 1]``; text ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``.
        hidden: output of the frozen layers at each token ``[n_tokens, n_features]``, or None; only read.
    """

    ids: IntArray
    labels: IntArray
    tokens: npt.NDArray[np.int32]
    offsets: IntArray
    hidden: HiddenStates | None = None

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.labels) == len(self.offsets) - 1
        assert self.offsets[0] == 0
        assert self.offsets[-1] == len(self.tokens)
        assert self.hidden is None or len(self.hidden) == len(self.tokens), "hidden states of other texts"

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> IntArray:
        """Tokens of each text ``[n]``."""
        lengths: IntArray = np.diff(self.offsets)
        return lengths

    @cached_property
    def digest(self) -> str:
        """Hash of ids and tokens, by which results for this split are kept."""
        parts = (self.ids, self.offsets, self.tokens)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    def rows(self, ids: IntArray) -> IntArray:
        """Return the positions in this split of examples given by id, in the order asked."""
        order, sorted_ids = self._by_id
        found = np.searchsorted(sorted_ids, ids)
        assert np.array_equal(sorted_ids[np.minimum(found, len(self) - 1)], ids), "an id is not in this split"
        return order[found]

    def gather(self, rows: IntArray) -> npt.NDArray[np.int32]:
        """Return the tokens of some texts, one after the other ``[sum of their lengths]``."""
        return self.tokens[self.places(rows)]

    def gather_hidden(self, rows: IntArray) -> HiddenStates | None:
        """Return the hidden states of some texts ``[sum of their lengths, n_features]``, a copy, or None."""
        return None if self.hidden is None else self.hidden[self.places(rows)]

    def places(self, rows: IntArray) -> IntArray:
        """Return where the tokens of some texts are among all, one text after the other ``[sum of their lengths]``."""
        lengths = self.lengths[rows]
        starts = np.cumsum(lengths) - lengths
        places: IntArray = np.repeat(self.offsets[rows] - starts, lengths) + np.arange(lengths.sum())
        return places

    def take(self, rows: IntArray, labels: IntArray) -> "TokenizedSplit":
        """Return only some texts, in the order given, with other labels; their hidden states stay behind."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        return TokenizedSplit(ids=self.ids[rows], labels=labels, tokens=self.gather(rows), offsets=offsets)

    @classmethod
    def from_table(cls, table: pa.Table) -> "TokenizedSplit":
        """Read the Arrow form; columns of one chunk are viewed, several are joined."""
        chunks = [chunk.cast(TOKENS_TYPE) for chunk in table["tokens"].chunks]
        assert not any(chunk.null_count for chunk in chunks), "a row has no tokens"
        parts = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in chunks]
        lengths = [np.diff(chunk.offsets.to_numpy(zero_copy_only=True)) for chunk in chunks]
        tokens = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int32), *parts])
        offsets = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
        return cls(ids=_integers(table["id"]), labels=_integers(table["label"]), tokens=tokens, offsets=offsets)

    @cached_property
    def _by_id(self) -> tuple[IntArray, IntArray]:
        order = np.argsort(self.ids, kind="stable")
        assert np.all(np.diff(self.ids[order]) > 0), "ids of a split must be unique"
        return order, self.ids[order]


def _integers(column: pa.ChunkedArray) -> IntArray:
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values: IntArray = chunk.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return values


def tokenize(texts: Sequence[str], tokenizer: "Tokenizer") -> pa.Array:
    """Tokenise texts with a prepared tokenizer (:func:`load_tokenizer`) into a list column.

    A text that spells out a special token, such as ``[SEP]`` or ``<pad>``, gets that token, as in transformers.

    Raises:
        ModelError: the tokenizer gave a text no token at all, not even a special one.
    """
    # Through numpy, one text at a time: a Python list of all tokens would cost more than the tokenizer itself.
    rows = [np.asarray(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch_fast(list(texts))]
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int32, count=len(rows))
    if not lengths.all():
        raise ModelError(
            f"the tokenizer gives no token for {int((lengths == 0).sum())} of {len(rows)} texts. Its encoder needs "
            "special tokens around every text; use a tokenizer that adds them."
        )
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate([np.empty(0, np.int32), *rows])))


def tokenize_table(table: pa.Table, model: ResolvedModel, max_tokens: int) -> pa.Table:
    """Replace the column ``text`` by ``tokens``; runs in a Ray Data task as well as here.

    Args:
        table: columns ``id``, ``label``, ``text``, and any others, which stay.
        model: whose tokenizer is used; read once per process.
        max_tokens: texts are cut to this many tokens, special tokens included.
    """
    tokens = tokenize(table["text"].to_pylist(), load_tokenizer(model, max_tokens))
    return table.drop_columns("text").append_column("tokens", tokens)


@lru_cache(maxsize=8)
def load_tokenizer(model: ResolvedModel, max_tokens: int) -> "Tokenizer":
    """Read a model's tokenizer, set to cut texts and to pad nothing; kept for the life of the process.

    Raises:
        ModelError: the tokenizer files cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(model.path, local_files_only=True, trust_remote_code=False)
        tokenizer: Tokenizer = loaded.backend_tokenizer
    except MemoryError:
        raise
    except Exception as error:  # a file from a stranger may raise anything in there
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the tokenizer of model {model.name!r} in {model.path!r} cannot be read: {reason} "
            "It must be a fast tokenizer; save it again with save_pretrained()."
        ) from error
    # The files may ask for padding and truncation of their own, as those of all-MiniLM-L6-v2 do.
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer
