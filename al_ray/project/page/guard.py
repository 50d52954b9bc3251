"""Guard of the page: who may ask it for anything, and what a browser may do with its answers."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

MAX_BODY_BYTES = 64 * 1024
OWN_HEADER, OWN_VALUE = b"x-al-ray", b"page"
_HOSTS = ("127.0.0.1", "localhost")
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = (
    (b"content-security-policy", _CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Keys:
    """What opens the page: a token that holds as long as the server runs, and others that open it once.

    Whoever can read the list of processes sees the address that a browser is started with: what is in it opens the
    page once only.
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._once: set[str] = set()

    def once(self) -> str:
        """Return a token that opens the page one time."""
        token = secrets.token_urlsafe(24)
        self._once.add(token)
        return token

    def opens(self, token: str) -> bool:
        """Tell whether a token opens the page."""
        if token in self._once:
            self._once.discard(token)
            return True
        return self.holds(token)

    def holds(self, token: str) -> bool:
        """Tell whether this is the token that holds."""
        return secrets.compare_digest(token.encode(), self.token.encode())


class Guard:
    """Lets through what comes from the page itself, in a browser that was given the token; ASGI.

    A request has to name this machine as its host: another site's name that was pointed at 127.0.0.1 is refused (DNS
    rebinding). What changes something has to come from a page of this server, with a header that no other page can
    send (cross-site requests). Without the token nothing is answered at all.

    Args:
        app: that answers.
        keys: that open it.
        port: that is listened at; cookies of one host are shared by its ports, and are named after it.
    """

    def __init__(self, app: App, keys: Keys, port: int) -> None:
        self._app, self._keys = app, keys
        self.cookie = f"al_ray_label_{port}"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no web sockets

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in _HEADERS} | {b"server"}
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in own]
                message = {**message, "headers": [*kept, *_HEADERS]}
            await send(message)

        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in (b"host", b"origin", b"content-length") and name in headers:
                await _say(guarded, 400, "The request has two values for one header.")
                return
            headers[name] = value
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _say(guarded, *refusal)
            return
        if scope["path"] == "/" and (token := _token(scope)) is not None:
            cookie = f"{self.cookie}={self._keys.token}; HttpOnly; SameSite=Strict; Path=/"
            if self._keys.opens(token):
                await _say(guarded, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
            else:
                await _say(guarded, 403, _NO_TOKEN)
            return
        if not self._keys.holds(_cookie(headers.get(b"cookie", b""), self.cookie)):
            await _say(guarded, 403, _NO_TOKEN)
            return
        if scope["method"] == "POST":
            body = await _body(headers, receive)
            if body is None:
                await _say(guarded, 413, f"The request is too large: at most {MAX_BODY_BYTES:,} bytes are read.")
                return
            receive = _replay(body, receive)
        await self._app(scope, receive, guarded)

    def _refusal(self, scope: Message, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Return status and reason where a request is not from this page, whatever it knows."""
        host = headers.get(b"host", b"").decode("latin-1")
        name, colon, port = host.partition(":")
        if name.lower() not in _HOSTS or (colon and not (port.isascii() and port.isdigit())):
            return 403, "This page answers at 127.0.0.1 and localhost only. Open the address that al-ray label printed."
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "This page answers GET and POST only."
        if scope["method"] == "POST":
            origin = headers.get(b"origin", b"").decode("latin-1")
            if origin.lower() != f"http://{host}".lower() or headers.get(OWN_HEADER) != OWN_VALUE:
                return 403, "Only the page itself can send answers; this request came from elsewhere."
            if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
                return 415, "Answers are sent as JSON."
        return None


_NO_TOKEN = (
    "This page is for the person who started it. Open the address that al-ray label printed in its terminal; it ends "
    "in a token. After a restart there is a new one."
)


def _token(scope: Message) -> str | None:
    return next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("token", [])), None)


def _cookie(header: bytes, name: str) -> str:
    try:
        found = SimpleCookie(header.decode("latin-1")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
    """Read a request's body; None where it is too large, of which no more than that is read."""
    told = headers.get(b"content-length", b"0")
    if not told.isdigit() or len(told) > 9 or int(told) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _say(send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = text.encode()
    kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*kind, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})
