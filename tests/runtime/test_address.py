"""What is said where no Ray cluster can be joined; no Ray here."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from al_ray.errors import ExecutionError
from al_ray.runtime.cluster import session
from al_ray.runtime.cluster.session import _find_head, why_no_head

FAR_BEYOND_S = 60.0
SETTINGS_FRAME = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 255, 255))


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve one connection; ``answer`` speaks, and the line is cut where it returns."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as line:
                answer(line)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(FAR_BEYOND_S)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give what answers here the time that a starved machine may need."""
    monkeypatch.setattr(session, "PATIENCE_S", FAR_BEYOND_S)


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_closed_port_is_told(closed_port: int) -> None:
    assert why_no_head("127.0.0.1", closed_port) == "no connection (Connection refused)"


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*question: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert why_no_head("no-such-host", 6379) == "the name 'no-such-host' is not known here"


def test_a_question_for_a_name_that_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def silent(*question: object, **options: object) -> list[object]:
        over.wait(FAR_BEYOND_S)
        return []

    monkeypatch.setattr(session, "PATIENCE_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    assert why_no_head("slow-names", 6379) == "no answer within 0 s"
    over.set()


def test_a_host_that_swallows_what_it_is_sent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the system accepts for it, and nobody reads
        port = listener.getsockname()[1]
        assert why_no_head("127.0.0.1", port) == "no answer within 0 s"
        assert why_no_head("127.0.0.1", port, silence_counts=False) is None


def test_an_address_is_looked_at_once_so_that_a_sentence_comes_within_seconds(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    looks: list[int] = []

    def look(host: str, port: int) -> str:
        looks.append(port)
        return "nobody"

    monkeypatch.setattr(session, "why_no_head", look)
    with pytest.raises(ExecutionError, match="nobody"):
        _find_head(f"127.0.0.1:{closed_port}")
    assert looks == [closed_port]


def test_a_web_server_is_told_from_a_head() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        why = why_no_head("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()
    assert why is not None
    assert "8265" in why or "something else" in why


def test_a_server_of_another_kind_is_told_with_what_it_says() -> None:
    with serving(lambda line: line.sendall(b"220 mail.example ESMTP")) as port:
        why = why_no_head("127.0.0.1", port)
    assert why == "something else than the head of a Ray answers (b'220 mail.')"


def test_a_server_that_hangs_up_is_told() -> None:
    with serving(lambda line: None) as port:
        why = why_no_head("127.0.0.1", port)
    assert why is not None
    assert "hung up" in why or "something else" in why


def test_a_server_of_grpc_may_be_a_head() -> None:
    with serving(lambda line: line.sendall(SETTINGS_FRAME)) as port:
        assert why_no_head("127.0.0.1", port) is None


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_addresses_of_rays_services_are_refused_with_what_to_give(address: str) -> None:
    with pytest.raises(ExecutionError, match=rf"'{address}' is the address of a service of Ray.* HOST:PORT"):
        _find_head(address)


@pytest.mark.parametrize("address", ["localhost", "head:port", "127.0.0.1:"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ExecutionError, match=f"'{address}' is no address of a Ray cluster. Give HOST:PORT"):
        _find_head(address)


def test_a_cluster_that_is_not_there_is_named_with_the_ways_out(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{closed_port}"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ExecutionError, match=rf"at '{address}'.*: no connection .*leave 'address' out to use"):
        _find_head(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ExecutionError, match="or unset RAY_ADDRESS to use a private Ray"):
        _find_head(address)
