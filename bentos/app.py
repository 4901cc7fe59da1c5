"""The hot ASGI app: answers the gateway's own routes in front of BentoML's app, and hands over the rest."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from bentos import home, logs
from bentos.background import Worker
from bentos.problems import CONTENT_TYPE, Problem
from bentos.wire import (
    ActRequest,
    Body,
    ClearRequest,
    EpisodesRequest,
    ManyOutcomes,
    Outcome,
    OverrideRequest,
)

MAX_BODY = 16 * 2**20
"""Most bytes of a request body."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[str, bytes, Scope], Awaitable[tuple[int, Any]]]

_PREFIX = "/v1/policies"
_JSON = b"application/json"

_act = Body(ActRequest)
_episodes = Body(EpisodesRequest)
_outcome = Body(Outcome)
_outcomes = Body(ManyOutcomes)
_override = Body(OverrideRequest)
_clear = Body(ClearRequest)
_encode = msgspec.json.Encoder().encode


class App:
    """Routes by path. Lifespan is passed on, with the worker started before and stopped after BentoML's app serves."""

    def __init__(self, following: Asgi, start: Callable[[], Awaitable[Worker]]) -> None:
        self._following = following
        self._start = start
        self._worker: Worker | None = None
        self._token = home.secret("admin_token").encode()
        self._handlers: dict[tuple[str, str], Handler] = {
            ("POST", "act"): self._do_act,
            ("POST", "episodes"): self._do_episodes,
            ("POST", "outcomes"): self._do_outcomes,
            ("PUT", "override"): self._do_override,
            ("DELETE", "override"): self._do_clear,
            ("GET", ""): self._do_show,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith(_PREFIX):
                await self._answer(path, scope, receive, send)
                return
            if path.startswith("/v2/health/"):
                await self._health(path, send)
                return
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        await self._following(scope, receive, send)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        policy = ""
        try:
            parts = path[len(_PREFIX) :].strip("/").split("/")
            policy, action = unquote(parts[0]), parts[1] if len(parts) > 1 else ""
            if len(parts) > 2 or (path != _PREFIX and path[len(_PREFIX)] != "/"):
                raise Problem(404, "path", f"there is nothing at {path}")
            handler = self._handlers.get((scope["method"], action))
            if handler is None:
                known = {method for method, name in self._handlers if name == action}
                if known:
                    raise Problem(405, "method", f"{path} does not take {scope['method']}", expected=sorted(known))
                raise Problem(404, "path", f"there is nothing at {path}")
            body = await _read(scope, receive)
            status, document = await handler(policy, body, scope)
        except Problem as problem:
            self._log(problem, path, policy, scope)
            await _send(send, problem.status, problem.body(), CONTENT_TYPE, problem.headers())
        except _Gone:
            return
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - the client gets a clean answer, the log the traceback
            logs.error("request failed", path=path, policy=policy, method=scope["method"])
            internal = Problem(500, "internal", "the gateway failed on this request; its log says how")
            await _send(send, 500, internal.body(), CONTENT_TYPE, [])
        else:
            await _send(send, status, _encode(document), _JSON, [])

    def _log(self, problem: Problem, path: str, policy: str, scope: Scope) -> None:
        logs.warning(
            "problem",
            status=problem.status,
            reason=problem.reason,
            detail=problem.detail,
            method=scope["method"],
            path=path,
            policy=policy,
        )
        if self._worker is not None:
            self._worker.core.rejected(policy, problem.reason)

    async def _do_act(self, policy: str, body: bytes, _scope: Scope) -> tuple[int, Any]:
        return 200, await self._running().core.act(policy, _act(body))

    async def _do_episodes(self, policy: str, body: bytes, _scope: Scope) -> tuple[int, Any]:
        request: EpisodesRequest = _episodes(body) if body.strip() else EpisodesRequest()
        started = await self._running().core.start_episodes(policy, request)
        return 201, started[0] if request.user_ids is None else {"episodes": started}

    async def _do_outcomes(self, policy: str, body: bytes, _scope: Scope) -> tuple[int, Any]:
        many = body.lstrip()[:1] == b"{" and b'"outcomes"' in body
        given: list[Outcome] = _outcomes(body).outcomes if many else [_outcome(body)]
        return 200, await self._running().core.outcomes(policy, given)

    async def _do_override(self, policy: str, body: bytes, scope: Scope) -> tuple[int, Any]:
        self._admin(scope)
        return 200, await self._running().core.set_override(policy, _override(body))

    async def _do_clear(self, policy: str, body: bytes, scope: Scope) -> tuple[int, Any]:
        self._admin(scope)
        if body.strip():
            request: ClearRequest = _clear(body)
        else:
            query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode()).items()}
            request = _clear(msgspec.json.encode(query))
        return 200, await self._running().core.clear_override(policy, request)

    async def _do_show(self, policy: str, _body: bytes, _scope: Scope) -> tuple[int, Any]:
        worker = self._running()
        routes = worker.core.routes
        if policy:
            if policy not in routes:
                raise Problem(404, "policy", f"there is no policy {policy!r}", expected=sorted(routes)[:20])
            return 200, await worker.views.policy(routes[policy], worker.registry())
        registry = worker.registry()
        return 200, {"policies": [await worker.views.policy(routes[name], registry) for name in sorted(routes)]}

    def _admin(self, scope: Scope) -> None:
        """Let only the admin token pass, compared in constant time. Raises Problem (401, 403)."""
        given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if given is None or not given.startswith(b"Bearer "):
            raise Problem(401, "token", "this call needs `Authorization: Bearer <admin token>`")
        if not hmac.compare_digest(given[7:].strip(), self._token):
            raise Problem(403, "token", "the admin token is wrong")

    def _running(self) -> Worker:
        if self._worker is None:
            raise Problem(503, "starting", "the gateway is starting", retry_after=1)
        return self._worker

    async def _health(self, path: str, send: Send) -> None:
        ready = self._worker is not None and self._worker.ready
        if path == "/v2/health/live":
            await _send(send, 200, _encode({"live": True}), _JSON, [])
        elif path == "/v2/health/ready":
            await _send(send, 200 if ready else 503, _encode({"ready": ready}), _JSON, [])
        else:
            problem = Problem(404, "path", f"there is nothing at {path}")
            await _send(send, 404, problem.body(), CONTENT_TYPE, [])

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def around(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    self._worker = await self._start()
                except Exception as error:  # noqa: BLE001 - the server must hear of it, whatever it is
                    logs.error("gateway did not start", detail=str(error))
                    message = {"type": "lifespan.startup.failed", "message": str(error)}
            elif message["type"] == "lifespan.shutdown.complete" and self._worker is not None:
                await self._worker.stop()
            await send(message)

        await self._following(scope, receive, around)


class _Gone(Exception):
    """The client went away before its request was complete."""


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The request's body. Raises Problem (413) as soon as it is known to be too large."""
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > MAX_BODY):
            raise _too_large()
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if message["type"] == "http.disconnect":
            raise _Gone
        return body
    pieces = [body]
    size = len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        piece = message.get("body", b"")
        size += len(piece)
        if size > MAX_BODY:
            raise _too_large()
        pieces.append(piece)
    return b"".join(pieces)


def _too_large() -> Problem:
    return Problem(413, "body_size", f"a request body has at most {MAX_BODY} bytes", expected=MAX_BODY)


async def _send(send: Send, status: int, body: bytes, content_type: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = str(len(body)).encode()
    fixed = [(b"content-type", content_type), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fixed})
    await send({"type": "http.response.body", "body": body})
