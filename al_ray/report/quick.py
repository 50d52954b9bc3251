"""The rounds of a part at once: thousands of rounds decoded and proven as columns, for reports of large studies.

What is proven of each round is what :mod:`al_ray.records.round` proves, but that its record, written out again, would
be the same text: each record's checksum, that none is missing, that labels add up, that nothing is asked for twice,
that classes stay the same. A cell of which something is not so, or that holds what is rare (estimated accuracy,
revised labels), is left to the usual reader, which says what is wrong.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from al_ray.records.json import FORMAT
from al_ray.records.round import hashed_text, round_file
from al_ray.report.queried import NOTHING, QueriedCell, beliefs, bin_sums_by

_FILE = {"format", "record", "recorded_at", "sha256", "tables"}
_RECORD = {
    "annotation", "checkpoint", "metrics", "n_labeled", "query", "round_index", "seconds", "stop_reason",
}  # fmt: skip

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class CellRounds:
    """What the rounds of one cell say.

    Attributes:
        n_rounds: recorded.
        stop_reason: of the last; empty where it has none.
        n_test: predictions on the test split beside the last.
        fitted: columns of its fitted rounds: ``round_index, n_labeled``, metrics, ``seconds.PHASE``.
        queried: what it queried.
    """

    n_rounds: int
    stop_reason: str
    n_test: int
    fitted: Columns
    queried: QueriedCell


def read_rounds(cells: Mapping[str, Mapping[str, bytes]]) -> dict[str, CellRounds]:
    """Read the rounds of many cells at once.

    Args:
        cells: key -> name -> content of the cell's round files.

    Returns:
        those cells that are proven; others are to be read one by one.
    """
    whole = {
        key: [files[name] for name in names]
        for key, files in cells.items()
        if set(names := [round_file(at) for at in range(len(files))]) == files.keys() and files
    }
    texts = [text for of_cell in whole.values() for text in of_cell]
    if not texts:
        return {}
    data = b"\n".join(texts)
    try:
        options = pj.ReadOptions(use_threads=False, block_size=len(data) + 1)
        table = pj.read_json(pa.BufferReader(data), read_options=options).combine_chunks()
        return _proven(whole, texts, table)
    except (pa.ArrowException, KeyError, IndexError, ValueError, TypeError, AttributeError):
        return {}  # told by the usual reader


def _proven(whole: Mapping[str, Sequence[bytes]], texts: Sequence[bytes], table: pa.Table) -> dict[str, CellRounds]:
    if set(table.column_names) != _FILE or len(table) != len(texts):
        return {}
    record = table["record"].combine_chunks()
    names = {field.name for field in record.type}
    rounds = _Rounds(np.array([len(of_cell) for of_cell in whole.values()]), record)
    rare = np.zeros(len(texts), np.bool_)
    for name in names - _RECORD:
        rare |= record.field(name).is_valid().to_numpy(zero_copy_only=False)
    digests = [hashlib.sha256(hashed_text(text)).hexdigest() for text in texts]
    good = (
        ~rare
        & (table["format"].to_numpy() == FORMAT)
        & pc.equal(table["sha256"], pa.array(digests)).to_numpy()
        & rounds.follow()
    )
    is_good = np.bitwise_and.reduceat(good, rounds.starts[:-1]) & rounds.ask_once()
    fitted, queried = _fitted(rounds), _queried(rounds)
    stops = record.field("stop_reason").to_pylist()
    tables = table["tables"].combine_chunks()
    n_test = _ints(tables.field("test")) if tables.type.get_field_index("test") >= 0 else np.zeros(len(texts), np.int64)
    return {
        key: CellRounds(
            n_rounds=len(whole[key]),
            stop_reason=stops[rounds.starts[at + 1] - 1] or "",
            n_test=int(n_test[rounds.starts[at + 1] - 1]),
            fitted=fitted[at],
            queried=queried[at],
        )
        for at, key in enumerate(whole)
        if is_good[at]
    }


class _Rounds:
    """The rounds of some cells, one after the other, as arrays: a row a round, and rows of what was queried.

    Attributes:
        starts: the first round of each cell, and the end ``[n_cells + 1]``.
        index, n_labeled: of each round ``[n_rounds]``.
        first: where the queried examples of each round begin, and the end ``[n_rounds + 1]``.
        ids, labels: of all queried examples ``[n_queried]``.
        cell: of each queried example.
    """

    def __init__(self, sizes: npt.NDArray[np.int64], record: pa.StructArray) -> None:
        self.record = record
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.cell_of_round = np.repeat(np.arange(len(sizes)), sizes)
        self.index, self.n_labeled = _ints(record.field("round_index")), _ints(record.field("n_labeled"))
        query, annotation = record.field("query"), record.field("annotation")
        self.first = _offsets(query.field("ids"))
        self.ids, self.labels = _ints(query.field("ids").flatten()), _ints(annotation.field("labels").flatten())
        self.abstained = annotation.field("abstained").flatten().to_numpy(zero_copy_only=False).astype(np.bool_)
        lengths = (annotation.field("labels"), annotation.field("abstained"), query.field("scores"))
        if any(not np.array_equal(_offsets(each), self.first) for each in lengths):
            raise ValueError("a query and its answers differ in length")
        self.round = np.repeat(np.arange(len(record)), np.diff(self.first))
        self.cell = self.cell_of_round[self.round]
        self.probs = query.field("probs")

    def follow(self) -> npt.NDArray[np.bool_]:
        """Tell of each round whether it has its number, the labels that were answered before, and answers that fit."""
        at = np.arange(len(self.index)) - self.starts[:-1][self.cell_of_round]
        answered = np.concatenate([[0], np.cumsum(self.labels >= 0)])[self.first]
        before = answered[:-1] - answered[self.starts[:-1]][self.cell_of_round]
        odd = np.bincount(self.round[(self.labels < 0) != self.abstained], minlength=len(self.index))
        return np.asarray((self.index == at) & (self.n_labeled == before) & (odd == 0))

    def ask_once(self) -> npt.NDArray[np.bool_]:
        """Tell of each cell whether no example is asked for twice and all answers are classes that it knows."""
        n_cells = len(self.starts) - 1
        order = np.lexsort((self.ids, self.cell))
        cell, ids = self.cell[order], self.ids[order]
        twice = np.bincount(cell[1:][(cell[1:] == cell[:-1]) & (ids[1:] == ids[:-1])], minlength=n_cells)
        _, of_row, n_classes = self.believed
        lowest, highest = np.full(n_cells, 2**31), np.zeros(n_cells, np.int64)
        np.minimum.at(lowest, self.cell[of_row], n_classes)
        np.maximum.at(highest, self.cell[of_row], n_classes)
        unknown = np.bincount(self.cell[of_row[self.labels[of_row] >= n_classes]], minlength=n_cells)
        return np.asarray((twice == 0) & (unknown == 0) & ((lowest == highest) | (highest == 0)))

    @cached_property
    def believed(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All probabilities, the queried example of each row of them, and how many classes it has."""
        if pa.types.is_null(self.probs.type):
            return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
        first = _offsets(self.probs)
        n_rows, is_there = np.diff(first), self.probs.is_valid().to_numpy(zero_copy_only=False)
        if np.any((n_rows != np.diff(self.first)) & is_there):
            raise ValueError("beliefs and query differ in length")
        rows = self.probs.flatten()
        of_row = np.flatnonzero(is_there[self.round])
        if pa.types.is_null(rows.type):
            return np.empty(0), of_row, np.zeros(len(of_row), np.int64)
        return rows.flatten().to_numpy(zero_copy_only=False), of_row, np.diff(_offsets(rows))


def _fitted(rounds: _Rounds) -> list[Columns]:
    """Return the columns of the fitted rounds of each cell."""
    metrics, seconds = (_floats_of(rounds.record.field(name)) for name in ("metrics", "seconds"))
    columns = {
        "round_index": rounds.index,
        "n_labeled": rounds.n_labeled,
        **metrics,
        **{f"seconds.{phase}": values for phase, values in seconds.items()},
    }
    is_fitted = np.zeros(len(rounds.index), np.bool_)
    for values in metrics.values():
        is_fitted |= ~np.isnan(values)
    kept = {name: values[is_fitted] for name, values in columns.items()}
    ends = np.concatenate([[0], np.cumsum(is_fitted)])[rounds.starts]
    found: list[Columns] = []
    for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        found.append({name: values[begin:end] for name, values in kept.items()} if end > begin else {})
    return found


def _queried(rounds: _Rounds) -> list[QueriedCell]:
    """Return what each cell queried after its initial query."""
    n_cells = len(rounds.starts) - 1
    flat, of_row, n_classes = rounds.believed
    first = np.concatenate([[0], np.cumsum(n_classes)])
    sums, totals, counts = np.zeros((n_cells, 3, 10)), np.zeros(n_cells), np.zeros(n_cells)
    for k in np.unique(n_classes[n_classes > 0]).tolist():
        rows = np.flatnonzero(n_classes == k)
        probs = flat[(first[:-1][rows][:, None] + np.arange(k)).reshape(-1)].reshape(len(rows), k)
        labels = rounds.labels[of_row[rows]]
        known = labels < k  # others are told by the usual reader
        confidence, brier, right = beliefs(probs[known], labels[known])
        cell = rounds.cell[of_row[rows]][known & (labels >= 0)]
        sums += bin_sums_by(cell, n_cells, confidence, right)
        totals += np.bincount(cell, brier, n_cells)
        counts += np.bincount(cell, minlength=n_cells)
    later = rounds.index[rounds.round] > 0
    ends = np.searchsorted(rounds.cell[later], np.arange(n_cells + 1))
    ids, labels = rounds.ids[later], rounds.labels[later]
    found = []
    for at in range(n_cells):
        chosen = slice(ends[at], ends[at + 1])
        brier_of_cell = totals[at] / counts[at] if counts[at] else float("nan")
        found.append(
            QueriedCell(ids[chosen], labels[chosen], sums[at], brier_of_cell) if ends[at + 1] > ends[at] else NOTHING
        )
    return found


def _offsets(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return where each row of a column of lists begins in its flattened values, and the end; null rows are empty."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _ints(column: pa.Array) -> npt.NDArray[np.int64]:
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.int64)
    if not pa.types.is_integer(column.type):
        raise TypeError(f"whole numbers expected, found {column.type}")
    return np.asarray(pc.fill_null(column, 0).to_numpy(zero_copy_only=False), dtype=np.int64)


def _floats_of(column: pa.StructArray) -> dict[str, npt.NDArray[np.float64]]:
    """Return the fields of a column of mappings; NaN where one is not there."""
    return {
        field.name: np.asarray(column.field(field.name).to_numpy(zero_copy_only=False), dtype=np.float64)
        for field in column.type
    }
