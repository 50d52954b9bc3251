"""CPU time of processes, from Linux's ``/proc``."""

import os
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
RAY_PARTS = ("gcs_server", "raylet", "log_monitor", "dashboard/agent", "runtime_env/agent", "monitor.py")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, all its threads together; 0 for one that is gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those started by them."""
    parents = {int(entry): _stat(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()}
    found, ahead = [], [pid]
    while ahead:
        parent = ahead.pop()
        children = [child for child, fields in parents.items() if fields and int(fields[1]) == parent]
        found += children
        ahead += children
    return found


def kind_of(pid: int) -> str:
    """Return what a process is by its title: Ray's part, or the actor that it is; nothing of one that is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split()
    except OSError:
        return ""
    if not words:
        return ""
    if words[0].startswith("ray::"):
        return words[0].removeprefix("ray::").partition(".")[0]
    found = [kind for kind in RAY_PARTS if any(kind in word for word in words[:4])]
    return found[0] if found else Path(words[0]).name


def machine_cpu_seconds() -> tuple[float, float]:
    """Return the CPU time that the whole machine spent working, and that its host took away (steal), since boot."""
    times = [int(text) / TICKS_PER_S for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _waiting, irq, softirq, stolen = times
    return user + nice + system + irq + softirq, stolen


def process_started_at() -> float:
    """Return when this process was started, interpreter included, as ``time.time()`` counts."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + int(_stat(os.getpid())[19]) / TICKS_PER_S


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from the third on: the second, its name, may hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
