"""Folders for what a run needs on its machine and nobody needs later: gone at its end, or at the next one's start."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from al_ray.process import is_alive, start_of

KEEP = "AL_RAY_KEEP_SCRATCH"
_PREFIX = "al_ray_"
_NAME = re.compile(r"al_ray_(\d+)_(\d+)_\w+")
# Ray puts sockets below this folder, and the path of a socket has 107 characters at most.
_LONGEST = 40


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a new folder and delete it afterwards; delete those that killed runs left as well.

    With ``AL_RAY_KEEP_SCRATCH=1`` in the environment, folders stay: they hold the logs of a private Ray.
    """
    above = _short_temporary_folder()
    _remove_orphans(above)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}_{start_of(os.getpid())}_", dir=above))
    try:
        yield folder
    finally:
        if not os.environ.get(KEEP):
            shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(above: Path) -> None:
    for folder in above.glob(f"{_PREFIX}*"):
        found = _NAME.fullmatch(folder.name)
        if found and _is_mine(folder) and not is_alive(int(found[1]), int(found[2])):
            shutil.rmtree(folder, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    return False


def _short_temporary_folder() -> Path:
    folder = tempfile.gettempdir()
    return Path(folder if len(folder) <= _LONGEST or not os.access("/tmp", os.W_OK) else "/tmp")
