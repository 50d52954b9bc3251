"""How tests wait: for something to become true, never for a time to pass."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

# What takes a second here may take a minute on a slow machine with other work. Only a test that fails waits so long.
PATIENCE_S = 600.0


def wait_until(
    true: Callable[[], object], what: str = "what is waited for", process: "subprocess.Popen[Any] | None" = None
) -> None:
    """Wait for something that another thread or process does.

    Args:
        true: asked again and again.
        what: should become true, for the message of a test that fails.
        process: the one that does it, if that is one: when it ends before, nothing is waited for.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert process is None or process.poll() is None, f"{what}: the process ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.02)
