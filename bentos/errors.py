"""Errors as RFC 9457 problem details: what was expected, what came, and what to do."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

import msgspec

CONTENT_TYPE = b"application/problem+json"

_shortening = Repr()
_shortening.maxstring = _shortening.maxother = 80
_shortening.maxlist = _shortening.maxdict = 12

_TITLES = {
    400: "Bad request",
    401: "No token",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    413: "Too large",
    415: "Unsupported encoding",
    422: "Bad input",
    429: "Too many requests",
    431: "Head too large",
    500: "Internal error",
    503: "Nothing can answer",
}


class Problem(Exception):
    """A request that cannot be answered as asked.

    `reason` is a short code that is counted and logged; `detail` is for a person; `expected` and `came` for a program.
    `retry_after` is in seconds and becomes a header. `policy` says whose counts it goes to, where its raiser knows.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        expected: Any = None,
        came: Any = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.expected = expected
        self.came = came
        self.retry_after = retry_after
        self.policy = ""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers beside the content type and length."""
        headers = []
        if self.retry_after is not None:
            headers.append((b"retry-after", str(self.retry_after).encode()))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.status == 405:
            headers.append((b"allow", ", ".join(self.expected).encode()))
        return headers

    def body(self, **further: str) -> bytes:
        """The problem document as JSON, with `further` members."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": _TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
            **further,
        }
        if self.expected is not None:
            document["expected"] = self.expected
        if self.came is not None:
            document["came"] = self.came
        return msgspec.json.encode(document)


def brief(value: Any, limit: int = 80) -> str:
    """`value` as text for an error message, cut to `limit` characters."""
    text = _shortening.repr(value)  # of a huge or deep value it looks at the beginning only
    return text if len(text) <= limit else f"{text[:limit]}…"
