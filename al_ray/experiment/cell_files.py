"""What the names of the files in a cell's folder say, without a look into them."""

from collections.abc import Callable, Sequence
from typing import Literal

from al_ray.errors import StorageError
from al_ray.experiment.recorded_rounds import round_file, round_indices

Status = Literal["new", "running", "done", "failed"]

SPEC, DONE, FAILED = "spec.json", "done.json", "failed.json"


def cell_key(slug: str, digest: str) -> str:
    """Return the name of a cell's folder.

    Args:
        slug: what people call the cell.
        digest: fingerprint of its spec.
    """
    return f"{slug}--{digest[:8]}"


def status_of(files: Sequence[str]) -> Status:
    """Return how far a cell is; ``running`` is also one whose run was killed."""
    if DONE in files:
        return "done"
    if FAILED in files:
        return "failed"
    return "running" if SPEC in files else "new"


def indices_without_gap(files: Sequence[str], where: Callable[[str], str]) -> list[int]:
    """Return the recorded rounds, from 0 on.

    Args:
        files: in the cell's folder.
        where: gives the address of a file, for the message.

    Raises:
        StorageError: a round between others is missing.
    """
    indices = round_indices(files)
    for expected, index in enumerate(indices):
        if index != expected:
            raise StorageError(
                f"{where(round_file(expected))} is missing, but round {index} is recorded. "
                f"Put the file back, or move the folder away: the cell is then run anew."
            )
    return indices
