"""A network that a test can cut: a TCP proxy on loopback between a client and a real server."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """Passes bytes on, until it is told not to.

    Attributes:
        target: port of the server on 127.0.0.1.
        port: where clients connect.
        on_bytes: sees what a client sends before the server does; it may hold it, or cut the line.
    """

    target: int
    on_bytes: Callable[[bytes], None] = lambda data: None
    port: int = 0
    _open: bool = True
    _lines: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> "Proxy":
        self._listener = self._listen()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Refuse new connections and break those that are open."""
        self._open = False
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._lines:
            _close(line)
        self._lines.clear()

    def mend(self) -> None:
        """Listen again, on the same port."""
        self._open = True
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while self._open:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self._lines += [client, server]
            for source, sink, seen in ((client, server, self._seen), (server, client, None)):
                threading.Thread(target=_pass_on, args=(source, sink, seen), daemon=True).start()

    def _seen(self, data: bytes) -> None:
        self.on_bytes(data)  # looked up at each call: a test may change it


def _pass_on(source: socket.socket, sink: socket.socket, seen: Callable[[bytes], None] | None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if seen is not None:
                seen(data)
            sink.sendall(data)
    _close(sink)
    _close(source)


def _close(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()
