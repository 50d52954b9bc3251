"""``al-ray`` with one thread, whatever cores are here: ``python -m tests.project.page.one_thread ARGUMENTS``.

With another number of threads the last bits of a fit are others, and with them a close query.
"""

import os
import sys

from al_ray.cli.app import app

if __name__ == "__main__":
    os.cpu_count = lambda: 1
    app(sys.argv[1:])
