"""Who the page answers, and what it does with texts, classes and names that mean harm."""

import json
import socket
from collections.abc import Iterator

import pytest

from al_ray.errors import ConfigError
from al_ray.project.desk import Desk
from al_ray.project.page.guard import MAX_BODY_BYTES
from al_ray.project.page.server import PageServer
from tests.project.page.fake_project import FakeProject
from tests.project.page.serving import Client, client_of, serving
from tests.waiting import wait_until

PATHS = ("/", "/page.css", "/page.js", "/api/next?annotator=ada", "/api/status", "/api/project", "/nothing")
EVIL = "<script>alert(1)</script>\x1b[2J\x00\u202egnp\ud800"
ANSWER = {"annotator": "ada", "id": 0, "label": "bug", "submission": "12345678"}


@pytest.fixture(scope="module")
def served() -> FakeProject:
    made = FakeProject([EVIL, "x" * 100_000, "text 2", "text 3"])
    made.batch()
    return made


@pytest.fixture(scope="module")
def server(served: FakeProject) -> Iterator[PageServer]:
    with serving(Desk(served)) as running:
        yield running


@pytest.fixture
def project(served: FakeProject, server: PageServer) -> FakeProject:
    served.told.clear()
    return served


@pytest.fixture
def client(server: PageServer) -> Client:
    return client_of(server)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "cookie", [None, "", "al_ray_label=x", "al_ray_label_{port}=", "al_ray_label_{port}=wrong", "\xe9"]
)
def test_nothing_is_answered_without_the_token(client: Client, path: str, cookie: str | None) -> None:
    given = None if cookie is None else cookie.format(port=client.port)
    reply = client.ask("GET", path, Cookie=given)
    assert reply.status == 403
    assert "Open the address that al-ray label printed" in reply.text


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_can_use(client: Client) -> None:
    reply = client.ask("GET", f"/?token={client.token}", Cookie=None)
    assert (reply.status, reply.headers["location"]) == (303, "/")
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(f"al_ray_label_{client.port}=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.ask("GET", "/?token=wrong").status == 403
    assert client.ask("GET", f"/api/status?token={client.token}", Cookie=None).status == 403


def test_the_token_of_a_browsers_start_opens_the_page_once(server: PageServer, client: Client) -> None:
    path = f"/?token={server.keys.once()}"
    assert client.ask("GET", path, Cookie=None).status == 303
    assert client.ask("GET", path, Cookie=None).status == 403


def test_two_servers_have_two_tokens(project: FakeProject, server: PageServer) -> None:
    with serving(Desk(project)) as other:
        assert other.keys.token != server.keys.token
        assert Client(server.port, other.keys.token).get("/").status == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "0.0.0.0:{port}",
        "127.0.0.1:x",
        "",
        "[::1]:{port}",
    ],
)
def test_only_this_machine_is_answered_by_name(client: Client, host: str) -> None:
    reply = client.ask("GET", "/", Host=host.format(port=client.port))
    assert reply.status == 403
    assert "127.0.0.1 and localhost only" in reply.text


def test_localhost_and_a_forwarded_port_are_this_machine(client: Client) -> None:
    for host in (f"localhost:{client.port}", "127.0.0.1:9999", "localhost"):
        assert client.ask("GET", "/", Host=host).status == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"X_Al_Ray": None},
        {"X_Al_Ray": "x"},
        {"Cookie": None},
    ],
)
@pytest.mark.parametrize("path", ["/api/answer", "/api/skip", "/api/again"])
def test_no_other_page_can_send_answers(
    project: FakeProject, client: Client, path: str, changed: dict[str, str | None]
) -> None:
    given = {name: value and value.format(port=client.port) for name, value in changed.items()}
    assert client.ask("POST", path, json.dumps(ANSWER).encode(), **given).status == 403
    assert project.told == []


def test_answers_come_as_json_only(project: FakeProject, client: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        assert client.ask("POST", "/api/answer", json.dumps(ANSWER).encode(), Content_Type=kind).status == 415
    assert project.told == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    assert client.ask(method, "/api/answer").status == 405


def test_answers_cannot_be_sent_by_a_link(project: FakeProject, client: Client) -> None:
    assert client.get("/api/answer?annotator=ada&id=0&label=bug&submission=12345678").status == 405
    assert project.told == []


@pytest.mark.parametrize("path", [*PATHS, "/?token=wrong"])
def test_a_browser_loads_nothing_from_elsewhere_and_keeps_nothing(client: Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_the_page_holds_no_script_style_or_address_of_its_own(client: Client) -> None:
    page = client.get("/").text
    for inline in ("<style", "style=", "onclick", "onload", "javascript:"):
        assert inline not in page
    assert page.count("<script") == page.count('<script src="page.js" defer></script>') == 1
    script = client.get("/page.js").text
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert risky not in script
    for text in (page, client.get("/page.css").text, script):
        outside = text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in outside
        assert "https://" not in outside


@pytest.mark.parametrize(
    "path",
    [
        "/../guard.py", "/static/page.js", "/..%2fguard.py", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page.js/",
        "/page.js%00", "/page.html", "/..\\guard.py", "/api/../page.js/..", "/docs", "/redoc", "/openapi.json",
    ],
)  # fmt: skip
def test_no_path_leads_to_another_file(client: Client, path: str) -> None:
    reply = client.get(path)
    assert (reply.status, reply.text) == (404, "There is no such page.")


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "99999999999999999999", "-1", "1e3", "\xb2"])
def test_a_large_body_is_refused_before_it_is_read(project: FakeProject, client: Client, length: str) -> None:
    assert client.ask("POST", "/api/answer", b"", Content_Length=length).status in (400, 413)
    assert client.get("/api/status").status == 200


def test_a_large_body_that_hides_its_length_is_refused(client: Client) -> None:
    chunk = b"%x\r\n%s\r\n" % (8192, b" " * 8192)
    body = chunk * (MAX_BODY_BYTES // 8192 + 1) + b"0\r\n\r\n"
    assert client.ask("POST", "/api/answer", body, Transfer_Encoding="chunked").status == 413


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "0"}, {"id": -1}, {"id": 2**70}, {"id": 1.5}, {"label": 3}, {"label": "x" * 3000}, {"annotator": ""},
        {"annotator": "x" * 81}, {"submission": "short"}, {"seconds": -1}, {"seconds": "NaN"}, {"note": "x" * 2001},
        {"more": 1}, {"annotator": None},
    ],
)  # fmt: skip
def test_a_malformed_answer_is_refused_in_words(project: FakeProject, client: Client, changes: dict) -> None:
    reply = client.post("/api/answer", {**ANSWER, **changes})
    assert reply.status == 400
    assert reply.text.startswith("The request cannot be read:")
    assert project.told == []


def test_bodies_that_are_no_json_are_refused(client: Client) -> None:
    for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 30_000, b'{"id": NaN}'):
        assert client.ask("POST", "/api/answer", body).status == 400
    assert client.get("/api/status").status == 200


def test_an_unknown_class_and_a_stranger_text_are_refused_in_words(project: FakeProject, client: Client) -> None:
    assert "Did you mean 'bug'?" in client.answer(0, "bugg").text
    assert "not asked for" in client.answer(77, "bug").text
    assert project.told == []


def test_any_text_arrives_as_it_is(project: FakeProject, client: Client) -> None:
    tasks = client.next()["tasks"]
    assert [task["text"] for task in tasks[:2]] == [EVIL, "x" * 100_000]


def test_an_answer_sent_twice_is_recorded_once(project: FakeProject, client: Client) -> None:
    client.next()
    for _ in range(2):
        assert client.post("/api/answer", ANSWER).status == 200
    assert [answer.id for answer in project.told] == [0]


def test_a_client_that_hangs_up_half_way_hurts_nobody(server: PageServer, client: Client) -> None:
    for sent in (b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET /\r\n\r\n", b"A" * 70_000):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(sent)
    wait_until(lambda: client.get("/api/status").status == 200, "an answer")


def test_the_page_listens_on_loopback_only(server: PageServer) -> None:
    assert server._socket.getsockname()[0] == "127.0.0.1"
    assert server.address.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_told(project: FakeProject, server: PageServer) -> None:
    with pytest.raises(ConfigError, match=rf"--port {server.port} cannot be used: .*name a free port"):
        PageServer(Desk(project), server.port)
