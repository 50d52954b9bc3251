"""Files of one folder on a local or mounted disk (NFS): atomic writes that survive a crash.

A file is written under a temporary name, flushed to the disk and renamed.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyarrow as pa

from al_ray.errors import StorageError

_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_SUFFIX = ".tmp"

T = TypeVar("T")


@dataclass(frozen=True)
class LocalFiles:
    """One folder.

    Attributes:
        path: absolute.
        marker: path of a file that is there as long as the disk is mounted; None: no such file is known yet.
    """

    path: str
    marker: str | None = None

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        try:
            with open(self._at(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def read_with(self, name: str, look: Callable[[pa.NativeFile], T]) -> T | None:
        """Return what ``look`` finds in an open file, or None where there is no such file."""
        try:
            with pa.OSFile(self._at(name)) as file:
                return look(file)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Tell whether a file of that name is there."""
        try:
            return stat.S_ISREG(os.stat(self._at(name)).st_mode)
        except FileNotFoundError:
            return False

    def entries(self) -> tuple[list[str], list[str]]:
        """Return the names of the files and of the folders inside; none where there is no folder."""
        files: list[str] = []
        folders: list[str] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as found:
            for entry in found:
                (folders if entry.is_dir() else files).append(entry.name)
        return files, folders

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files atomically, each of them, in this order; one that is there is replaced."""
        for name, data in files.items():
            with self._temporary(name, data) as temporary:
                try:
                    os.replace(temporary, self._at(name))
                except FileNotFoundError:
                    # NFS sends a rename again when the reply was lost; the second one finds nothing left to move.
                    if self.read(name) != data:
                        raise
        _sync_folder(self.path)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file atomically unless one of that name is there; of many processes at once, one succeeds.

        Returns:
            whether it was written. Where the file system has no hard links the last of two at once may win.
        """
        with self._temporary(name, data) as temporary:
            try:
                os.link(temporary, self._at(name))
            except FileExistsError:
                # The same as above: the first link was made, the second one finds it.
                if not os.path.samefile(temporary, self._at(name)):
                    return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if self.exists(name):
                    return False
                os.replace(temporary, self._at(name))
        _sync_folder(self.path)
        return True

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(name))

    def remove_leftovers(self, older_than_s: float) -> None:
        """Delete the temporary files of killed writers.

        ``.nfs...`` files are left alone: the server keeps them while somebody has the deleted file open.

        Args:
            older_than_s: how long ago it was last written to; 0: whenever it was.
        """
        for name in self.entries()[0]:
            if name.startswith(".") and name.endswith(_SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    # A server's clock may be ahead, so 0 is not compared.
                    if not older_than_s or time.time() - os.stat(self._at(name)).st_mtime >= older_than_s:
                        os.unlink(self._at(name))

    def check_mounted(self) -> None:
        """Raise where another disk, or an empty mount point, is in the place of the one with the marker.

        Raises:
            FileNotFoundError: the marker is not there.
        """
        if self.marker is not None:
            os.stat(self.marker)

    def check_usable(self, address: str) -> None:
        """Refuse what is no folder that can be made and written.

        Args:
            address: of the folder, for people.

        Raises:
            StorageError: naming what is in the way.
        """
        existing = self._nearest_existing()
        if os.path.islink(self.path) and not os.path.exists(self.path):
            raise StorageError(
                f"storage {address} is a link to {os.readlink(self.path)}, which is not there. "
                "Make that folder, or name another one."
            )
        if os.path.isfile(self.path):
            raise StorageError(f"storage {address} is a file. Name a folder.")
        if not existing.is_dir():
            raise StorageError(f"storage {address} cannot be made: {existing} is a file. Name another folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(f"storage {address}: {existing} cannot be written. Name another folder.")

    def free_bytes(self) -> int:
        """Return the bytes free on the disk."""
        return shutil.disk_usage(self._nearest_existing()).free

    def _nearest_existing(self) -> Path:
        place = Path(self.path)
        return next(parent for parent in (place, *place.parents) if os.path.exists(parent))  # a stale one is not there

    @contextlib.contextmanager
    def _temporary(self, name: str, data: bytes) -> Iterator[str]:
        self._make()
        temporary = self._at(f".{name}.{secrets.token_hex(4)}{_SUFFIX}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _make(self) -> None:
        self.check_mounted()
        if os.path.isdir(self.path):
            return
        if self.marker is None:
            os.makedirs(self.path, exist_ok=True)
        else:
            # Only the last folder: making those above would write to the disk beneath an empty mount point.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path)
        _sync_folder(os.path.dirname(self.path))

    def _at(self, name: str) -> str:
        return os.path.join(self.path, name)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Let a file be written, piece by piece, under another name beside it, and give it its own once it is on the disk.

    After an error it is gone, and one that had its name before stays.

    Args:
        path: of the file, in a folder that is there.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        size = os.stat(unfinished).st_size
        try:
            os.replace(unfinished, path)
        except FileNotFoundError:  # as above, NFS sends it again when the reply was lost
            if os.stat(path).st_size != size:
                raise
        _sync_folder(str(path.parent))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Let a folder be written under another name beside it, and give it its own at the end; after an error it is gone.

    Args:
        folder: that must not exist yet, or be empty.

    Raises:
        StorageError: it holds something, or cannot be made.
    """
    place = Path(os.path.abspath(folder.expanduser()))
    if os.path.lexists(place) and not place.is_dir():
        raise StorageError(f"{place} is a file. Name a new or empty folder.")
    there = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if there:
        more = ", ..." if len(there) > 3 else ""
        raise StorageError(
            f"{place} holds {len(there)} files or folders already ({', '.join(there[:3])}{more}). Name a new or empty "
            "folder, or delete this one: old and new files must not mix."
        )
    unfinished = place.with_name(f".{place.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"{place} cannot be made: {error.strerror}. Name another folder.") from None
    try:
        yield unfinished
        os.replace(unfinished, os.path.realpath(place))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
