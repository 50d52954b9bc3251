"""What processes apart do in tests."""

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from al_ray.errors import DataError
from al_ray.runtime import driver
from al_ray.runtime.cluster.apart import DriverProcess, ParentLine
from al_ray.runtime.monitor import GridPlan
from al_ray.runtime.tasks import CellTask

drive = driver.drive  # some of these take its place
SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


def count(line: ParentLine, n: int) -> str:
    for number in range(n):
        line.tell(number)
    return "counted"


def log(line: ParentLine) -> None:
    """Log a decision and a warning, the latter with an argument and an exception that cannot travel."""
    logger = logging.getLogger("al_ray.runtime.grid")
    logger.info("lanes: %d", 2)
    try:
        raise HomeMadeError("a", "b")
    except HomeMadeError as error:
        logger.warning("lost: %s", error, exc_info=True)


def refuse(line: ParentLine) -> None:
    raise DataError("row 7 has no label")


class HomeMadeError(Exception):
    """One that cannot travel: it is made from two words, and pickled with one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def fail_in_a_way_that_cannot_travel(kind: str, line: ParentLine) -> None:
    if kind == "of a task of Ray":
        from ray.exceptions import RayTaskError

        raise RayTaskError("task", "HomeMadeError: ab", DataError("x")).as_instanceof_cause()
    if kind == "of a local class":

        class LocalHomeMadeError(Exception):
            """One whose class nobody else can find."""

        raise LocalHomeMadeError("HomeMadeError: ab")
    raise HomeMadeError("a", "b")


def start_a_family(line: ParentLine) -> None:
    """Start a child and a grandchild in a process group of its own, tell their numbers, and wait for ever."""
    child = subprocess.Popen(SLEEPER)
    script = f"import subprocess; print(subprocess.Popen({SLEEPER!r}, process_group=0).pid, flush=True); {SLEEPER[-1]}"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    line.tell([child.pid, parent.pid, int(parent.stdout.readline())])
    signal.pause()


def die(line: ParentLine) -> None:
    print("a last word on the output", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_the_end(line: ParentLine) -> str:
    told = threading.Event()
    line.on_leave = told.set
    line.tell("ready")
    told.wait()
    print("left in order", flush=True)
    return "left in order"


def do_not_listen(line: ParentLine) -> None:
    line.on_leave = lambda: None
    line.tell("ready")
    threading.Event().wait()


def found_a_family(folder: str) -> None:
    """Be a program that starts a process apart, prints whom that started, and is killed."""
    with DriverProcess(start_a_family, Path(folder)) as process:
        family: Any = next(process.messages())
        print(process._process.pid, *family, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def drive_with_a_raylet_that_dies(
    n_times: int, folder: Path, plan: GridPlan, cells: Sequence[CellTask], scratch: Path, line: ParentLine
) -> str:
    """Drive a grid, but kill the raylet as it starts, so many times."""
    from ray._private import services

    start_raylet: Callable[..., Any] = services.start_raylet

    def start_and_kill(*arguments: Any, **options: Any) -> Any:
        raylet = start_raylet(*arguments, **options)
        n_before = len(list(folder.iterdir()))
        if n_before < n_times:
            (folder / str(n_before)).touch()
            raylet.process.kill()
        return raylet

    services.start_raylet = start_and_kill
    return drive(plan, cells, scratch, line)


def drive_as_of_another_version(plan: GridPlan, cells: Sequence[CellTask], scratch: Path, line: ParentLine) -> str:
    import ray

    ray.__version__ = "2.50.0"
    return drive(plan, cells, scratch, line)


def dying_raylets(n_times: int, folder: Path) -> Callable[..., str]:
    folder.mkdir()
    return functools.partial(drive_with_a_raylet_that_dies, n_times, folder)
