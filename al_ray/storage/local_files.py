"""Files of one folder on a disk of this machine, or mounted as one (NFS): whole or absent, also after a crash.

A file is written beside its place, flushed to the disk and renamed into it.
"""

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class LocalFiles:
    """One folder.

    Attributes:
        path: absolute.
        anchor: a file that is there as long as the right disk is; None: nobody knows yet what should be there.
    """

    path: str
    anchor: str | None = None

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        try:
            with open(self._at(name), "rb") as file:
                return file.read()
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

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in its place, or leave everything as it was."""
        with self._beside(name, data) as beside:
            try:
                os.replace(beside, self._at(name))
            except FileNotFoundError:
                # NFS sends a rename again when the reply was lost; the second one finds nothing left to move.
                if self.read(name) != data:
                    raise
        _sync_folder(self.path)

    def create(self, name: str, data: bytes) -> bool:
        """Put a whole file in its place unless one is there; of many processes at once, one succeeds.

        Returns:
            whether it was put there. Where the file system has no hard links the last of two at once may win.
        """
        with self._beside(name, data) as beside:
            try:
                os.link(beside, self._at(name))
            except FileExistsError:
                # The same as above: the first link was made, the second one finds it.
                if not os.path.samefile(beside, self._at(name)):
                    return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if self.exists(name):
                    return False
                os.replace(beside, self._at(name))
        _sync_folder(self.path)
        return True

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(name))

    def remove_leftovers(self, older_than_s: float) -> None:
        """Delete what a killed writer left half written beside its place.

        ``.nfs...`` files are left alone: the server keeps them while somebody has the deleted file open.

        Args:
            older_than_s: how long ago it was last written to; 0: whenever it was.
        """
        for name in self.entries()[0]:
            if name.startswith(".") and name.endswith(_TEMPORARY):
                with contextlib.suppress(FileNotFoundError):
                    # A server's clock may be ahead, so 0 is not compared.
                    if not older_than_s or time.time() - os.stat(self._at(name)).st_mtime >= older_than_s:
                        os.unlink(self._at(name))

    def check_anchor(self) -> None:
        """Raise where the disk that holds these files is not there.

        Raises:
            FileNotFoundError: another disk, or an empty mount point, is in its place.
        """
        if self.anchor is not None:
            os.stat(self.anchor)

    @contextlib.contextmanager
    def _beside(self, name: str, data: bytes) -> Iterator[str]:
        self._make()
        beside = self._at(f".{name}.{secrets.token_hex(4)}{_TEMPORARY}")
        try:
            with open(beside, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield beside
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)

    def _make(self) -> None:
        self.check_anchor()
        if os.path.isdir(self.path):
            return
        if self.anchor is None:
            os.makedirs(self.path, exist_ok=True)
        else:
            # Only the last folder: making those above would write to the disk beneath an empty mount point.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path)
        _sync_folder(os.path.dirname(self.path))

    def _at(self, name: str) -> str:
        return os.path.join(self.path, name)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
