"""Scratch folders of a run on its machine: gone at its end, or at the next one's start."""

import atexit
import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from al_ray.errors import ExecutionError
from al_ray.process import host_id, life_of, start_of_this
from al_ray.runtime.cluster.ray_internals import log_files

KEEP = "AL_RAY_KEEP_SCRATCH"
_NAME = re.compile(r"al_ray_([0-9a-f]{6})_(\d+)_(\d+)_\d+")
# The path of a socket has 107 characters at most, and Ray adds up to 65 to this folder's.
_LONGEST = 42


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a new folder and delete it afterwards; delete those that killed runs left as well.

    With ``AL_RAY_KEEP_SCRATCH=1`` in the environment nothing is deleted: the folders hold the logs of a private Ray.
    """
    keep = bool(os.environ.get(KEEP))
    folder = _make()
    if not keep:
        _remove_orphans(folder.parent)
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def keep_logs(folder: Path) -> Path:
    """Copy the logs of a Ray that ran in a scratch folder to one that stays, as far as there is room, and return it."""
    kept = Path(tempfile.mkdtemp(prefix="al_ray_logs_", dir=folder.parent))
    with contextlib.suppress(OSError):
        for path in (*folder.glob("*.log"), *log_files(folder)):
            shutil.copy(path, kept)
    return kept


def shared_file(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return a file of this machine that its processes share: the first one that asks fetches it, the others wait.

    Files are gone once the last process that shares any has ended, or, where that was killed, when the next one asks.

    Args:
        name: of the file; two of one name have one content.
        fetch: writes it, whole or not at all.

    Raises:
        ExecutionError: the folder for it is somebody else's.
    """
    path = _shared_folder() / name
    with open(path.with_name(f"{name}.turn"), "a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not path.exists():
            fetch(path)
    return path


@functools.cache
def _shared_folder() -> Path:
    """Return the folder of shared files, which this process uses from now on."""
    folder = Path(tempfile.gettempdir()) / f"al_ray_{_host()}_shared_{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_mine(folder):
        raise ExecutionError(f"{folder} is no folder of this user's. Move it away, or name another place with TMPDIR.")
    users = open(folder / "users", "a")  # noqa: SIM115 - locked, and so open, as long as this process lives
    _sweep(folder, users)
    fcntl.flock(users, fcntl.LOCK_SH)
    atexit.register(_sweep, folder, users)
    return folder


def _sweep(folder: Path, users: IO[str]) -> None:
    """Delete the shared files unless another process uses them."""
    with contextlib.suppress(OSError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            if path.name != "users":
                path.unlink()


def _make() -> Path:
    for number in itertools.count():
        name = f"al_ray_{_host()}_{os.getpid()}_{start_of_this()}_{number}"
        folder = Path(tempfile.gettempdir()) / name
        if len(str(folder)) > _LONGEST and os.access("/tmp", os.W_OK):
            folder = Path("/tmp") / name
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            return folder
    raise AssertionError("numbers do not end")


def _host() -> str:
    """Name the machine, and the container: others may share the temporary folder and see none of its processes."""
    return hashlib.sha256(host_id().encode()).hexdigest()[:6]


def _remove_orphans(above: Path) -> None:
    for folder in above.glob(f"al_ray_{_host()}_*"):
        found = _NAME.fullmatch(folder.name)
        if found and _is_mine(folder) and life_of(int(found[2]), int(found[3])) == "dead":
            shutil.rmtree(folder, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    return False
