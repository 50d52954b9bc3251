"""What processes the tests look at, by what they call themselves."""

import psutil

from al_ray.runtime.cluster.ray_internals import LANE_ACTORS

# Ray calls the trial of a lane by its class in one place and by Tune's wrapper in another.
LANE_TITLES = tuple(f"ray::{name}" for name in ("LaneTrial", *LANE_ACTORS))


def ray_processes(*titles: str) -> list[int]:
    """Return the processes of this test session's own Ray that begin with one of those titles."""
    return [child.pid for child in psutil.Process().children(recursive=True) if title(child).startswith(titles)]


def title(process: psutil.Process) -> str:
    """Return what a process calls itself, Ray's workers by what they run; empty for a dead one."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process is there and not just waiting to be buried."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
