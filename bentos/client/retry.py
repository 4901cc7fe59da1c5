"""Retries: how a request is sent again until it is answered, apart from the connections it travels on.

Everything is a generator that yields what to do next (`Try`, `Pause`) and is sent what came of it, so that one logic
serves threads and asyncio alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_TRY_AGAIN = (429, 502, 503, 504)
"""The gateway is full, or is not there for the proxy before it, or has nothing to answer with yet."""


class GatewayError(Exception):
    """The gateway refused a request, or did not answer. `status` is the HTTP status, None when there was no answer.

    `reason` is the problem's short code ("connection" when there was no answer); `retry_after` is in seconds.
    """

    def __init__(self, message: str, status: int | None, reason: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Request(NamedTuple):
    """A request that may be sent more than once; `path` comes after the gateway's address, `body` is JSON."""

    method: str
    path: str
    body: bytes | None = None


class Try(NamedTuple):
    """Send the request to the gateway at `url`. To be answered with Answered or Lost."""

    url: str
    request: Request


class Pause(NamedTuple):
    """Wait. To be answered with None."""

    seconds: float


class Answered(NamedTuple):
    """A whole response. `retry_after` is the header's text, if it came."""

    status: int
    body: bytes
    retry_after: str | None = None


class Lost(NamedTuple):
    """No whole response came: why."""

    why: str


T = TypeVar("T")
Steps = Generator[Try | Pause, Answered | Lost | None, T]


class Servers:
    """The addresses of gateways that are each other's replicas, and which of them is asked."""

    def __init__(self, urls: str | Sequence[str]) -> None:
        """Raises ValueError when there is none, or one is not http or https."""
        self.urls = [url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls)]
        if not self.urls or any(not url.startswith(("http://", "https://")) for url in self.urls):
            raise ValueError(f"expected one or more addresses like http://localhost:3000, came {urls!r}")
        self._asked = 0

    @property
    def asked(self) -> str:
        """The address that is asked now."""
        return self.urls[self._asked]

    def leave(self, url: str) -> None:
        """Ask the next one from now on, if this is still the one that is asked."""
        if self.asked == url:
            self._asked = (self._asked + 1) % len(self.urls)


def persist(
    request: Request,
    servers: Servers,
    patience: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> Steps[bytes]:
    """The body of the answer to a request that changes nothing when it comes twice.

    No answer, 429, 502, 503 and 504 make it go to the next server, and round again after pauses that double from 50 ms
    to 2 s, each cut by chance by up to a half so that clients do not return all at once; never before `Retry-After`.
    After `patience` seconds, and at once on other statuses, raises GatewayError.
    """
    give_up = clock() + patience
    rounds = 0
    tried: set[str] = set()
    wait = 0.0
    while True:
        url = servers.asked
        came = yield Try(url, request)
        if isinstance(came, Answered):
            if 200 <= came.status < 300:
                return came.body
            failure = _refusal(request, came)
            if came.status not in _TRY_AGAIN:
                raise failure
        else:
            why = came.why if came is not None else "nothing"
            what = f"{request.method} {request.path}: no answer from {url}: {why}"
            failure = GatewayError(what, None, "connection")
        servers.leave(url)
        tried.add(url)
        wait = max(wait, failure.retry_after or 0.0)
        if len(tried) == len(servers.urls):
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**rounds) * (1.0 - chance() / 2)
            pause = max(pause, wait * (1.0 + chance() / 10))
            if clock() + pause >= give_up:
                raise failure
            yield Pause(pause)
            rounds, wait = rounds + 1, 0.0
            tried.clear()
        elif clock() >= give_up:
            raise failure


class _Problem(msgspec.Struct):
    detail: str = ""
    reason: str = "http"
    expected: object = None
    came: object = None


def _refusal(request: Request, came: Answered) -> GatewayError:
    try:
        problem = msgspec.json.decode(came.body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    detail = problem.detail or came.body[:200].decode(errors="replace")
    for name, value in (("expected", problem.expected), ("came", problem.came)):
        if value is not None:
            detail += f"; {name} {value}"
    message = f"{request.method} {request.path}: {came.status}: {detail}"
    return GatewayError(message, came.status, problem.reason, _seconds(came.retry_after))


def _seconds(header: str | None) -> float | None:
    """`Retry-After` in seconds; None where it is a date, which the gateway never sends, or nonsense."""
    try:
        seconds = float(header) if header else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < 1e9 else None
