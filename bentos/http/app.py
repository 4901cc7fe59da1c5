"""The hot ASGI app: answers the gateway's own routes in front of BentoML's app, and hands over the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from bentos import logs
from bentos.errors import Problem
from bentos.gateway.gateway import Gateway
from bentos.http.messages import MAX_BODY, Request, Response, too_large
from bentos.http.router import Router

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class App:
    """Routes by path. Lifespan is passed on, with the gateway started before and stopped after BentoML's app serves."""

    def __init__(
        self, following: Asgi, router: Router, serving: Callable[[], AbstractAsyncContextManager[Gateway]]
    ) -> None:
        """`following` is BentoML's app; `serving` makes the context in which the gateway runs."""
        self._following = following
        self._serving = serving
        self._stack = AsyncExitStack()
        self.router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "http" and self.router.knows(scope["path"]):
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and self.router.guard.closed:
            await self._if_client(scope, receive, send)
        else:
            await self._following(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
        try:
            body = await _read(scope, receive)
        except Problem as problem:
            await _send(send, self.router.refuse(problem, scope["method"], path))
        except _Gone:
            return
        else:
            request = Request(scope["method"], path, scope["query_string"], scope["headers"], body)
            response = self.router.answer(request)
            await _send(send, response if isinstance(response, Response) else await response)

    async def _if_client(self, scope: Scope, receive: Receive, send: Send) -> None:
        """BentoML's own decisions are for the same clients as the gateway's."""
        try:
            self.router.guard.client(scope["headers"])
        except Problem as problem:
            await _send(send, self.router.refuse(problem, scope["method"], scope["path"]))
        else:
            await self._following(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def around(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    self.router.open(await self._stack.enter_async_context(self._serving()))
                except Exception as error:  # noqa: BLE001 - the server must hear of it, whatever it is
                    logs.error("gateway did not start", detail=str(error))
                    message = {"type": "lifespan.startup.failed", "message": str(error)}
            elif message["type"] == "lifespan.shutdown.complete":
                await self._stack.aclose()
            await send(message)

        await self._following(scope, receive, around)


class _Gone(Exception):
    """The client went away before its request was complete."""


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The request's body. Raises Problem (413) as soon as it is known to be too large."""
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > MAX_BODY):
            raise too_large()
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        piece = message.get("body", b"")
        size += len(piece)
        if size > MAX_BODY:
            raise too_large()
        pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces)


async def _send(send: Send, response: Response) -> None:
    length = str(len(response.body)).encode()
    headers = [(b"content-type", response.content_type), (b"content-length", length), *response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
