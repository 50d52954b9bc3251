"""How tests wait: for something to become true, never for a time to pass."""

import time
from collections.abc import Callable

# What takes a second here may take a minute on a slow machine with other work. Only a test that fails waits so long.
PATIENCE_S = 400.0


def wait_until(true: Callable[[], object], what: str = "it", may_go_on: Callable[[], bool] = lambda: True) -> None:
    """Wait for something that another thread or process does.

    Args:
        true: asked again and again.
        what: should happen, for the message of a test that fails.
        may_go_on: whether it can still happen, such as whether the process that should do it lives.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert may_go_on(), f"{what} can no longer happen"
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_S:.0f} s"
        time.sleep(0.01)
