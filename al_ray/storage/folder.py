"""Folder: atomic reads and writes on any file system that pyarrow opens, with retries during outages.

:mod:`local_files` and :mod:`remote_files` read and write; :mod:`outages` retries.
"""

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from al_ray.errors import StorageError
from al_ray.storage.address import KINDS, below, check_address, hidden, is_uri, shown
from al_ray.storage.local_files import LocalFiles
from al_ray.storage.outages import DISK_FULL, retry_outages
from al_ray.storage.remote_files import RemoteFiles, advice, with_timeouts

_N_READERS = 16
_NAME = re.compile(r"[A-Za-z0-9_=][A-Za-z0-9._=-]{0,199}")

T = TypeVar("T")


def check_name(what: str, name: str) -> str:
    """Return a name that can be one folder or file and nothing else.

    Raises:
        StorageError: it holds a separator, starts with a dot or dash, is empty or longer than 200 characters.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StorageError(
            f"{what} {name!r} cannot be a folder. Use 1 to 200 letters, digits and . _ - =, "
            f"the first of them a letter, a digit, _ or =."
        )
    return name


@dataclass(frozen=True)
class Folder:
    """One folder, which need not exist yet.

    Attributes:
        filesystem: where it is.
        path: its path there, without a trailing slash.
        location: path or URI that opens it again, here and on another machine. It may hold a key: never shown, never
            recorded.
        patience_s: how long an operation is retried during an outage; 0: it fails at once.
        marker: on a disk, the path of a file that is there as long as the disk is mounted; None: none is known yet.
    """

    filesystem: fs.FileSystem
    path: str
    location: str = field(repr=False)
    patience_s: float = 0.0
    marker: str | None = None

    @classmethod
    def open(cls, storage: str, *, patience_s: float = 0.0) -> "Folder":
        """Open the folder that a path or URI names, and look whether it can be used; nothing is written.

        Args:
            storage: a local path (relative ones are made absolute), ``file://``, ``gs://bucket/folder``, or
                ``s3://KEY:SECRET@bucket/folder?endpoint_override=host:port&scheme=http&region=...``; login and query
                may be left out, the key is then looked for where AWS keeps it.
            patience_s: how long an outage is waited out, now and later.

        Raises:
            StorageError: no such scheme or bucket, no permission, it cannot be reached, or is not a folder that can be
                written.
        """
        folder = cls.at(storage, patience_s=patience_s)
        folder._retry(lambda: folder._files.check_usable(folder.address), partial(_unopened, storage))
        return folder

    @classmethod
    def at(cls, storage: str, *, patience_s: float = 0.0) -> "Folder":
        """Return the folder that a path or URI names, as in :meth:`open`, without a look at it."""
        check_address("storage", storage)
        if is_uri(storage):
            open_it = partial(fs.FileSystem.from_uri, storage)
            found, path = retry_outages(open_it, patience_s, partial(_unopened, storage))
            location = path.rstrip("/") if isinstance(found, fs.LocalFileSystem) else storage
            return cls(with_timeouts(found), path.rstrip("/"), location, patience_s)
        local = os.path.abspath(os.path.expanduser(storage))
        return cls(fs.LocalFileSystem(), local, local, patience_s)

    @property
    def address(self) -> str:
        """Path or URI for people: without login and keys."""
        return shown(self.location)

    @property
    def is_local(self) -> bool:
        """Whether it is on a local or mounted disk."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def child(self, name: str) -> "Folder":
        """Return the folder inside this one; ``name`` has been checked by its caller."""
        assert _NAME.fullmatch(name), name
        self._refuse_link(name)
        path = f"{self.path}/{name}" if self.path else name
        return replace(self, path=path, location=below(self.location, name))

    def claimed(self, name: str, patience_s: float) -> "Folder":
        """Return the same folder with a file in it as the marker: where that is gone, the disk is not mounted.

        Nothing is then believed to be absent, and no folder is made, on what may be the disk beneath a mount point.
        """
        return replace(self, patience_s=patience_s, marker=f"{self.path}/{name}" if self.is_local else None)

    def where(self, name: str) -> str:
        """Return the address of a file, for messages."""
        return shown(below(self.location, name))

    def exists(self, name: str) -> bool:
        """Tell whether a file of that name is there."""
        return self._look(name, lambda files: files.exists(name))

    def names(self) -> tuple[list[str], list[str]]:
        """Return the files and the folders inside, sorted; hidden and unfinished ones (leading dot) are left out."""
        files, folders = self._look("", lambda found: tuple(map(_shown_names, found.entries())))
        return files, folders

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file.

        Raises:
            StorageError: it is there and cannot be read.
        """
        return self._look(name, lambda files: files.read(name))

    def read_with(self, name: str, look: Callable[[pa.NativeFile], T]) -> T | None:
        """Return what ``look`` finds in an open file, of which it need not read all, or None where there is none.

        Raises:
            StorageError: it is there and cannot be read; or what ``look`` raises.
        """
        return self._look(name, lambda files: files.read_with(name, look))

    def each(self, read: Callable[[str], T], names: list[str]) -> list[T]:
        """Return ``read(name)`` for every name, in order; side by side where each costs a network round trip."""
        if self.is_local or len(names) < 2:
            return [read(name) for name in names]
        with ThreadPoolExecutor(_N_READERS) as readers:
            return list(readers.map(read, names))

    def write(self, name: str, data: bytes, what: str) -> None:
        """Write a file atomically: whole, or not at all.

        Args:
            name: of the file; one that is there is replaced.
            data: its bytes.
            what: what was not recorded when this fails, for example ``round 7``.

        Raises:
            StorageError: the disk is full, or the place cannot be written.
        """
        self.write_all({name: data}, what)

    def write_all(self, files: Mapping[str, bytes], what: str, *, in_order: bool = True) -> None:
        """Write several files, each atomically: on a disk its folder is flushed once, for all of them.

        Args:
            files: name -> bytes.
            what: as for :meth:`write`.
            in_order: where one of them is there, those before it are; else an object store takes them side by side.

        Raises:
            StorageError: as for :meth:`write`; some of them may be written.
        """
        local, n_bytes = self._files, sum(map(len, files.values()))
        if isinstance(local, LocalFiles):
            self._retry(lambda: local.write(files), partial(self._unwritten, next(iter(files), ""), n_bytes, what))
        elif in_order:
            for name, data in files.items():
                self._upload(name, data, what)
        else:
            self.each(lambda name: self._upload(name, files[name], what), list(files))

    def create(self, name: str, data: bytes, what: str) -> bool:
        """Write a whole file unless one of that name is there: then it stays as it is.

        On a disk this is one step: of many processes that start at once, one is told True. An object store is looked
        at and then written, and the later of two writers stays: read the file back to see whose it is.

        Args:
            name: of the file.
            data: its bytes, which nobody else would write.
            what: as for :meth:`write`.

        Returns:
            whether it was written.

        Raises:
            StorageError: as for :meth:`write`.
        """
        tries = count()

        def make() -> bool:
            repeated = next(tries) > 0
            # A try that failed may have reached the storage all the same: what is found is then one's own.
            return self._files.create(name, data) or (repeated and self._files.read(name) == data)

        return self._retry(make, partial(self._unwritten, name, len(data), what))

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is fine."""
        self._retry(lambda: self._files.remove(name), partial(self._unread, name))

    def remove_leftovers(self, older_than_s: float = 0.0) -> None:
        """Delete the temporary files of killed writers; object stores have none."""
        files = self._files
        if isinstance(files, LocalFiles):
            self._retry(lambda: files.remove_leftovers(older_than_s), partial(self._unread, ""))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file below this folder, by its path from here."""
        selector = fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        found = self._retry(lambda: self.filesystem.get_file_info(selector), partial(self._unread, ""))
        return {info.path[len(self.path) + 1 :]: info.size for info in found if info.is_file}

    def free_bytes(self) -> int | None:
        """Return the bytes free on the disk, or None where that has no meaning (object stores)."""
        files = self._files
        return files.free_bytes() if isinstance(files, LocalFiles) else None

    def _upload(self, name: str, data: bytes, what: str) -> None:
        remote = RemoteFiles(self.filesystem, self.path)
        self._retry(lambda: remote.write(name, data), partial(self._unwritten, name, len(data), what))

    @property
    def _files(self) -> LocalFiles | RemoteFiles:
        return LocalFiles(self.path, self.marker) if self.is_local else RemoteFiles(self.filesystem, self.path)

    def _refuse_link(self, name: str) -> None:
        """Follow no link inside a storage folder, since it may leave it; the storage folder itself may be one.

        Raises:
            StorageError: a file or folder inside is a link.
        """
        if self.is_local and name and os.path.islink(f"{self.path}/{name}"):
            raise StorageError(
                f"{self.where(name)} is a link, and links inside a storage folder are not followed: they may leave it. "
                f"Put the real one there; the storage folder itself may be a link."
            )

    def _look(self, name: str, look: Callable[[LocalFiles | RemoteFiles], T]) -> T:
        self._refuse_link(name)
        files = self._files

        def look_on_the_mounted_disk() -> T:
            found = look(files)
            if found not in (None, False, ([], [])) or not isinstance(files, LocalFiles) or files.marker is None:
                return found
            files.check_mounted()
            return look(files)  # The disk may have come back after the first look.

        return self._retry(look_on_the_mounted_disk, partial(self._unread, name))

    def _retry(self, action: Callable[[], T], message: Callable[[Exception], str]) -> T:
        return retry_outages(action, self.patience_s, message, claimed=self.marker is not None)

    def _unread(self, name: str, error: Exception) -> str:
        return f"cannot read {self.where(name) if name else self.address}: {self._why(error)}"

    def _unwritten(self, name: str, n_bytes: int, what: str, error: Exception) -> str:
        if not isinstance(error, OSError) or error.errno not in DISK_FULL:
            return (
                f"{what} was not recorded: cannot write {self.where(name)}: {self._why(error)} "
                f"Nothing was lost: mend the storage and run again."
            )
        free = "free space unknown"
        with contextlib.suppress(OSError):
            free_bytes = self.free_bytes()
            free = free if free_bytes is None else f"{size_text(free_bytes)} free"
        return (
            f"{what} was not recorded: no space left for {self.where(name)} ({size_text(n_bytes)} needed, {free}). "
            f"Nothing was lost: free space and run again."
        )

    def _why(self, error: Exception) -> str:
        """Word an error and what to do about it, without the keys of the address."""
        why, todo = hidden(str(error), self.location).rstrip(". "), advice(error)
        if self.marker is not None and isinstance(error, FileNotFoundError):
            todo = f"{os.path.dirname(self.marker)} is not what it was: mount it again, or put the study back"
        return f"{why}. {todo}." if todo else f"{why}."


def _unopened(storage: str, error: Exception) -> str:
    """Word that an address opens nothing, without its keys."""
    what, why = hidden(storage, storage), hidden(str(error), storage).rstrip(". ")
    if isinstance(error, pa.ArrowException):
        odd = " A key with / or + in it is written with %2F and %2B." if "@" in storage else ""
        return f"storage {what!r} cannot be opened: {why}. {KINDS}.{odd}"
    return f"storage {what!r} cannot be used: {why}. {advice(error) or KINDS}."


def _shown_names(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))


def size_text(n_bytes: float) -> str:
    """Return bytes as people read them: ``27.5 KiB``, ``1.5 GiB``."""
    scale, unit = (2**10, "KiB") if n_bytes < 2**20 else (2**20, "MiB") if n_bytes < 2**30 else (2**30, "GiB")
    return f"{n_bytes / scale:.1f} {unit}"
