"""Requests and responses of the gateway's own routes, whichever server read the bytes; what a route table is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from bentos.errors import Problem

JSON = b"application/json"
MAX_BODY = 16 * 2**20
"""Most bytes of a request body."""

_H = TypeVar("_H")


class Request(msgspec.Struct, frozen=True, gc=False):
    """A whole request. `path` is as it was sent, undecoded; header names are lower case."""

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole response; `headers` are those beside content type and length."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()


Responding = Response | Coroutine[Any, Any, Response]
"""A response, or where something must be waited for, a coroutine of it."""
Handler = Callable[[str, Request], Responding]
"""Answers a request about a policy, which is empty where all are meant."""


class RouteTable(Protocol):
    """The routes under one prefix."""

    prefix: str

    def answer(self, request: Request) -> Responding:
        """The response to a request under the prefix. Raises Problem, which says of which policy it is."""
        ...


def too_large() -> Problem:
    """The problem of a body beyond `MAX_BODY`."""
    return Problem(413, "body_size", f"a request body has at most {MAX_BODY} bytes", expected=MAX_BODY)


def otherwise(handlers: Mapping[tuple[str, str], _H], action: str, request: Request) -> _H:
    """The handler of a request whose method and action have none of their own: HEAD goes where GET goes.

    Raises Problem (404, 405).
    """
    known = {method for method, name in handlers if name == action}
    if not known:
        raise Problem(404, "path", f"there is nothing at {request.path}")
    if "GET" in known:
        if request.method == "HEAD":
            return handlers["GET", action]
        known.add("HEAD")
    raise Problem(405, "method", f"{request.path} does not take {request.method}", expected=sorted(known))
