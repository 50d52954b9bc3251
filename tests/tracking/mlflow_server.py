"""A real MLflow server on loopback, as a subprocess with its own database."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until

_STOP_S = 20.0


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """Serve the ``mlflow.db`` of a folder, which is made where it is missing; yields the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    # fmt: off
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
    ]
    # fmt: on
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, cwd=folder, env=os.environ | quiet, stdout=out, stderr=out, start_new_session=True
        )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}", server, log)
        yield port
    finally:
        _stop(server)


def _wait_until_healthy(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    def is_healthy() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_until(is_healthy, "the start of the MLflow server", server)
    except AssertionError as error:
        raise AssertionError(f"{error}: {log.read_text()[-2000:]}") from None


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server with its workers: the session that was started for it."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sent)
            server.wait(_STOP_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
