"""A server that does to each request what a script says: answers, half-answers, hangs up, waits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Act = Callable[[socket.socket], bool]
"""Does something with a connection whose request was read; whether the connection stays open."""


def says(status: int, body: bytes = b"{}", *headers: str, stay: bool = True) -> Act:
    """A whole response."""
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers]
    return sends("\r\n".join([*lines, "", ""]).encode() + body, stay)


def sends(data: bytes, stay: bool = False) -> Act:
    """These bytes."""

    def act(connection: socket.socket) -> bool:
        connection.sendall(data)
        return stay

    return act


def hangs_up(_connection: socket.socket) -> bool:
    """No answer: as a worker killed in mid-request."""
    return False


class ScriptedServer:
    """`requests` are the requests that came (head and body as one text), `connections` how many carried them."""

    def __init__(self, script: list[Act]) -> None:
        self._script = iter(script)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[str] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while (request := _read(connection)) is not None:
                self.requests.append(request)
                if not next(self._script)(connection):
                    connection.shutdown(socket.SHUT_RDWR)
                    return

    def drop(self) -> None:
        """Close all connections, as a worker does that ends."""
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)  # or it would listen until the blocked accept returns
        self._listener.close()
        self.drop()


@contextmanager
def scripted(*script: Act) -> Iterator[ScriptedServer]:
    """A scripted server while the block runs."""
    server = ScriptedServer(list(script))
    try:
        yield server
    finally:
        server.close()


def _read(connection: socket.socket) -> str | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += connection.recv(65536)
    return (head + b"\r\n\r\n" + body).decode()
