"""Which process this is, so that another one can tell later whether it still lives."""

import contextlib
import os
import platform
from pathlib import Path


def host_id() -> str:
    """Return what processes share that see each other's numbers: machine, its last start, and process namespace."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def start_of(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did; 0 where the system does not tell.

    Together with its number it names a process for good: numbers are used again.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        _signal_nothing(pid)
        return 0
    state, *fields = stat.rpartition(")")[2].split()
    if state in ("Z", "X"):
        raise ProcessLookupError(f"process {pid} is dead")
    return int(fields[18])


def is_alive(pid: int, start: int) -> bool:
    """Tell whether the process that had this number and start is still there."""
    try:
        return start_of(pid) == start
    except ProcessLookupError:
        return False


def _signal_nothing(pid: int) -> None:
    with contextlib.suppress(PermissionError):
        os.kill(pid, 0)
