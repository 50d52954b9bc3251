"""What people are told when storage fails: what, where, why, and what to do; without keys."""

import os

import pyarrow as pa

from al_ray.storage.address import KINDS, hidden
from al_ray.storage.patience import FULL
from al_ray.storage.remote_files import advice


def unopened(storage: str, error: Exception) -> str:
    """Word that an address opens nothing."""
    what, why = hidden(storage, storage), _why(error, storage)
    if isinstance(error, pa.ArrowException):
        odd = " A key with / or + in it is written with %2F and %2B." if "@" in storage else ""
        return f"storage {what!r} cannot be opened: {why}. {KINDS}.{odd}"
    return f"storage {what!r} cannot be used: {why}. {advice(error) or KINDS}."


def unread(where: str, location: str, anchor: str | None, error: Exception) -> str:
    """Word that a file or folder cannot be read.

    Args:
        where: it is, as people may see it.
        location: of the folder, whose key is hidden.
        anchor: the file without which the storage counts as away.
        error: why.
    """
    return f"cannot read {where}: {_why(error, location)}.{_advice(anchor, error)}"


def unwritten(where: str, location: str, anchor: str | None, what: str, error: Exception) -> str:
    """Word that a file cannot be written.

    Args:
        where: the file is, as people may see it.
        location: of the folder, whose key is hidden.
        anchor: the file without which the storage counts as away.
        what: what was not recorded.
        error: why.
    """
    return (
        f"{what} was not recorded: cannot write {where}: {_why(error, location)}.{_advice(anchor, error)} "
        f"Nothing was lost: mend the storage and run again."
    )


def is_full(error: Exception) -> bool:
    """Tell whether there is no space left."""
    return isinstance(error, OSError) and error.errno in FULL


def no_space(where: str, what: str, n_bytes: int, free_bytes: int | None) -> str:
    """Word that a file does not fit.

    Args:
        where: the file is.
        what: what was not recorded.
        n_bytes: needed.
        free_bytes: there are, or None where nobody knows.
    """
    free = "free space unknown" if free_bytes is None else f"{_size(free_bytes)} free"
    return (
        f"{what} was not recorded: no space left for {where} ({_size(n_bytes)} needed, {free}). "
        f"Nothing was lost: free space and run again."
    )


def _why(error: Exception, location: str) -> str:
    return hidden(str(error), location).rstrip(". ")


def _advice(anchor: str | None, error: Exception) -> str:
    if anchor is not None and isinstance(error, FileNotFoundError):
        return f" {os.path.dirname(anchor)} is not what it was: mount it again, or put the study back."
    said = advice(error)
    return f" {said}." if said else ""


def _size(n_bytes: int) -> str:
    scale, unit = (2**10, "KiB") if n_bytes < 2**20 else (2**20, "MiB") if n_bytes < 2**30 else (2**30, "GiB")
    return f"{n_bytes / scale:.1f} {unit}"
