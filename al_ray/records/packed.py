"""Packed cells: the files of many finished quick cells in one Parquet file, a part, written whole and never changed.

A part holds exactly the bytes that the files of each cell's folder would hold, so that one code reads and proves both.
Its rows are files: ``cell`` (the name that the folder would have), ``fingerprint`` of the cell, ``n_rounds`` recorded
of it, ``name``, ``size`` and ``content``. They lie in row groups, each sorted by cell and name: what is not a round,
the rounds, the arrays of each cell's last round, those of the others; so what is recorded is looked up without any
content, and a report reads rounds and last arrays alone. Every page has a checksum.
"""

import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al_ray.errors import StorageError
from al_ray.records.json import FORMAT
from al_ray.records.round import count_rounds, now, round_file
from al_ray.storage.folder import Folder
from al_ray.storage.memory import MemoryFolder
from al_ray.storage.outages import is_outage

PACKED = "packed"
Kind = Literal["heads", "rounds", "last arrays", "arrays"]
KINDS: tuple[Kind, ...] = ("heads", "rounds", "last arrays", "arrays")
_FORMAT_KEY = b"al_ray.format"
_SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("fingerprint", pa.string()),
        ("n_rounds", pa.int32()),
        ("name", pa.string()),
        ("size", pa.int64()),
        ("content", pa.binary()),
    ],
    metadata={_FORMAT_KEY: str(FORMAT).encode()},
)
_REPEATED = ["cell", "fingerprint", "name"]
_N_KEPT = 40  # groups of parts in memory, for readers that go from cell to cell, 16 at a time, each in two groups

T = TypeVar("T")
Contents = dict[str, dict[str, bytes]]  # files by the key of their cell, and by their name


@dataclass(frozen=True)
class FilesOfCell:
    """The files of a finished cell, on their way into a part."""

    key: str
    fingerprint: str
    folder: MemoryFolder


@dataclass(frozen=True, slots=True)
class PackedCell:
    """A cell in a part.

    Attributes:
        key: the name that its folder would have.
        fingerprint: of its spec.
        n_rounds: recorded.
        part: name of the file that holds it.
    """

    key: str
    fingerprint: str
    n_rounds: int
    part: str

    @property
    def slug(self) -> str:
        """Return what people call the cell."""
        return self.key.rpartition("--")[0]


def kind_of(name: str, n_rounds: int) -> Kind:
    """Return the row group that a file goes into, of a cell with so many rounds."""
    if not name.startswith("round-"):
        return "heads"
    if not name.endswith(".parquet"):
        return "rounds"
    return "last arrays" if name == round_file(n_rounds - 1, "parquet") else "arrays"


def encode_part(cells: Sequence[FilesOfCell]) -> bytes:
    """Write the files of cells as one Parquet file; the same files always give the same bytes."""
    counts = {cell.key: count_rounds(cell.folder.names()[0], cell.folder.where) for cell in cells}
    rows: dict[Kind, list[tuple[str, str, int, str, int, bytes]]] = {kind: [] for kind in KINDS}
    for cell in sorted(cells, key=lambda cell: cell.key):
        n_rounds = counts[cell.key]
        for name, data in sorted(cell.folder.files.items()):
            rows[kind_of(name, n_rounds)].append((cell.key, cell.fingerprint, n_rounds, name, len(data), data))
    sink = io.BytesIO()
    options: dict[str, Any] = {"use_dictionary": _REPEATED, "write_page_checksum": True}
    with pq.ParquetWriter(sink, _SCHEMA, compression="zstd", write_statistics=["cell"], **options) as out:
        for of_kind in rows.values():
            columns = [[row[at] for row in of_kind] for at in range(len(_SCHEMA))]
            out.write_table(pa.table(columns, schema=_SCHEMA), row_group_size=max(len(of_kind), 1))
    return sink.getvalue()


def write_part(study: Folder, cells: Sequence[FilesOfCell]) -> str:
    """Record finished cells in a new part: all of them, or none.

    Its name begins with the time, so that the parts of a study lie in the order of their writing, and ends in a random
    number, so that no two lanes ever write the same.

    Args:
        study: the study's folder.
        cells: of which each has its own key.

    Returns:
        the name of the part.

    Raises:
        StorageError: it cannot be written.
    """
    name = f"{now():%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}.parquet"
    what = f"cell {cells[0].key}" if len(cells) == 1 else f"{len(cells)} cells, {cells[0].key} to {cells[-1].key},"
    study.child(PACKED).write(name, encode_part(cells), what)
    return name


@dataclass
class _Kept:
    """Something of a part: read by one thread, while others wait for it and read of other parts."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    found: Any = None


class PackedCells:
    """The parts of a study: which cell is in which, and the files of each.

    Looks at the folder when it is first asked, and again at :meth:`look`; of a part that is known nothing is read
    again. May be used by several threads.

    Args:
        study: the study's folder.

    Attributes:
        problems: parts that cannot be read, by name, with the error that says why.
    """

    def __init__(self, study: Folder) -> None:
        self._study, self.problems = study, dict[str, StorageError]()
        self._cells: dict[str, PackedCell] = {}
        self._known: set[str] | None = None
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._lock = threading.RLock()

    @cached_property
    def folder(self) -> Folder:
        """The folder of the parts."""
        return self._study.child(PACKED)

    def look(self) -> "PackedCells":
        """Take in the parts that have come since; one that cannot be read becomes a problem, and is tried again."""
        with self._lock:
            known = self._known or set()
            fresh = [name for name in self.folder.names()[0] if name.endswith(".parquet") and name not in known]
            self.problems.clear()
            for name, found in zip(fresh, self.folder.each(self._cells_or_error, fresh), strict=True):
                if isinstance(found, StorageError):
                    self.problems[name] = found
                    continue
                known.add(name)
                for cell in found:
                    self._cells.setdefault(cell.key, cell)  # what was computed twice is the same
            self._known = known
            return self

    def whole(self) -> Mapping[str, PackedCell]:
        """Return all cells by key, in the order in which they were recorded.

        Raises:
            StorageError: a part cannot be read; the message names it.
        """
        found = self.readable()
        for problem in self.problems.values():
            raise problem
        return found

    def readable(self) -> Mapping[str, PackedCell]:
        """Return the cells of the parts that can be read, by key."""
        if self._known is None:
            self.look()
        return self._cells

    def parts(self) -> dict[str, list[PackedCell]]:
        """Return the cells that can be read by the part that holds them, both in the order of their recording."""
        found: dict[str, list[PackedCell]] = {}
        for cell in self.readable().values():
            found.setdefault(cell.part, []).append(cell)
        return found

    def files(self, cell: PackedCell) -> "PackedFiles":
        """Return the files of a cell."""
        return PackedFiles(self, cell)

    def where(self, part: str) -> str:
        """Return the address of a part."""
        return self.folder.where(part)

    def names(self, cell: PackedCell) -> list[str]:
        """Return the names of a cell's files, sorted, without reading any of them."""
        return self._keep(cell.part, "names", lambda file: _names(file))[cell.key]

    def contents(self, part: str, kinds: Sequence[Kind]) -> list[Contents]:
        """Return the files of some kinds that each cell of a part has, from one look at it; nothing of it is kept.

        Raises:
            StorageError: the part is damaged or gone.
        """
        return self._read(part, lambda file: [_contents(file, kind) for kind in kinds])

    def content(self, cell: PackedCell, kind: Kind) -> Mapping[str, bytes]:
        """Return the files of one kind that a cell has, by name.

        Raises:
            StorageError: the part is damaged or gone.
        """
        contents: Contents = self._keep(cell.part, kind, lambda file: _contents(file, kind))
        return contents.get(cell.key, {})

    def _cells_or_error(self, part: str) -> list[PackedCell] | StorageError:
        try:
            return self._read(part, lambda file: _cells_of(part, file))
        except StorageError as error:
            return error

    def _keep(self, part: str, what: str, read: Callable[[pq.ParquetFile], T]) -> T:
        """Return something of a part, read at most once as long as few others are asked for."""
        with self._lock:
            kept = self._kept.setdefault((part, what), _Kept())
            self._kept.move_to_end((part, what))
            if len(self._kept) > _N_KEPT:
                self._kept.popitem(last=False)
        with kept.lock:
            if kept.found is None:
                kept.found = self._read(part, read)
            found: T = kept.found
            return found

    def _read(self, part: str, read: Callable[[pq.ParquetFile], T]) -> T:
        where = self.where(part)

        def look(source: pa.NativeFile) -> T:
            with _named(where):
                file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True)
                _check_format(where, file)
                return read(file)

        found = self.folder.read_with(part, look)
        if found is None:
            raise StorageError(f"{where} is missing. Put the file back; without it its cells are run anew.")
        return found


@dataclass(frozen=True)
class PackedFiles:
    """The files of one packed cell, to read; see :class:`~al_ray.storage.memory.Files`."""

    packed: PackedCells = field(repr=False)
    cell: PackedCell

    @property
    def address(self) -> str:
        """Return where the cell is, for people."""
        return f"cell {self.cell.key} in {self.packed.where(self.cell.part)}"

    def where(self, name: str) -> str:
        """Return the address of a file, for messages."""
        return f"{name} of {self.address}"

    def exists(self, name: str) -> bool:
        """Tell whether a file of that name is there."""
        return name in self.packed.names(self.cell)

    def names(self) -> tuple[list[str], list[str]]:
        """Return the files, sorted; there are no folders inside."""
        return self.packed.names(self.cell), []

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        return self.packed.content(self.cell, kind_of(name, self.cell.n_rounds)).get(name)

    def each(self, read: Callable[[str], T], names: list[str]) -> list[T]:
        """Return ``read(name)`` for every name, in order."""
        return [read(name) for name in names]

    def write(self, name: str, data: bytes, what: str) -> None:
        """Refuse to write: a part never changes."""
        raise self._refusal(what)

    def write_all(self, files: Mapping[str, bytes], what: str, *, in_order: bool = True) -> None:
        """Refuse to write: a part never changes."""
        raise self._refusal(what)

    def remove(self, name: str) -> None:
        """Refuse to delete: a part never changes."""
        raise self._refusal(name)

    def remove_leftovers(self, older_than_s: float = 0.0) -> None:
        """Do nothing: a part is whole."""

    def _refusal(self, what: str) -> StorageError:
        return StorageError(f"{what} was not recorded: {self.address} is finished, and does not change.")


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Word what pyarrow raises of a damaged file; an outage of the storage stays one, to be waited out."""
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and is_outage(error, claimed=True):
            raise
        raise StorageError(
            f"{where} is damaged: {error}. Put the file back, or move it away; the cells in it are then run anew."
        ) from error


def _check_format(where: str, file: pq.ParquetFile) -> None:
    found = (file.schema_arrow.metadata or {}).get(_FORMAT_KEY, b"")
    if found != str(FORMAT).encode():
        raise StorageError(
            f"{where} has format {found.decode('ascii', 'replace')!r}, this al_ray reads format {FORMAT}. Use the "
            "al_ray that wrote it, or move the file away."
        )
    if not file.schema_arrow.equals(_SCHEMA):
        columns = ", ".join(f"{field.name}: {field.type}" for field in file.schema_arrow)
        raise ValueError(f"it has the columns {columns}, which should be those of docs/records.md")
    if file.num_row_groups != len(KINDS):
        raise ValueError(f"it has {file.num_row_groups} row groups, which should be {len(KINDS)}")


def _cells_of(part: str, file: pq.ParquetFile) -> list[PackedCell]:
    """Return the cells of a part from its small columns: each has one row for its spec."""
    table = file.read_row_group(0, columns=["cell", "fingerprint", "n_rounds", "name"], use_threads=False)
    table = table.filter(pc.equal(table["name"], "spec.json"))
    columns = (table[name].to_pylist() for name in ("cell", "fingerprint", "n_rounds"))
    return [PackedCell(key, digest, n_rounds, part) for key, digest, n_rounds in zip(*columns, strict=True)]


def _names(file: pq.ParquetFile) -> dict[str, list[str]]:
    table = file.read(columns=["cell", "name"], use_threads=False)
    found: dict[str, list[str]] = {}
    for key, name in zip(table["cell"].to_pylist(), table["name"].to_pylist(), strict=True):
        found.setdefault(key, []).append(name)
    return {key: sorted(names) for key, names in found.items()}


def _contents(file: pq.ParquetFile, kind: Kind) -> Contents:
    found: dict[str, dict[str, bytes]] = {}
    table = file.read_row_group(KINDS.index(kind), columns=["cell", "name", "content"], use_threads=False)
    for key, name, data in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found.setdefault(key, {})[name] = data
    return found
