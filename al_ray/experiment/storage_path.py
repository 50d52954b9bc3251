"""A folder on any file system that pyarrow opens, whose files are whole or absent.

On a local disk a file is written beside its place, flushed to the disk and renamed into it. An object store shows an
object only when its upload is complete, so one upload is enough. Other file systems write beside and move.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from al_ray.errors import StorageError

_OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
_N_READERS = 16
_NAME = re.compile(r"[A-Za-z0-9_=][A-Za-z0-9._=-]{0,199}")
_TEMPORARY = ".tmp"

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
        address: what a person types to open it again.
    """

    filesystem: fs.FileSystem
    path: str
    address: str

    @classmethod
    def open(cls, storage: str, filesystem: fs.FileSystem | None = None) -> "Folder":
        """Open the folder that a path or URI names; nothing is written.

        Args:
            storage: a local path (relative ones are made absolute), ``file://``, ``s3://bucket/folder``, ``gs://...``.
            filesystem: an open pyarrow file system, on which ``storage`` is then a plain path.

        Raises:
            StorageError: no such scheme, it cannot be reached, or it is not a folder that can be written.
        """
        if not isinstance(storage, str) or not storage.strip():
            raise StorageError(f"storage is {storage!r}. Name a folder or a URI such as s3://bucket/folder.")
        if filesystem is not None:
            folder = cls(*_unwrap(filesystem, storage.strip("/")), storage)
        elif "://" in storage:
            folder = cls(*_from_uri(storage), storage.rstrip("/"))
        else:
            local = os.path.abspath(os.path.expanduser(storage))
            folder = cls(fs.LocalFileSystem(), local, local)
        folder._check_usable()
        return folder

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine, or mounted as one."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def child(self, name: str) -> "Folder":
        """Return the folder inside this one; ``name`` has been checked by its caller."""
        assert _NAME.fullmatch(name), name
        return Folder(self.filesystem, f"{self.path}/{name}" if self.path else name, f"{self.address}/{name}")

    def where(self, name: str) -> str:
        """Return the address of a file, for messages."""
        return f"{self.address}/{name}"

    def exists(self, name: str) -> bool:
        """Tell whether a file of that name is there."""
        with self._reading(name):
            return bool(self.filesystem.get_file_info(f"{self.path}/{name}").is_file)

    def names(self) -> tuple[list[str], list[str]]:
        """Return the files and the folders inside, sorted; hidden and unfinished ones (leading dot) are left out."""
        with self._reading(""):
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        shown = sorted((info for info in found if not info.base_name.startswith(".")), key=lambda info: info.base_name)
        files = [info.base_name for info in shown if info.type == fs.FileType.File]
        return files, [info.base_name for info in shown if info.type == fs.FileType.Directory]

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file.

        Raises:
            StorageError: it is there and cannot be read.
        """
        try:
            with self._reading(name), self._open(name) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def read_all(self, names: list[str]) -> list[bytes | None]:
        """Return many files' bytes in the order of ``names``."""
        return self.each(self.read, names)

    def each(self, read: Callable[[str], T], names: list[str]) -> list[T]:
        """Return ``read(name)`` for every name, in order; side by side where each costs a network round trip."""
        if self.is_local or len(names) < 2:
            return [read(name) for name in names]
        with ThreadPoolExecutor(_N_READERS) as readers:
            return list(readers.map(read, names))

    def write(self, name: str, data: bytes, what: str) -> None:
        """Write a whole file, or leave everything as it was.

        Args:
            name: of the file; one that is there is replaced.
            data: its bytes.
            what: what was not recorded when this fails, for example ``round 7``.

        Raises:
            StorageError: the disk is full, or the place cannot be written.
        """
        try:
            if self.is_local:
                _write_local(self.path, name, data)
            else:
                _write_remote(self.filesystem, self.path, name, data)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(self._unwritten(name, len(data), what, error)) from error

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError), self._reading(name):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def remove_leftovers(self) -> None:
        """Delete what a killed writer left half written beside its place."""
        if self.is_local and os.path.isdir(self.path):
            for name in os.listdir(self.path):
                if name.startswith(".") and name.endswith(_TEMPORARY):
                    self.remove(name)

    def free_bytes(self) -> int | None:
        """Return the bytes free on the disk, or None where that has no meaning (object stores)."""
        return shutil.disk_usage(_nearest_existing(self.path)).free if self.is_local else None

    def _open(self, name: str) -> pa.NativeFile:
        return self.filesystem.open_input_stream(f"{self.path}/{name}", compression=None)

    def _check_usable(self) -> None:
        with self._reading(""):
            found = self.filesystem.get_file_info(self.path) if self.path else None
        if found is not None and found.type == fs.FileType.File:
            raise StorageError(f"storage {self.address} is a file. Name a folder.")
        if not self.is_local:
            return
        existing = _nearest_existing(self.path)
        if not existing.is_dir():
            raise StorageError(f"storage {self.address} cannot be made: {existing} is a file. Name another folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(f"storage {self.address}: {existing} cannot be written. Name another folder.")

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"cannot read {self.where(name).rstrip('/')}: {error}") from error

    def _unwritten(self, name: str, n_bytes: int, what: str, error: Exception) -> str:
        if isinstance(error, OSError) and error.errno in _FULL:
            return (
                f"{what} was not recorded: no space left for {self.where(name)} ({_size(n_bytes)} needed, "
                f"{_free_words(self)}). Nothing was lost: free space and run again."
            )
        return (
            f"{what} was not recorded: cannot write {self.where(name)}: {error}. "
            f"Nothing was lost: mend the storage and run again."
        )


def free_space(storage: str) -> int | None:
    """Return the bytes free where a storage folder is or will be; None for object stores.

    Raises:
        StorageError: the storage cannot be reached or is not a folder.
    """
    return Folder.open(storage).free_bytes()


def _from_uri(storage: str) -> tuple[fs.FileSystem, str]:
    try:
        filesystem, path = fs.FileSystem.from_uri(storage)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StorageError(
            f"storage {storage!r} cannot be opened: {error}. Use a folder, file://, s3://bucket/folder or gs://bucket/folder."
        ) from error
    return _unwrap(filesystem, path.rstrip("/"))


def _unwrap(filesystem: fs.FileSystem, path: str) -> tuple[fs.FileSystem, str]:
    while isinstance(filesystem, fs.SubTreeFileSystem):
        if ".." in path.split("/"):
            raise StorageError(f"storage path {path!r} leaves its file system. Write it without '..'.")
        path = f"{filesystem.base_path.rstrip('/')}/{path}".rstrip("/")
        filesystem = filesystem.base_fs
    return filesystem, path


def _nearest_existing(path: str) -> Path:
    place = Path(path)
    return next(parent for parent in (place, *place.parents) if parent.exists())


def _write_local(folder: str, name: str, data: bytes) -> None:
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
        _sync_folder(os.path.dirname(folder))
    beside = os.path.join(folder, f".{name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, os.path.join(folder, name))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _write_remote(filesystem: fs.FileSystem, folder: str, name: str, data: bytes) -> None:
    path = f"{folder}/{name}"
    if filesystem.type_name in _OBJECT_STORES:
        _upload(filesystem, path, data)
        return
    beside = f"{folder}/.{name}.{secrets.token_hex(4)}{_TEMPORARY}"
    filesystem.create_dir(folder, recursive=True)
    try:
        _upload(filesystem, beside, data)
        filesystem.move(beside, path)
    except BaseException:
        with contextlib.suppress(OSError, pa.ArrowException):
            filesystem.delete_file(beside)
        raise


def _upload(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    with filesystem.open_output_stream(path, compression=None) as file:
        file.write(data)


def _free_words(folder: Folder) -> str:
    free = folder.free_bytes()
    return "free space unknown" if free is None else f"{_size(free)} free"


def _size(n_bytes: int) -> str:
    scale, unit = (2**10, "KiB") if n_bytes < 2**20 else (2**20, "MiB") if n_bytes < 2**30 else (2**30, "GiB")
    return f"{n_bytes / scale:.1f} {unit}"
