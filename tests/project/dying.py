"""``al-ray`` that is killed while it writes: ``python -m tests.project.dying N before|after ARGUMENTS``.

Before or after the N-th file that it writes into the records it gets SIGKILL, which nothing can catch. It computes
with one thread.
"""

import os
import signal
import sys
from typing import Any

from al_ray.cli.app import app
from al_ray.storage.folder import Folder


def main() -> None:
    """Run the command until it dies, or to its end where it writes less."""
    n, moment, *arguments = sys.argv[1:]
    write, left = Folder.write, [int(n)]

    def dying(self: Folder, *args: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0] and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        written = write(self, *args, **options)
        if not left[0] and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    Folder.write = dying  # type: ignore[method-assign]
    os.cpu_count = lambda: 1
    app(arguments)


if __name__ == "__main__":
    main()
