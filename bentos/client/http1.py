"""HTTP/1.1 as far as the gateway's routes need it: a request as bytes, and a response read from them."""

from __future__ import annotations

import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

from .retry import Answered, Try


class Address(NamedTuple):
    """Where a gateway listens. `secure` is None for plain http; `prefix` comes before each request's path."""

    host: str
    port: int
    prefix: str
    authority: str
    secure: ssl.SSLContext | None


def address(url: str) -> Address:
    """Raises ValueError for an address without a host or with a port that is none."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"expected an address like http://localhost:3000, came {url!r}")
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    return Address(parts.hostname, port, parts.path.rstrip("/"), parts.netloc.rpartition("@")[2], secure)


def written(step: Try, place: Address, token: str | None) -> bytes:
    """The request as bytes."""
    method, path, body = step.request
    lines = [f"{method} {place.prefix}{path} HTTP/1.1", f"host: {place.authority}"]
    if token:
        lines.append(f"authorization: Bearer {token}")
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Response:
    """Reads one response as its bytes come in."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._retry_after: str | None = None
        self._measured = False
        self._headed = False
        self._stays = False
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        lower = name.lower()
        if lower == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif lower in (b"content-length", b"transfer-encoding"):
            self._measured = True

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._headed = True

    def on_body(self, piece: bytes) -> None:
        """Called by the parser."""
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Called by the parser, which answers for this response only until it ends."""
        self._stays = self._measured and bool(self._parser.should_keep_alive())
        self.whole = True

    def take(self, data: bytes) -> None:
        """Take what came; nothing means that the server closed. Raises ConnectionError."""
        if data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                raise ConnectionError(f"what came is not HTTP: {error}") from error
        elif self._headed and not self._measured:
            self.whole = True
        else:
            raise ConnectionError("the server closed the connection before it had answered")

    def answer(self) -> tuple[Answered, bool]:
        """The response, and whether the connection may be used again."""
        return Answered(self._parser.get_status_code(), b"".join(self._pieces), self._retry_after), self._stays
