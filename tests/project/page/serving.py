"""The page served in this process, and a client that is no browser."""

import http.client
import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from al_ray.project.desk import Desk
from al_ray.project.page.server import PageServer


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        assert self.status == 200, self.text
        return json.loads(self.body)


@dataclass
class Client:
    """Asks the page as a browser of its own would, or with anything in the request changed.

    Attributes:
        port: of the page.
        token: that opens it.
        annotator: who.
    """

    port: int
    token: str
    annotator: str = "ada"
    timeout_s: float = 600.0
    _headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        host = f"127.0.0.1:{self.port}"
        cookie = f"al_ray_label_{self.port}={self.token}"
        self._headers = {"Host": host, "Cookie": cookie}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Reply:
        """Send a request; a header of None is left out."""
        sent = dict(self._headers)
        if method == "POST":
            sent |= {"Origin": f"http://{sent['Host']}", "X-Al-Ray": "page", "Content-Type": "application/json"}
        for name, value in headers.items():
            sent.pop(name.replace("_", "-"), None)
            if value is not None:
                sent[name.replace("_", "-")] = value
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in sent and "Transfer-Encoding" not in sent:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def post(self, path: str, content: Mapping[str, Any]) -> Reply:
        return self.ask("POST", path, json.dumps(content).encode())

    def next(self) -> dict[str, Any]:
        return dict(self.get(f"/api/next?annotator={self.annotator}").json)

    def answer(self, id_: int, label: str | None, submission: str | None = None, **more: Any) -> Reply:
        sent = {"annotator": self.annotator, "id": id_, "label": label, "submission": submission or str(uuid.uuid4())}
        return self.post("/api/answer", {**sent, **more})


@contextmanager
def serving(desk: Desk) -> Iterator[PageServer]:
    """Serve a desk on any port, until the block ends."""
    server = PageServer(desk)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def client_of(server: PageServer, annotator: str = "ada") -> Client:
    """Return a client that has the token."""
    return Client(server.port, server.keys.token, annotator)
