"""Driver process: a process apart, in which Ray is driven, so that what ends Ray's driver does not end the program.

Ray ends the process that drives it when its head is away for a minute
(https://github.com/ray-project/ray/pull/20900); its C++ parts write on its standard error; and a driver whose head has
died stands for a minute and more in calls that cannot be broken off (a killed GCS, Ray 2.60: 61 s until Tune returns).
A process that is killed is out of all this at once, with everything that it started: it leads a session of the system,
in which its descendants stay.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from al_ray.process import session_members

LOG_NAME, LEAVE = "driver.log", "leave"
LOGGER = "al_ray"
LEAVING_TIMEOUT_S, ENDING_TIMEOUT_S = 30.0, 10.0
# The program's own arguments too: Ray puts the folder of the program's file on the path of its workers.
_PROGRAM = """
import json, sys
sys.path[:], sys.argv[:], descriptor = json.loads(sys.argv[1])
from al_ray.runtime.cluster.apart import main
main(descriptor)
"""


@dataclass(frozen=True)
class Ended:
    """The last message of a driver process.

    Attributes:
        outcome: what its work returned, or raised.
    """

    outcome: object


@dataclass
class ParentLine:
    """The line from the driver process to the one that started it.

    Attributes:
        on_leave: called, in another thread, when this process should leave in order.
    """

    connection: Connection
    on_leave: Callable[[], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, message: object) -> None:
        """Send a message; it waits while the other side is busy with older ones."""
        with self._lock:
            self.connection.send(message)


class _LineHandler(QueueHandler):
    """Sends log records to the process that started this one."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.tell(record)  # type: ignore[attr-defined]


@dataclass
class DriverProcess:
    """The driver process, seen from the one that started it; what al_ray logs there is logged here.

    Args:
        run: what to do there, with its end of the line; what it returns or raises ends the messages.
        folder: where its output goes.
    """

    run: Callable[[ParentLine], object]
    folder: Path
    _deadline: float | None = None
    _is_late: bool = False
    _is_leaving: bool = False

    def __enter__(self) -> "DriverProcess":
        import ray.cloudpickle

        job = ray.cloudpickle.dumps((self.run, logging.getLogger(LOGGER).getEffectiveLevel()))
        self._line, theirs = Pipe()
        with theirs, open(self.folder / LOG_NAME, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps([sys.path, sys.argv, theirs.fileno()])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        with contextlib.suppress(OSError):  # it is dead, which the first look at its messages tells
            self._line.send_bytes(job)
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process and all that it started."""
        self._line.close()
        self._process.kill()
        self._process.wait()
        end_session(self._process.pid)

    def how_it_ended(self) -> str:
        """Say how it ended, once this is closed."""
        code = self._process.returncode
        if self._is_late:
            return "the process that drives it did not answer"
        return (
            f"the process that drives it {f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'}"
        )

    def messages(self) -> Iterator[object]:
        """Yield what the process tells, until it is gone or its time is over."""
        with contextlib.suppress(EOFError, OSError):
            while self._line.poll(self._time_left()):
                message = self._line.recv()
                if not isinstance(message, logging.LogRecord):
                    yield message
                elif (logger := logging.getLogger(message.name)).isEnabledFor(message.levelno):
                    logger.handle(message)
            self._is_late = True

    def expect_within(self, seconds: float | None) -> None:
        """Bound the time of all messages from now on."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def leave(self) -> None:
        """Ask the process to leave in order; it has some seconds, from the first time on."""
        if self._is_leaving:
            return
        self._is_leaving = True
        self.expect_within(LEAVING_TIMEOUT_S)
        with contextlib.suppress(OSError):
            self._line.send(LEAVE)

    def leave_unheard(self) -> None:
        """Ask the process to leave in order, and wait for it; no message is read, the last one perhaps half."""
        self.leave()
        with contextlib.suppress(OSError):
            while self._line.poll(self._time_left()) and os.read(self._line.fileno(), 2**16):
                pass

    def _time_left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)


def end_session(leader: int) -> None:
    """Kill all processes of a session of the system; its leader, where that is this process, as the last."""
    deadline = time.monotonic() + ENDING_TIMEOUT_S
    while (others := session_members(leader) - {os.getpid()}) and time.monotonic() < deadline:
        for pid in others:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    if leader == os.getpid():
        os.kill(leader, signal.SIGKILL)


def main(descriptor: int) -> None:
    """Do in this process what the one that started it asks for."""
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    line = ParentLine(connection, lambda: end_session(os.getpid()))
    job = connection.recv_bytes()
    threading.Thread(target=_obey, args=(line,), name="obey", daemon=True).start()
    try:
        import ray.cloudpickle

        run, level = ray.cloudpickle.loads(job)
        logging.getLogger(LOGGER).addHandler(_LineHandler(line))  # type: ignore[arg-type]
        logging.getLogger(LOGGER).setLevel(level)
        outcome = run(line)
    except BaseException as error:
        outcome = _portable(error)
    line.tell(Ended(outcome))


def _obey(line: ParentLine) -> None:
    """Leave when told to; where the process that started this one is gone, at once."""
    with contextlib.suppress(EOFError, OSError):
        while line.connection.recv() == LEAVE:
            line.on_leave()
    end_session(os.getpid())


def _portable(error: BaseException) -> BaseException:
    """Return an exception as the line can carry it, with the place where it was raised."""
    trace = "".join(traceback.format_exception(error))
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        error = RuntimeError(trace)
    error.add_note(f"raised in the process that drives Ray:\n{trace}")
    return error
