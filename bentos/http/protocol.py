"""The swift protocol: uvicorn's HTTP protocol with a short way to the router.

uvicorn parses and keeps connections as ever. A request for one of the gateway's own routes goes to the router as soon
as it is complete, without the task, the events and the messages that ASGI takes: those cost more than a decision does.
All else, and what is out of the ordinary (pipelined requests, upgrades, `Expect`), goes uvicorn's way to the same
router.

Requests for decisions that one look at the network brings are answered when all of them are read: see
`bentos.http.coalescing`.

Clients send the same head again and again. One that was parsed before, byte for byte, is not parsed again as long as
its whole request comes in one piece and nothing else is under way: what the parser made of it is remembered.

It also keeps what uvicorn leaves to a proxy: limits on the size of a request's head and body, and on how long a client
may take to send one, and to take its answer. Who does not read what is written for it is not read either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from bentos.errors import Problem
from bentos.event_loop import rest
from bentos.http.cache import Head, Heads
from bentos.http.coalescing import Coalescing
from bentos.http.messages import JSON, MAX_BODY, Request, Response, too_large
from bentos.http.router import Router

MAX_HEAD = 64 * 2**10
"""Most bytes of a request's line and headers together."""
PATIENCE_SECONDS = 30.0
"""How long a client may take to send a request, or to begin with its first one, and to take any more of an answer."""
KEEP_ALIVE_SECONDS = 75
"""How long a connection may idle between requests: longer than load balancers (60 s is common) and pools keep theirs,
for a request that comes while the connection is being closed is lost."""

DRAIN_SECONDS = 1.0
"""How long a connection that is kept is still listened to when its server ends: a request may be on its way. It is
answered, and its client told that it was the last."""

_METHODS = (b"POST", b"GET", b"PUT", b"DELETE")
_ACT = "/act"
_SWIFT = (_ACT, "/infer")
_SWEEP_SECONDS = 1.0


class Exchange:
    """A request for the router and its response: what uvicorn asks of its own request cycles, and no more."""

    __slots__ = ("disconnected", "keep_alive", "method", "path", "query", "response_complete", "task")

    def __init__(self, method: str, path: str, query: bytes, keep_alive: bool) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.task: asyncio.Task[Response] | None = None

    @property
    def message_event(self) -> Exchange:
        """uvicorn sets this event when the connection is lost: the decision asked for is then nobody's."""
        return self

    def set(self) -> None:
        """The connection was lost."""
        if self.task is not None and self.path.endswith(_SWIFT):
            self.task.cancel()


class SwiftProtocol(HttpToolsProtocol):
    """One connection. `router` is set by the subclass that `to` makes."""

    router: Router
    heads: Heads
    coalescing: Coalescing
    _open: WeakSet[SwiftProtocol]
    _sweeping: asyncio.TimerHandle | None = None

    @classmethod
    def to(cls, router: Router) -> type[SwiftProtocol]:
        """The protocol of connections that lead to `router`."""
        return type(
            "Protocol",
            (cls,),
            {"router": router, "heads": Heads(), "coalescing": Coalescing(router), "_open": WeakSet()},
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = max(self.timeout_keep_alive, KEEP_ALIVE_SECONDS)
        self.url = b""
        self.headers = []
        self._exchange: Exchange | None = None
        self._running: RequestResponseCycle | None = None  # what goes uvicorn's way and is being answered
        self._body: list[bytes] = []
        self._size = 0
        self._head = 0
        self._in_head = False
        self._parsing = False  # whether the parser is within a request
        self._parsed = 0  # how many it began with the data that came last
        self._began = 0.0
        self._idle_since = 0.0
        self._left = 0  # bytes that the client has yet to take, at the last look
        self._left_since = 0.0
        self._ending = False
        self._fixed = self._good = b""
        self._fixed_of: Any = None

    def connection_made(self, transport: Any) -> None:
        """uvicorn's, and the connection is watched from now on."""
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._idle_since = self.loop.time()
        self._open.add(self)
        kind = type(self)
        if kind._sweeping is None:
            kind._sweeping = self.loop.call_later(_SWEEP_SECONDS, kind._sweep, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn's, which tells the request that came last; the one that is being answered hears of it, too."""
        if self._running is not None:
            self._running.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer what is known already, else feed the parser; refuse a head that does not end."""
        if self.flow.write_paused:
            self.flow.pause_reading()
        within, self._parsed = self._parsing, 0
        if within or not (self.cycle is None or self.cycle.response_complete):
            super().data_received(data)
        else:
            end = data.find(b"\r\n\r\n") + 4
            head = data[:end]
            known = self.heads.get(head)
            if known is not None and len(data) - end == known.length:
                self._take(known, data[end:])
                return
            super().data_received(data)
            one = self._exchange if self._parsed == 1 and not self._parsing else None
            if end > 3 and one is not None and one.keep_alive and self._size == len(data) - end:
                decides = one.method == "POST" and one.path.endswith(_ACT)
                known = Head(one.method, one.path, one.query, tuple(self.headers), self._size, decides)
                self.heads.learn(head, known)
        if self._in_head and self._parsed <= (not within):  # else the data ended other requests, too
            self._head += len(data)
            if self._head > MAX_HEAD and self.parser is not None:
                self._give_up(Problem(431, "head_size", f"a request's head has at most {MAX_HEAD} bytes"))

    def _take(self, head: Head, body: bytes) -> None:
        """A whole request, whose head is known."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self.headers = head.headers  # type: ignore[assignment]
        exchange = Exchange(head.method, head.path, head.query, not self._ending)
        self.cycle = self._exchange = exchange  # type: ignore[assignment]
        request = Request(head.method, head.path, head.query, head.headers, body)
        if head.decides:
            self.coalescing.add(self.loop, request, partial(self._decided, exchange, request))
        else:
            self._ask(exchange, request)

    def _decided(self, exchange: Exchange, request: Request, response: Response | None) -> None:
        if response is None:
            self._ask(exchange, request)
        else:
            self._reply(exchange, response)

    def on_message_begin(self) -> None:
        """A request begins. uvicorn's scope is made only for those that go its way."""
        self._parsing = True
        self._parsed += 1
        self.url = b""
        self.headers = []
        self._exchange = None
        self._body = []
        self._size = 0
        self._head = 0
        self._in_head = True
        self._began = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the way that the request goes."""
        self._in_head = False
        url, _, query = self.url.partition(b"?")
        path, method = url.decode("latin-1"), self.parser.get_method()
        free = (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused
        if not (free and self.router.knows(path) and method in _METHODS) or self._extraordinary():
            self._go_uvicorns_way()
            return
        keep_alive = not self._ending and self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        exchange = Exchange(method.decode(), path, query, keep_alive)
        self.cycle = self._exchange = exchange  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
            return
        self._size += len(body)
        if exchange.response_complete:
            return
        if self._size > MAX_BODY:
            self._give_up(too_large())
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """The request is complete: answer it now, as far as that goes without waiting."""
        self._parsing = False
        self._began = 0.0
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            return
        if exchange.response_complete:
            return
        pieces, self._body = self._body, []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._ask(exchange, Request(exchange.method, exchange.path, exchange.query, self.headers, body))

    def _ask(self, exchange: Exchange, request: Request) -> None:
        answer = self.router.answer(request)
        if isinstance(answer, Response):
            self._reply(exchange, answer)
            return
        if exchange.path.endswith(_SWIFT):
            try:
                waits_for = answer.send(None)
            except StopIteration as done:
                self._reply(exchange, done.value)
                return
            answer = rest(answer, waits_for)
        exchange.task = task = self.loop.create_task(answer)
        self.tasks.add(cast(Any, task))
        task.add_done_callback(lambda done: self._answered(exchange, done))

    def _extraordinary(self) -> bool:
        return self.parser.should_upgrade() or any(name == b"expect" for name, _ in self.headers)

    def _go_uvicorns_way(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        if self._ending and self.cycle is not None:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _answered(self, exchange: Exchange, task: asyncio.Task[Response]) -> None:
        self.tasks.discard(cast(Any, task))
        if not task.cancelled():
            self._reply(exchange, task.result())

    def _reply(self, exchange: Exchange, response: Response) -> None:
        exchange.response_complete = True
        self.server_state.total_requests += 1
        if exchange.disconnected or self.transport.is_closing():
            return
        self.transport.write(self._written(response, exchange.keep_alive))
        if not exchange.keep_alive:
            self.transport.close()
        elif self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            self.flow.resume_reading()
        else:
            self._idle_since = self.loop.time()

    def _written(self, response: Response, keep_alive: bool) -> bytes:
        """The response as bytes."""
        fixed = self.server_state.default_headers
        if fixed is not self._fixed_of:
            # uvicorn makes a new list each second, for the date
            self._fixed = b"".join(b"%b: %b\r\n" % header for header in fixed)
            self._good = b"%b%bcontent-type: %b\r\ncontent-length: " % (STATUS_LINE[200], self._fixed, JSON)
            self._fixed_of = fixed
        body = response.body
        if keep_alive and response.status == 200 and response.content_type is JSON and not response.headers:
            return b"%b%d\r\n\r\n%b" % (self._good, len(body), body)
        head = b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n" % (
            STATUS_LINE[response.status],
            self._fixed,
            response.content_type,
            len(body),
        )
        if response.headers:
            head += b"".join(b"%b: %b\r\n" % header for header in response.headers)
        if not keep_alive:
            head += b"connection: close\r\n"
        return head + b"\r\n" + body

    def _give_up(self, problem: Problem) -> None:
        """Refuse a request that is not complete, and the connection with it."""
        exchange = self._exchange or Exchange("", self.url.decode("latin-1")[:200], b"", False)
        exchange.keep_alive = False
        self._exchange = exchange
        self._in_head, self._began = False, 0.0
        self._reply(exchange, self.router.refuse(problem, exchange.method, exchange.path))

    def shutdown(self) -> None:
        """The server ends: what is under way or comes within `DRAIN_SECONDS` is answered, then the connection ends."""
        self._ending = True
        self.router.end()
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(DRAIN_SECONDS, super().shutdown)
        else:
            super().shutdown()

    @classmethod
    def _sweep(cls, loop: asyncio.AbstractEventLoop) -> None:
        """Close what is idle for too long and what takes too long; once a second, so that no request needs a timer."""
        now = loop.time()
        for connection in list(cls._open):
            connection._look(now)
        cls._sweeping = loop.call_later(_SWEEP_SECONDS, cls._sweep, loop) if cls._open else None

    def _look(self, now: float) -> None:
        closing = self.transport.is_closing()
        left = self.transport.get_write_buffer_size() if closing or self.flow.write_paused else 0
        if left != self._left:
            self._left, self._left_since = left, now
        if self not in self.connections:
            self._open.discard(self)
        elif left and now - self._left_since > PATIENCE_SECONDS:
            self.transport.abort()
        elif closing:
            pass
        elif self._began:
            if self.flow.read_paused:
                self._began = now  # it is not the client that keeps the rest back
            elif now - self._began > PATIENCE_SECONDS:
                self._give_up(Problem(408, "slow", f"the request was not complete within {PATIENCE_SECONDS:g} s"))
        elif self.cycle is None:
            if now - self._idle_since > PATIENCE_SECONDS:
                self.transport.close()
        elif (
            isinstance(self.cycle, Exchange)
            and self.cycle.response_complete
            and now - self._idle_since > self.timeout_keep_alive
        ):
            self.transport.close()


class Flow(FlowControl):
    """uvicorn's, which reads on while requests wait for their turn, and where nobody reads what is written."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        """`waiting` are the requests that were read before others of this connection were answered."""
        super().__init__(transport)
        self._connection = transport
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Read on, unless there is enough to answer, or to be taken, already."""
        if not (self._waiting or self.write_paused or self._connection.is_closing()):
            super().resume_reading()

    def resume_writing(self) -> None:
        """The client took its answers: it may ask again."""
        super().resume_writing()
        self.resume_reading()
