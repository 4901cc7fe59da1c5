"""A way to a server that opens late, or on which PostgreSQL's answer to a commit gets lost."""

from __future__ import annotations

import contextlib
import socket
import threading

_CHUNK = 1 << 16
_COMMIT = b"COMMIT"


class Way:
    """Passes connections on to a port of this machine, from `port` or a free one.

    Once `cut_off` was called, the transaction that writes `words` is the last of its connection: its commit is carried
    out, and the connection ends before the answer.
    """

    def __init__(self, to: int, port: int = 0) -> None:
        self._to = to
        self._words: bytes | None = None
        self.lost = threading.Event()
        """Set once the answer was lost."""
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_off(self, words: str) -> None:
        """Let the answer to the next commit of these words get lost."""
        self.lost.clear()
        self._words = words.encode()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                committing = threading.Event()
                threading.Thread(target=self._ask, args=(client, server, committing), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client, committing), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, committing: threading.Event) -> None:
        chosen = False
        with contextlib.suppress(OSError):
            while data := client.recv(_CHUNK):
                if self._words is not None and self._words in data:
                    self._words, chosen = None, True
                if chosen and _COMMIT in data:
                    committing.set()
                server.sendall(data)
        _end(client, server)

    def _answer(self, server: socket.socket, client: socket.socket, committing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_CHUNK):
                if committing.is_set():  # it is done
                    self.lost.set()
                    break
                client.sendall(data)
        _end(client, server)


def _end(*connections: socket.socket) -> None:
    for one in connections:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
