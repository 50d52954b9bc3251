"""Address check: what answers at the address of a Ray cluster, asked within seconds; no ray here.

Ray itself asks a head that is not there for a quarter of an hour, with warnings of its C++ parts on the terminal.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable

PATIENCE_S = 4.0
# The first words of a client of HTTP/2, and settings that change nothing (RFC 9113, section 3.4). Ray's head speaks
# gRPC, which is HTTP/2, and so its first words are a frame of settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_BYTES, _SETTINGS = 9, 4


def why_no_head(host: str, port: int, *, silence_counts: bool = True) -> str | None:
    """Tell why no head of Ray can be there; None where one may be.

    Args:
        host: its name or number.
        port: of the head itself, not of its dashboard.
        silence_counts: whether nobody is there where nobody answers in time; a busy head may be late.
    """
    # In a thread of its own, since finding a name has no time limit.
    found = _within(PATIENCE_S, lambda: _look(host, port))
    if found is None:
        return f"no answer within {PATIENCE_S:.0f} s" if silence_counts else None
    return found or None


def _look(host: str, port: int) -> str | None:
    """Return what is wrong with what answers, nothing where it may be a head, None where nothing answers."""
    try:
        line = socket.create_connection((host, port), timeout=PATIENCE_S)
    except TimeoutError:
        return None
    except socket.gaierror:
        return f"the name {host!r} is not known here"
    except OSError as error:
        return f"no connection ({error.strerror or error})"
    with line:
        if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):
            return ""  # what is behind it tells itself to those alone who have a certificate
        try:
            line.sendall(_HELLO)
            answer = _read(line, _FRAME_BYTES)
        except TimeoutError:
            return None
        except OSError as error:
            return f"what listens there hung up ({error.strerror or error})"
    if answer.startswith(b"HTTP/1"):
        return "a web server, and not the head of a Ray, answers; Ray's dashboard (port 8265 at its default) is one"
    if len(answer) < _FRAME_BYTES or answer[3] != _SETTINGS:
        return f"something else than the head of a Ray answers ({answer[:_FRAME_BYTES]!r})"
    return ""


def _read(line: socket.socket, n_bytes: int) -> bytes:
    """Read so many bytes, or fewer where the other side ends."""
    found = b""
    while len(found) < n_bytes and (more := line.recv(n_bytes - len(found))):
        found += more
    return found


def _within(seconds: float, look: Callable[[], str | None]) -> str | None:
    """Call a function and return what it returns; None where it takes longer."""
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(look()), name="address", daemon=True)
    thread.start()
    thread.join(seconds)
    with contextlib.suppress(IndexError):
        return found[0]
    return None
