"""The door: answers every route of the gateway's own, whichever server read the request."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

import msgspec

from bentos import logs
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

JSON = b"application/json"
MAX_BODY = 16 * 2**20
"""Most bytes of a request body."""

_POLICIES = "/v1/policies"
_HEALTH = "/v2/health/"
_REMEMBERED = 1000

_act = Body(ActRequest)
_episodes = Body(EpisodesRequest)
_outcome = Body(Outcome)
_outcomes = Body(ManyOutcomes)
_override = Body(OverrideRequest)
_clear = Body(ClearRequest)
_encode = msgspec.json.Encoder().encode


class Call(NamedTuple):
    """A whole request. `path` is as it was sent, undecoded; header names are lower case."""

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Reply(NamedTuple):
    """A whole response; `headers` are those beside content type and length."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()


Handler = Callable[[str, Call], Awaitable[Reply]]


class Door:
    """One worker's routes. `answer` never raises: whatever is wrong with a request becomes a problem document."""

    def __init__(self, admin_token: str) -> None:
        self._token = admin_token.encode()
        self._worker: Worker | None = None
        self._places: dict[str, tuple[str, str]] = {}
        self._handlers: dict[tuple[str, str], Handler] = {
            ("POST", "act"): self._do_act,
            ("POST", "episodes"): self._do_episodes,
            ("POST", "outcomes"): self._do_outcomes,
            ("PUT", "override"): self._do_override,
            ("DELETE", "override"): self._do_clear,
            ("GET", ""): self._do_show,
        }

    def open(self, worker: Worker) -> None:
        """Answer with this worker from now on; before, everything is answered with 503."""
        self._worker = worker

    @staticmethod
    def knows(path: str) -> bool:
        """Whether a path is the gateway's own, not BentoML's."""
        return path.startswith((_POLICIES, _HEALTH))

    async def answer(self, call: Call) -> Reply:
        """The reply to a request whose path is the gateway's own."""
        policy = ""
        try:
            if call.path.startswith(_HEALTH):
                return self._health(call.path)
            policy, action = self._places.get(call.path) or self._place(call.path)
            handler = self._handlers.get((call.method, action))
            if handler is None:
                raise self._nothing_at(call, action)
            return await handler(policy, call)
        except Problem as problem:
            return self._refuse(problem, call, policy)
        except Exception:  # noqa: BLE001 - the client gets a clean answer, the log the traceback
            logs.error("request failed", path=call.path, policy=policy, method=call.method)
            internal = Problem(500, "internal", "the gateway failed on this request; its log says how")
            return Reply(500, internal.body(), CONTENT_TYPE)

    def refuse(self, problem: Problem, method: str, path: str) -> Reply:
        """The reply to a request that the server would not even read to its end."""
        return self._refuse(problem, Call(method, path, b"", (), b""), "")

    def _place(self, path: str) -> tuple[str, str]:
        """Policy and action of a path. Those seen before are remembered, as many as fit."""
        parts = path[len(_POLICIES) :].strip("/").split("/")
        if len(parts) > 2 or (path != _POLICIES and path[len(_POLICIES)] != "/"):
            raise Problem(404, "path", f"there is nothing at {path}")
        place = (unquote(parts[0]), parts[1] if len(parts) > 1 else "")
        if len(self._places) < _REMEMBERED:
            self._places[path] = place
        return place

    def _nothing_at(self, call: Call, action: str) -> Problem:
        known = {method for method, name in self._handlers if name == action}
        if known:
            return Problem(405, "method", f"{call.path} does not take {call.method}", expected=sorted(known))
        return Problem(404, "path", f"there is nothing at {call.path}")

    def _refuse(self, problem: Problem, call: Call, policy: str) -> Reply:
        logs.warning(
            "problem",
            status=problem.status,
            reason=problem.reason,
            detail=problem.detail,
            method=call.method,
            path=call.path,
            policy=policy,
        )
        if self._worker is not None:
            self._worker.core.rejected(policy, problem.reason)
        return Reply(problem.status, problem.body(), CONTENT_TYPE, problem.headers())

    async def _do_act(self, policy: str, call: Call) -> Reply:
        return Reply(200, _encode(await self._running().core.act(policy, _act(call.body))))

    async def _do_episodes(self, policy: str, call: Call) -> Reply:
        request: EpisodesRequest = _episodes(call.body) if call.body.strip() else EpisodesRequest()
        started = await self._running().reports.start_episodes(policy, request)
        return Reply(201, _encode(started[0] if request.user_ids is None else {"episodes": started}))

    async def _do_outcomes(self, policy: str, call: Call) -> Reply:
        many = call.body.lstrip()[:1] == b"{" and b'"outcomes"' in call.body
        given: list[Outcome] = _outcomes(call.body).outcomes if many else [_outcome(call.body)]
        return Reply(200, _encode(await self._running().reports.outcomes(policy, given)))

    async def _do_override(self, policy: str, call: Call) -> Reply:
        self._admin(call)
        return Reply(200, _encode(await self._running().overriding.set(policy, _override(call.body))))

    async def _do_clear(self, policy: str, call: Call) -> Reply:
        self._admin(call)
        if call.body.strip():
            request: ClearRequest = _clear(call.body)
        else:
            query = {name: values[-1] for name, values in parse_qs(call.query.decode()).items()}
            request = _clear(msgspec.json.encode(query))
        return Reply(200, _encode(await self._running().overriding.clear(policy, request)))

    async def _do_show(self, policy: str, _call: Call) -> Reply:
        worker = self._running()
        routes = worker.core.routes
        if policy:
            if policy not in routes:
                raise Problem(404, "policy", f"there is no policy {policy!r}", expected=sorted(routes)[:20])
            return Reply(200, _encode(await worker.views.policy(routes[policy], worker.registry())))
        registry = worker.registry()
        return Reply(
            200, _encode({"policies": [await worker.views.policy(routes[name], registry) for name in sorted(routes)]})
        )

    def _health(self, path: str) -> Reply:
        ready = self._worker is not None and self._worker.ready
        if path == "/v2/health/live":
            return Reply(200, _encode({"live": True}))
        if path == "/v2/health/ready":
            return Reply(200 if ready else 503, _encode({"ready": ready}))
        raise Problem(404, "path", f"there is nothing at {path}")

    def _admin(self, call: Call) -> None:
        """Let only the admin token pass, compared in constant time. Raises Problem (401, 403)."""
        given = next((value for name, value in call.headers if name == b"authorization"), None)
        if given is None or not given.startswith(b"Bearer "):
            raise Problem(401, "token", "this call needs `Authorization: Bearer <admin token>`")
        if not hmac.compare_digest(given[7:].strip(), self._token):
            raise Problem(403, "token", "the admin token is wrong")

    def _running(self) -> Worker:
        if self._worker is None:
            raise Problem(503, "starting", "the gateway is starting", retry_after=1)
        return self._worker


def too_large() -> Problem:
    """The problem of a body beyond `MAX_BODY`."""
    return Problem(413, "body_size", f"a request body has at most {MAX_BODY} bytes", expected=MAX_BODY)
