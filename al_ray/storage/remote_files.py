"""Files of one folder on an object store, or on another file system that pyarrow opens: atomic writes.

An object store shows an object only when its upload is complete, so one upload is enough. On other file systems a file
is written under a temporary name and moved.

What pyarrow 25 sends to S3, as seen on the wire: by default a multipart upload even for ten bytes (POST, PUT, POST),
whose parts stay, and are paid for, when the writer dies in between. With ``allow_delayed_open`` a file below 10 MiB is
one PutObject, of which a server that does not get all keeps nothing. A larger one, the arrays of a round over some
100,000 examples, still goes in parts; a lifecycle rule of the bucket clears what a killed writer leaves of those. A
listing asks for 1,000 names at a time until it has all; a delete looks first and then keeps the folder by an empty
object with a slash at the end, which no listing here shows.

obstore 0.12 was weighed in its place. It creates and updates on a condition, in half the requests; but it reads no
``~/.aws`` profile, finds no region, speaks no HDFS, hangs in a forked child, and needs the same retries around it.
"""

import contextlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from al_ray.errors import StorageError

# pyarrow's own: no bound on a silent server for minutes, and 15 minutes for Google's store.
CONNECT_TIMEOUT_S, SILENCE_TIMEOUT_S = 5.0, 15.0
N_ATTEMPTS = 3
_OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})
_DENIED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|UNRECOGNIZED_CLIENT"
    r"|(?:expired|invalid)_?token|MISSING_AUTHENTICATION|HTTP status 40[013]|PERMISSION_DENIED|UNAUTHENTICATED",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(r"HTTP status 301|PermanentRedirect|AuthorizationHeaderMalformed")

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFiles:
    """One folder.

    Attributes:
        filesystem: where it is.
        path: its path there, bucket first.
    """

    filesystem: fs.FileSystem
    path: str

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        try:
            with self.filesystem.open_input_stream(self._at(name), compression=None) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def read_with(self, name: str, look: Callable[[pa.NativeFile], T]) -> T | None:
        """Return what ``look`` finds in an open file, or None where there is no such file."""
        try:
            with self.filesystem.open_input_file(self._at(name)) as file:
                return look(file)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Tell whether a file of that name is there."""
        return bool(self.filesystem.get_file_info(self._at(name)).is_file)

    def entries(self) -> tuple[list[str], list[str]]:
        """Return the names of the files and of the folders inside; none where there is no folder."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        files = [info.base_name for info in found if info.type == fs.FileType.File]
        return files, [info.base_name for info in found if info.type == fs.FileType.Directory]

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically; one that is there is replaced."""
        if self.filesystem.type_name in _OBJECT_STORES:
            self._upload(name, data)
            return
        temporary = f".{name}.{secrets.token_hex(4)}.tmp"
        self.filesystem.create_dir(self.path, recursive=True)
        try:
            self._upload(temporary, data)
            self.filesystem.move(self._at(temporary), self._at(name))
        except BaseException:
            with contextlib.suppress(OSError, pa.ArrowException):
                self.filesystem.delete_file(self._at(temporary))
            raise

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless one of that name is there; not atomic: it is looked for, then written.

        Two processes at once may both be told True; the later one's file stays. pyarrow 25 has no conditional upload
        (it drops an ``If-None-Match`` given as metadata), and not every server that speaks S3 obeys one.
        """
        if self.exists(name):
            return False
        self.write(name, data)
        return True

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self._at(name))

    def check_usable(self, address: str) -> None:
        """Refuse a file in the place of the folder, and a bucket that is not there: to a listing it is an empty one.

        Args:
            address: of the folder, as people may see it.

        Raises:
            StorageError: naming what is there, or the bucket.
        """
        found = self.filesystem.get_file_info(self.path).type if self.path else fs.FileType.Directory
        if found == fs.FileType.File:
            raise StorageError(f"storage {address} is a file. Name a folder.")
        bucket = self.path.split("/", 1)[0]
        if found == fs.FileType.NotFound and self.filesystem.type_name in _OBJECT_STORES and not self._has(bucket):
            raise StorageError(f"storage {address}: there is no bucket {bucket!r}. Make it, or correct the address.")

    def _has(self, bucket: str) -> bool:
        try:
            return bool(self.filesystem.get_file_info(bucket).type != fs.FileType.NotFound)
        except OSError as error:
            if not _DENIED.search(str(error)):
                raise
            return True  # A key for one folder alone may list that folder, and not ask about the bucket.

    def _upload(self, name: str, data: bytes) -> None:
        with self.filesystem.open_output_stream(self._at(name), compression=None) as file:
            file.write(data)

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"


def with_timeouts(filesystem: fs.FileSystem) -> fs.FileSystem:
    """Return the same file system with uploads in one request, few retries and a bound on a silent server's answer."""
    if filesystem.type_name not in ("s3", "gcs"):
        return filesystem
    _, (options,) = filesystem.__reduce__()  # What pyarrow's own pickling keeps: an address holds none of these bounds.
    if filesystem.type_name == "gcs":
        return fs.GcsFileSystem(**{**options, "retry_time_limit": timedelta(seconds=N_ATTEMPTS * SILENCE_TIMEOUT_S)})
    bounds = {"connect_timeout": CONNECT_TIMEOUT_S, "request_timeout": SILENCE_TIMEOUT_S}
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=N_ATTEMPTS)
    return fs.S3FileSystem(**{**options, **bounds, "allow_delayed_open": True, "retry_strategy": retries})


def advice(error: Exception) -> str | None:
    """Say what to do about an object store's answer, or None where its own words are all there is to say."""
    if getattr(error, "errno", None) is not None:
        return None  # of a disk
    text = str(error)
    if _ELSEWHERE.search(text):
        return "The bucket is in another region: add ?region=... to the address"
    if _DENIED.search(text):
        return "The key must be allowed to list the bucket and to get, put and delete objects in the folder"
    if "NETWORK_CONNECTION" in text:
        return "Check the network, and endpoint_override and scheme in the address"
    return None
