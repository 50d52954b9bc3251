"""What some tests need of a machine: without it they are skipped, or fail where it was promised."""

import os
from typing import NoReturn

import pytest


def lacks(what: str, reason: str) -> NoReturn:
    """Skip the test that asks; fail it where ``AL_RAY_HAS`` names what it needs, as CI's own script does.

    Args:
        what: one of ``browser``, ``data``, ``label_studio``, ``minilm``, ``mount``.
        reason: what is not there, and how to bring it.
    """
    if what in os.environ.get("AL_RAY_HAS", "").split():
        pytest.fail(f"AL_RAY_HAS promises {what!r}: {reason}")
    pytest.skip(reason)
