"""Stored encodings: kept in the storage under a hash of what they were made of, so that many studies compute them once.

Each lies in a folder of its own, ``STORAGE/_cache/KEY``, beside the studies: ``about.json``, a file for everyone who
read it last, and the numbers. These are written in parts of :data:`~al_ray.model.encoding.ENCODED_ROWS` texts, each
whole or not at all, by whoever computes them; the first of two writers of a part stays. Once all are there, a disk
holds them as one file, which is mapped, and a bucket goes on holding the parts.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from al_ray.errors import StorageError
from al_ray.model.encoding import ENCODED_ROWS, Encoder, Encoding, blocks_of
from al_ray.storage.folder import Folder
from al_ray.storage.local_files import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

# No study can be called so: the name of one starts with a letter or a digit.
CACHE = "_cache"
FORMAT = 1
"""Raised where other files are written, or where this program makes other numbers of the same texts."""
ABOUT, ROWS = "about.json", "rows.npy"
N_TRIES = 3
_PART, _USE = re.compile(r"part-(\d{6})\.npy"), re.compile(r"use--(.+)\.json")
_KEY = re.compile(r"[0-9a-f]{32}")
_HASH_BYTES, _CHUNK_BYTES = 32, 2**24
_N_FETCHED = 16
_OTHER_CONTENT = "its content is not that of its hash"

Rows = npt.NDArray[Any]
T = TypeVar("T")
_log = logging.getLogger(__name__)


class DamagedEncodingError(StorageError):
    """A file of a stored encoding is not what was written, or gone; without it, it is computed again."""


@dataclass(frozen=True)
class Texts:
    """Texts in their order, known by their content."""

    column: "pa.ChunkedArray"

    def __len__(self) -> int:
        return len(self.column)

    @cached_property
    def sha256(self) -> str:
        """Hash of the length of each text in bytes, then of all of them."""
        import pyarrow.compute as pc

        digest = hashlib.sha256(np.asarray(pc.binary_length(self.column), dtype="<i8").tobytes())
        for chunk in self.column.chunks:
            if len(chunk):
                kind = np.dtype(np.int64 if str(chunk.type).startswith("large") else np.int32)
                _, offsets, data = chunk.buffers()
                ends = np.frombuffer(offsets, kind, len(chunk) + 1, chunk.offset * kind.itemsize)
                digest.update(memoryview(data)[ends[0] : ends[-1]] if data is not None else b"")
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class StoredEncoding:
    """One encoding of the texts of one split, which may be there, in part, or not yet.

    Attributes:
        folder: its own.
        n_texts: of the split, at least 1.
        about: what it is made of, and the words for people.
        user: the study or project that reads it.
    """

    folder: Folder
    n_texts: int
    about: Mapping[str, Any]
    user: str

    @classmethod
    def of(
        cls, storage: Folder, encoding: Encoding, texts: Texts, max_tokens: int, *, data: str, user: str
    ) -> "StoredEncoding":
        """Return the place of an encoding in a storage; nothing is looked at or written.

        Args:
            storage: the folder above the studies.
            encoding: by which model, and what of its output.
            texts: in the order in which they are encoded, which decides the last bits.
            max_tokens: that texts are cut to.
            data: what people call the texts.
            user: name of the study or project that asks.
        """
        assert len(texts) > 0, "no text to encode"
        content = {"format": FORMAT, "texts_sha256": texts.sha256, "max_tokens": max_tokens, **encoding.content}
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
        words = {"data": data, "n_texts": len(texts), "model": encoding.model.name, "revision": encoding.model.revision}
        folder = storage.child(CACHE).child(key)
        return cls(folder=folder, n_texts=len(texts), about={**content, **words}, user=user)

    @property
    def key(self) -> str:
        """What two encodings share that are made of the same."""
        return self.folder.path.rpartition("/")[2]

    @property
    def n_parts(self) -> int:
        """Blocks of texts, and files while they are computed."""
        return -(-self.n_texts // ENCODED_ROWS)

    def begin(self, device: str) -> "StoredEncoding":
        """Note what is stored here and who reads it, before anything is written or read.

        Args:
            device: what computes what is missing, in torch's word.

        Returns:
            the same, where ``about.json`` tells a folder that is gone, or on a disk that is not mounted, from an empty
            one.
        """
        what = f"the encoding {self.key}"
        if not self.folder.exists(ABOUT):
            made = {"device": device, "made_at": _now(), "made_by": self.user}
            self.folder.create(ABOUT, _json({**self.about, **made}), what)
        begun = replace(self, folder=self.folder.claimed(ABOUT, self.folder.patience_s))
        with contextlib.suppress(StorageError):  # on a disk that cannot be written; whoever reads it last matters less
            begun.folder.write(_use(self.user), _json({"at": _now()}), what)
        begun.folder.remove_leftovers(older_than_s=3600.0)
        return begun

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are not there."""
        files, _ = self.folder.names()
        if ROWS in files:
            return []
        there = {int(found[1]) for name in files if (found := _PART.fullmatch(name))}
        return [number for number in range(self.n_parts) if number not in there]

    def n_stored(self) -> int:
        """Return how many texts are encoded and there."""
        missing = self.missing()
        last = self.n_texts - (self.n_parts - 1) * ENCODED_ROWS
        return self.n_texts - sum(last if number == self.n_parts - 1 else ENCODED_ROWS for number in missing)

    def n_bytes(self) -> int:
        """Return what the numbers that are there take."""
        sizes = self.folder.sizes()
        return sizes.get(ROWS) or sum(size for name, size in sizes.items() if _PART.fullmatch(name))

    def write(self, number: int, rows: Rows) -> None:
        """Keep one part, unless somebody else has."""
        rows = np.ascontiguousarray(rows)
        file = io.BytesIO()
        np.save(file, rows)
        np.save(file, np.frombuffer(_sha256(rows), np.uint8))
        self.folder.create(_part(number), file.getvalue(), f"part {number} of the encoding {self.key}")

    def rows(self) -> Rows:
        """Return all rows, proved by their hashes: on a disk mapped from one file, made here first; else in memory.

        Raises:
            DamagedEncodingError: a file was damaged.
            StorageError: the storage cannot be read, or the file cannot be written.
        """
        if not self.folder.is_local:
            rows = self._joined()
            if not self._fits(rows):
                raise StorageError(self._misfit(self.folder.address, rows))
            return rows
        path = Path(self.folder.path) / ROWS
        is_new = not self.folder.exists(ROWS)
        if is_new:
            self.put_together(path)
        try:
            rows = self.mapped(path, proved=not is_new)  # each part was
        except DamagedEncodingError:
            self.folder.remove(ROWS)
            raise
        for name in self.folder.names()[0]:  # only now; somebody may also have written one too late
            if _PART.fullmatch(name):
                self.folder.remove(name)
        return rows

    def _joined(self) -> Rows:
        """Return all parts as one array; where there is a row a text, nothing is in memory twice."""
        parts = self._parts()
        if isinstance(self.about["output"], int):
            return np.concatenate(list(parts))
        rows, at = np.empty((0, 0), np.float32), 0
        for part in parts:
            if not at:
                rows = np.empty((self.n_texts, part.shape[1]), part.dtype)
            if part.shape[1] != rows.shape[1] or at + len(part) > len(rows):
                raise StorageError(self._misfit(self.folder.address, part))
            rows[at : at + len(part)] = part
            at += len(part)
        return rows[:at]

    def put_together(self, path: Path) -> None:
        """Write all parts to one file on a disk of this machine, whole or not at all; few are in memory at a time.

        Raises:
            DamagedEncodingError: a part was damaged, or is gone.
            StorageError: the storage cannot be read, or the file cannot be written.
        """
        try:
            with whole_file(path) as file:
                self._put_together(file)
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error.strerror}. It takes as much as the parts, {self.n_bytes()} bytes. "
                "Free space there and run again; what is computed is kept."
            ) from error

    def _put_together(self, file: BinaryIO) -> None:
        digest, dtype, shape = hashlib.sha256(), np.dtype(np.float32), (0, 0)
        for part in self._parts():
            if not file.tell():
                dtype, shape = part.dtype, (0, part.shape[1])
                _write_header(file, dtype, shape)
            if (part.dtype, part.shape[1]) != (dtype, shape[1]):
                raise StorageError(self._misfit(self.folder.address, part))
            file.write(part.data)
            digest.update(part.data)
            shape = (shape[0] + len(part), shape[1])
        np.save(file, np.frombuffer(digest.digest(), np.uint8))
        file.seek(0)
        _write_header(file, dtype, shape)  # numpy leaves room in it for the final number of rows

    def mapped(self, path: Path, *, proved: bool) -> Rows:
        """Map what :meth:`put_together` wrote; read-only.

        Args:
            path: of the file.
            proved: read it once, to see that it is what was written.

        Raises:
            DamagedEncodingError: it is not.
        """
        try:
            rows = np.asarray(np.lib.format.open_memmap(path, mode="r"))
            with open(path, "rb") as file:
                file.seek(-_HASH_BYTES, os.SEEK_END)
                digest = file.read()
        except FileNotFoundError:
            raise DamagedEncodingError(f"{path} is gone. Run again, and it is computed again.") from None
        except (ValueError, EOFError, OSError) as error:
            raise DamagedEncodingError(self._damage(path, error, "Delete it and run again")) from error
        if not self._fits(rows):
            raise DamagedEncodingError(self._misfit(path, rows))
        if proved and _sha256(rows) != digest:
            raise DamagedEncodingError(self._damage(path, _OTHER_CONTENT, "Delete it and run again"))
        return rows

    def _parts(self) -> Iterator[Rows]:
        """Read all parts in order, a few at a time."""
        for start in range(0, self.n_parts, _N_FETCHED):
            names = [_part(number) for number in range(start, min(start + _N_FETCHED, self.n_parts))]
            for name, data in zip(names, self.folder.each(self._read, names), strict=True):
                yield self._opened(name, data)

    def _read(self, name: str) -> bytes:
        data = self.folder.read(name)
        if data is None:
            raise DamagedEncodingError(
                f"{self.folder.where(name)} is gone: deleted, or put together with the others by another study. "
                "Run again; what is missing is computed again."
            )
        return data

    def _opened(self, name: str, data: bytes) -> Rows:
        file = io.BytesIO(data)
        try:
            rows, digest = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(2))
            if rows.ndim != 2 or _sha256(rows) != digest.tobytes():
                raise ValueError(_OTHER_CONTENT)
        except (ValueError, EOFError, OSError) as error:
            self.folder.remove(name)
            raise DamagedEncodingError(
                self._damage(self.folder.where(name), error, "It was deleted; run again")
            ) from error
        return rows

    def _fits(self, rows: Rows) -> bool:
        """Tell whether there are as many rows as texts; of the output of a layer there is one a token."""
        return rows.ndim == 2 and (isinstance(self.about["output"], int) or len(rows) == self.n_texts)

    def _damage(self, where: object, why: object, what_to_do: str) -> str:
        return f"{where} is damaged: {why}. {what_to_do}, and it is computed again."

    def _misfit(self, where: object, rows: Rows) -> str:
        return (
            f"{where} holds an encoding of {self.n_texts} texts and rows of the shape {rows.shape}, which do not "
            f"belong together. Delete {self.folder.address}; it is computed again."
        )


def completed(
    stored: Mapping[str, StoredEncoding],
    compute: Callable[[Mapping[str, Sequence[int]]], None],
    read: Callable[[StoredEncoding], T],
) -> dict[str, T]:
    """Compute what is missing of encodings and read them; what turns out to be damaged is computed again.

    Args:
        stored: of each split; begun.
        compute: computes and writes parts of the splits, by their numbers.
        read: reads one of them.

    Raises:
        StorageError: the files cannot be read or written, or were damaged again and again.
    """
    for n_left in reversed(range(N_TRIES)):
        missing = {split: each.missing() for split, each in stored.items()}
        if any(missing.values()):
            compute(missing)
        try:
            return {split: read(each) for split, each in stored.items()}
        except DamagedEncodingError as error:
            if not n_left:
                raise
            _log.warning("%s That is done now.", error)
    raise AssertionError("the last try returns or raises")


def completed_here(
    stored: Mapping[str, StoredEncoding],
    tables: "Callable[[str], pa.Table]",
    encoder: Callable[[], Encoder],
    tell: Callable[[int, int], None] = lambda n_texts, n: None,
) -> dict[str, Rows]:
    """Return the rows of encodings; what is missing is computed in this process, and stored.

    Args:
        stored: of each split; begun.
        tables: gives the table of tokens of a split; called only where something has to be computed.
        encoder: loads the model, likewise.
        tell: told how many texts of how many are encoded, before each block.

    Raises:
        StorageError: the files cannot be read or written, or were damaged again and again.
        ModelError: the model is not on this machine.
    """

    def compute(missing: Mapping[str, Sequence[int]]) -> None:
        encode = encoder()
        for split, numbers in missing.items():
            blocks = blocks_of(tables(split)) if numbers else []
            n_texts = stored[split].n_texts
            for n_done, number in enumerate(numbers, stored[split].n_parts - len(numbers)):
                tell(min(n_done * ENCODED_ROWS, n_texts), n_texts)
                stored[split].write(number, encode(blocks[number]))

    return completed(stored, compute, StoredEncoding.rows)


@dataclass(frozen=True, kw_only=True)
class FoundEncoding:
    """A stored encoding as it lies in a storage.

    Attributes:
        folder: its own.
        about: what ``about.json`` says; empty where that is missing or damaged.
        n_bytes: that its files take.
        n_texts: of the split; 0 where that is not known.
        n_stored: of them that are encoded and there.
        uses: study or project -> when it last began to read it, ISO 8601.
    """

    folder: Folder
    about: Mapping[str, Any]
    n_bytes: int
    n_texts: int
    n_stored: int
    uses: Mapping[str, str]

    @property
    def key(self) -> str:
        """Its name, which is a hash of what it was made of."""
        return self.folder.path.rpartition("/")[2]

    @property
    def is_whole(self) -> bool:
        """Whether every text is encoded."""
        return self.n_stored == self.n_texts > 0

    def delete(self) -> None:
        """Delete it; ``about.json`` goes last, so that a deletion that was broken off is done again by its name."""
        names = self.folder.names()[0]
        for name in sorted(names, key=lambda name: name == ABOUT):
            self.folder.remove(name)
        self.folder.remove_leftovers()
        if self.folder.is_local:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder.path)


def found_encodings(storage: Folder) -> list[FoundEncoding]:
    """Return the encodings that lie in a storage, by their keys.

    Raises:
        StorageError: it cannot be read.
    """
    cache = storage.child(CACHE)
    keys = [key for key in cache.names()[1] if _KEY.fullmatch(key)]
    return [found for found in cache.each(lambda key: _found(cache.child(key)), keys) if found is not None]


def _found(folder: Folder) -> FoundEncoding | None:
    """Look at one folder; None where it is empty, as a bucket may show one that was deleted."""
    sizes = folder.sizes()
    if not sizes:
        return None
    about, users = _read_json(folder, ABOUT), [found[1] for name in sorted(sizes) if (found := _USE.fullmatch(name))]
    n_texts, n_parts = about.get("n_texts"), sum(_PART.fullmatch(name) is not None for name in sizes)
    n_texts = n_texts if isinstance(n_texts, int) else 0
    return FoundEncoding(
        folder=folder,
        about=about,
        n_bytes=sum(sizes.values()),
        n_texts=n_texts,
        n_stored=n_texts if ROWS in sizes else min(n_parts * ENCODED_ROWS, n_texts),
        uses={user: str(_read_json(folder, _use(user)).get("at", "")) for user in users},
    )


def _read_json(folder: Folder, name: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(folder.read(name) or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _part(number: int) -> str:
    return f"part-{number:06d}.npy"


def _use(user: str) -> str:
    return f"use--{user}.json"


def _sha256(rows: Rows) -> bytes:
    digest, flat = hashlib.sha256(), np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _CHUNK_BYTES):
        digest.update(flat[start : start + _CHUNK_BYTES].data)
    return digest.digest()


def _write_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
