"""``al-ray label`` again and again, each time in a new process of its own: ``python -m tests.project.page.lives``.

For every line on its standard input, the path of a project file, it forks a process that opens the project and serves
the page; that process writes its number, and then the address of its page. What has to be imported is imported once.
"""

import os
import sys

import pandas  # noqa: F401 - this and others: what a round needs, imported before the first fork
import torch  # noqa: F401

from al_ray.model import classifier, encoder, frozen, predict  # noqa: F401
from al_ray.project.desk import Desk
from al_ray.project.page.server import PageServer
from al_ray.project.project import Project
from tests.model import tiny  # noqa: F401 - brings the architecture of the tests' encoder


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        if not (pid := os.fork()):
            _live(line.strip())
        os.waitpid(pid, 0)
        print("ended", flush=True)


def _live(project: str) -> None:
    print(os.getpid(), flush=True)
    with Project.open(project, threads=1) as opened:
        server = PageServer(Desk(opened))
        print(server.port, server.keys.token, flush=True)
        server.run()
    os._exit(0)


if __name__ == "__main__":
    main()
