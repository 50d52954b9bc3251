"""Storage to test on: a disk, a disk that behaves like NFS, and a real S3 server on loopback."""

import errno
import logging
import os
import stat
import time
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from al_ray.storage import local_files, outages
from tests.cli.conftest import al_ray, bert, classifier, study
from tests.proxy import Proxy

__all__ = ["al_ray", "bert", "classifier", "study"]

SECRET = "SECRETxNOBODYxSEES"
_numbers = count()
# The server believes any signature, but shows an object to nobody who has none.
_HEADERS = {
    "Content-Type": "text/plain",
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request",
}


@dataclass(frozen=True)
class Bucket:
    """A bucket of the test server, and what is in it."""

    name: str
    port: int

    def uri(self, folder: str = "records", port: int | None = None) -> str:
        endpoint = f"endpoint_override=127.0.0.1:{port or self.port}&scheme=http&region=us-east-1"
        return f"s3://KEYxNOBODYxSEES:{SECRET}@{self.name}/{folder}?{endpoint}"

    def ask(self, method: str = "GET", path: str = "", data: bytes | None = None) -> bytes:
        address = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(address, data, _HEADERS, method=method)
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())

    def objects(self) -> list[str]:
        """Return the objects; the empty ones that only mark a folder are left out."""
        found = ElementTree.fromstring(self.ask(path=f"/{self.name}?list-type=2"))
        return [key for key in _texts(found, "Key") if not key.endswith("/")]

    def uploads(self) -> list[str]:
        """Return the multipart uploads that somebody began and did not end."""
        return _texts(ElementTree.fromstring(self.ask(path=f"/{self.name}?uploads")), "Key")

    def contents(self) -> dict[str, bytes]:
        return {key: self.ask(path=f"/{self.name}/{key}") for key in self.objects()}


def _texts(element: ElementTree.Element, name: str) -> list[str]:
    return [str(found.text) for found in element.iter() if found.tag.rpartition("}")[2] == name]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """Run an S3 server on loopback; gives its port."""
    from moto import server as server_module

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        environment.setenv("AWS_ACCESS_KEY_ID", "not-the-key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        yield server.get_host_and_port()[1]
        server.stop()


@pytest.fixture
def bucket(s3_server: int) -> Bucket:
    """Return an empty bucket."""
    made = Bucket(f"bucket-{next(_numbers)}", s3_server)
    made.ask("PUT", f"/{made.name}")
    return made


@pytest.fixture
def proxy(s3_server: int) -> Iterator[Proxy]:
    """Return a line to the S3 server that can be cut."""
    with Proxy(s3_server) as line:
        yield line


@pytest.fixture(params=["disk", "nfs", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of empty storage of each kind."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket").uri())
    if request.param == "nfs":
        behave_like_nfs(monkeypatch)
    return str(tmp_path / "records")


def behave_like_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose the reply of every rename and link, so that the client sends it again, and refuse to flush folders."""
    flush = os.fsync

    def flush_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not supported")
        flush(descriptor)

    monkeypatch.setattr(local_files.os, "fsync", flush_files)
    monkeypatch.setattr(local_files.os, "replace", done_twice(os.replace))
    monkeypatch.setattr(local_files.os, "link", done_twice(os.link))


def done_twice(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a system call whose second go fails on what the first one did."""

    def repeated(*arguments: Any) -> Any:
        call(*arguments)
        return call(*arguments)

    return repeated


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Ask again after hundredths of a second; returns the pauses so far, one after each attempt that failed."""
    pauses_s: list[float] = []

    def pause(seconds: float) -> None:
        pauses_s.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(outages, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outages, "_LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(outages, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    return pauses_s
