"""Finding the study in a folder that may have been copied, renamed, or be read-only."""

import os

from pyarrow import fs

from al_ray.errors import StorageError
from al_ray.experiment.canonical import check_format, parse_json
from al_ray.experiment.store import StudyStore
from al_ray.storage.address import above
from al_ray.storage.folder import Folder, check_name

_STUDY = "study.json"
_EXAMPLE = "Name the folder of a study, such as results/my-study."
_N_LOOKED_INTO = 100


def open_study(address: str, *, filesystem: fs.FileSystem | None = None) -> StudyStore:
    """Open the study that a folder holds, for reading; the folder need not have the study's name.

    Args:
        address: the study's own folder or URI.
        filesystem: an open pyarrow file system, on which ``address`` is then a path.

    Raises:
        StorageError: there is no such folder, or it is no study.
    """
    folder = _open_folder(address, filesystem)
    text, where = folder.read(_STUDY), folder.where(_STUDY)
    if text is None:
        raise StorageError(_no_study(folder))
    content = check_format(where, parse_json(where, text), {"study", "id", "created_at"})
    return StudyStore(above(folder.location)[0], content["study"], folder)


def _open_folder(address: str, filesystem: fs.FileSystem | None) -> Folder:
    """Open a folder; unlike the storage of a run it may be on a disk that cannot be written."""
    if filesystem is not None or "://" in address or not address.strip():
        return Folder.open(address, filesystem)
    local = os.path.abspath(os.path.expanduser(address))
    if os.path.isfile(local):
        raise StorageError(f"{local} is a file. {_EXAMPLE}")
    if not os.path.isdir(local):
        raise StorageError(f"there is no folder {local}. {_EXAMPLE}")
    return Folder(fs.LocalFileSystem(), local, local)


def _no_study(folder: Folder) -> str:
    said = f"{folder.address} is no study of al_ray: it has no {_STUDY}."
    inside = [name for name in folder.names()[1][:_N_LOOKED_INTO] if _is_study(folder, name)]
    if not inside:
        return f"{said} {_EXAMPLE}"
    studies = "the study" if len(inside) == 1 else "the studies"
    return f"{said} It holds {studies} {', '.join(inside[:5])}: name one of them."


def _is_study(folder: Folder, name: str) -> bool:
    try:
        return folder.child(check_name("study", name)).exists(_STUDY)
    except StorageError:
        return False
