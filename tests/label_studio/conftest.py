"""A real Label Studio on loopback, out of an environment of its own that ``make test-label-studio`` makes."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from al_ray.project.label_studio import KEY_VARIABLE
from tests.needs import lacks
from tests.waiting import wait_until

ENVIRONMENT_VARIABLE = "AL_RAY_LABEL_STUDIO"


@dataclass(frozen=True)
class RealServer:
    """A running server.

    Attributes:
        url: its address, on loopback.
        key: access token of its only user.
        mail: of that user.
    """

    url: str
    key: str
    mail: str

    def client(self) -> Any:
        """Return the SDK's client."""
        from label_studio_sdk import LabelStudio

        return LabelStudio(base_url=self.url, api_key=self.key)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """Start Label Studio with an empty database, and let this process import its SDK."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named is None:
        lacks("label_studio", "no Label Studio here: 'make test-label-studio' brings one and runs these tests")
    environment = Path(named).resolve()
    (packages,) = (environment / "lib").glob("python*/site-packages")
    folder = tmp_path_factory.mktemp("label_studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = RealServer(f"http://127.0.0.1:{port}", secrets.token_hex(20), "ada@example.org")
    login = ["--username", server.mail, "--password", secrets.token_hex(8), "--user-token", server.key]
    where = ["--internal-host", "127.0.0.1", "--port", str(port)]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [environment / "bin" / "label-studio", "start", "--no-browser", *where, *login],
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            | {
                "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
                "LABEL_STUDIO_HOST": server.url,
                "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
                "COLLECT_ANALYTICS": "false",
                "LATEST_VERSION_CHECK": "false",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    sys.path.append(str(packages))  # at the end: only what is not in this environment comes from there
    try:
        wait_until(lambda: _answers(f"{server.url}/health"), "Label Studio is up", process)
        yield server
    finally:
        sys.path.remove(str(packages))
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture
def server(real_server: RealServer, monkeypatch: pytest.MonkeyPatch) -> RealServer:
    """Give the key to the commands."""
    monkeypatch.setenv(KEY_VARIABLE, real_server.key)
    return real_server


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False
