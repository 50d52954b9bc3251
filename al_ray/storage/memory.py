"""Folder in memory: what a cell's files are read from and written to while they have no folder on a storage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T = TypeVar("T")


class Files(Protocol):
    """The files of one folder, wherever they are; what :class:`~al_ray.storage.folder.Folder` says of each method."""

    @property
    def address(self) -> str:
        """Return where it is, for people."""
        ...

    def where(self, name: str) -> str:
        """Return the address of a file, for messages."""
        ...

    def exists(self, name: str) -> bool:
        """Tell whether a file of that name is there."""
        ...

    def names(self) -> tuple[list[str], list[str]]:
        """Return the files and the folders inside, sorted."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        ...

    def each(self, read: Callable[[str], T], names: list[str]) -> list[T]:
        """Return ``read(name)`` for every name, in order."""
        ...

    def write(self, name: str, data: bytes, what: str) -> None:
        """Write a file."""
        ...

    def write_all(self, files: Mapping[str, bytes], what: str, *, in_order: bool = True) -> None:
        """Write several files."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is fine."""
        ...

    def remove_leftovers(self, older_than_s: float = 0.0) -> None:
        """Delete the temporary files of killed writers."""
        ...


@dataclass
class MemoryFolder:
    """Files of one folder in memory.

    Attributes:
        address: of the folder that they would be in, for messages.
        files: name -> bytes.
    """

    address: str
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Return the bytes of all files."""
        return sum(map(len, self.files.values()))

    def where(self, name: str) -> str:
        """Return the address that a file would have."""
        return f"{self.address}/{name}"

    def exists(self, name: str) -> bool:
        """Tell whether a file of that name is there."""
        return name in self.files

    def names(self) -> tuple[list[str], list[str]]:
        """Return the files, sorted; there are no folders inside."""
        return sorted(self.files), []

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        return self.files.get(name)

    def each(self, read: Callable[[str], T], names: list[str]) -> list[T]:
        """Return ``read(name)`` for every name, in order."""
        return [read(name) for name in names]

    def write(self, name: str, data: bytes, what: str) -> None:
        """Keep a file."""
        self.files[name] = data

    def write_all(self, files: Mapping[str, bytes], what: str, *, in_order: bool = True) -> None:
        """Keep several files."""
        self.files.update(files)

    def remove(self, name: str) -> None:
        """Forget a file; one that is not there is fine."""
        self.files.pop(name, None)

    def remove_leftovers(self, older_than_s: float = 0.0) -> None:
        """Do nothing: nothing is ever half written."""
