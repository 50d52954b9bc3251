"""Processes of this machine: name one for good, tell whether it lives, find those of a session."""

import contextlib
import os
import platform
from pathlib import Path
from typing import Literal

import psutil

Life = Literal["alive", "dead", "unknown"]

_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def host_id() -> str:
    """Return what processes share that see each other's numbers: machine, its last start, and process namespace."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux alone has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def start_of_this() -> int:
    """Return when this process started, which names it for good together with its number: numbers are used again."""
    return _start_of(os.getpid())


def life_of(pid: int, start: int) -> Life:
    """Tell whether the process that had this number and start is still there.

    Returns:
        ``unknown`` where some process has the number, and the system hides it or its start is not known.
    """
    try:
        if psutil.Process(pid).status() in _ENDED:
            return "dead"
        if start:
            return "alive" if _start_of(pid) == start else "dead"
    except psutil.NoSuchProcess:
        return _life_by_signal(pid)
    except psutil.AccessDenied:
        pass
    return "unknown"


def session_members(leader: int) -> set[int]:
    """Return the living processes of a session of the system (``man setsid``)."""
    members = set[int]()
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == leader and psutil.Process(pid).status() not in _ENDED:
                members.add(pid)
    return members


def _start_of(pid: int) -> int:
    """Return the start of a process: clock ticks since the machine's on Linux, since the epoch elsewhere.

    Linux knows nothing else, and what psutil makes of it moves whenever the system's clock is set.
    """
    while True:
        boot = psutil.boot_time() if psutil.LINUX else 0.0
        start = psutil.Process(pid).create_time() - boot
        if not psutil.LINUX or psutil.boot_time() == boot:
            return round(start * _TICKS_A_SECOND)


def _life_by_signal(pid: int) -> Life:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return "dead"
    except OSError:
        pass  # it is there, and somebody else's
    return "unknown"
