"""Which process this is, so that another one can tell later whether it still lives."""

import contextlib
import os
import platform
from pathlib import Path
from typing import Literal

Life = Literal["alive", "dead", "unknown"]


def host_id() -> str:
    """Return what processes share that see each other's numbers: machine, its last start, and process namespace."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def start_of_this() -> int:
    """Return when this process started, in clock ticks since the machine did; 0 where the system does not tell.

    Together with its number it names a process for good: numbers are used again.
    """
    return start_of(os.getpid())


def start_of(pid: int) -> int:
    """Return when a process started, as :func:`start_of_this` does; 0 also where there is none."""
    found = _look_up(pid)
    return found[1] if isinstance(found, tuple) else 0


def life_of(pid: int, start: int) -> Life:
    """Tell whether the process that had this number and start is still there.

    Returns:
        ``unknown`` where some process has the number, and the system hides it or knows no starts.
    """
    found = _look_up(pid)
    if not isinstance(found, tuple):
        return found
    state, started = found
    if state in ("Z", "X"):
        return "dead"
    if not start:
        return "unknown"
    return "alive" if started == start else "dead"


def session_members(leader: int) -> set[int]:
    """Return the living processes of a session of the system (``man setsid``); none where it has no ``/proc``."""
    members = set[int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, *fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == leader and state not in ("Z", "X"):
                members.add(int(path.parent.name))
    return members


def _look_up(pid: int) -> tuple[str, int] | Life:
    """Return a process's state and start, or what can be told without them."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _life_by_signal(pid)
    state, *fields = stat.rpartition(")")[2].split()
    return state, int(fields[18])


def _life_by_signal(pid: int) -> Life:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return "dead"
    except OSError:
        pass  # it is there, and somebody else's
    return "unknown"
