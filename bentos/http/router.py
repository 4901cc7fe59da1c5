"""The door: answers every route of the gateway's own, whichever server read the request."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote

import msgspec

from bentos import logs
from bentos.errors import CONTENT_TYPE, Problem
from bentos.gateway.engine import Core
from bentos.gateway.schemas import (
    Body,
    ClearRequest,
    EpisodesRequest,
    ManyOutcomes,
    ManyRewards,
    ManyStarted,
    Outcome,
    OverrideRequest,
    Reward,
)
from bentos.http.auth import Guard
from bentos.http.cache import Known
from bentos.logs import Quota
from bentos.server.worker import Worker

JSON = b"application/json"
MAX_BODY = 16 * 2**20
"""Most bytes of a request body."""
MAX_LOG = 1000
"""Most entries of the overrides' log in one answer."""
_LINES = 20
"""Lines of the log a second for refusals of one status and reason; each tells how many there were since the last."""

_POLICIES = "/v1/policies"

_episodes = Body(EpisodesRequest)
_outcome = Body(Outcome)
_outcomes = Body(ManyOutcomes)
_reward = Body(Reward)
_rewards = Body(ManyRewards)
_reward_list = Body(list[Reward])
_override = Body(OverrideRequest)
_clear = Body(ClearRequest)
_encode = msgspec.json.Encoder().encode


class Call(msgspec.Struct, frozen=True, gc=False):
    """A whole request. `path` is as it was sent, undecoded; header names are lower case."""

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A whole response; `headers` are those beside content type and length."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()


Replying = Reply | Coroutine[Any, Any, Reply]
"""A reply, or where something must be waited for, a coroutine of it."""
Handler = Callable[[str, Call], Replying]
Desk = Callable[[Call], Replying]

_H = TypeVar("_H")


class Door:
    """One worker's routes. `answer` never raises: whatever is wrong with a request becomes a problem document."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self._quota = Quota(_LINES)
        self._prefixes: tuple[str, ...] = (_POLICIES,)
        self._desks: dict[str, Desk] = {}
        self._worker: Worker | None = None
        self._ending = False
        self._places = Known[str, tuple[str, str]]()
        self._handlers: dict[tuple[str, str], Handler] = {
            ("POST", "act"): self._do_act,
            ("POST", "episodes"): self._do_episodes,
            ("POST", "outcomes"): self._do_outcomes,
            ("POST", "rewards"): self._do_rewards,
            ("PUT", "override"): self._do_override,
            ("DELETE", "override"): self._do_clear,
            ("GET", "override"): self._do_override_log,
            ("GET", ""): self._do_show,
        }
        if guard.closed:
            for (method, action), handler in self._handlers.items():
                if method == "POST":
                    self._handlers[method, action] = self._for_clients(handler)

    def open(self, worker: Worker) -> None:
        """Answer with this worker from now on; before, everything is answered with 503."""
        self._worker = worker

    def end(self) -> None:
        """Say from now on that this gateway is not ready; all else is answered as before."""
        self._ending = True

    def admit(self, prefix: str, desk: Desk) -> None:
        """Have `desk` answer what is under a prefix ("/v2"). It may raise Problem, which gets a member `error` too."""
        self._desks[prefix] = desk
        self._prefixes = (*self._prefixes, prefix)

    @property
    def unready(self) -> str | None:
        """Why others should be asked in this gateway's place; None: it is ready."""
        if self._ending:
            return "the gateway is ending"
        return "the gateway is starting" if self._worker is None else self._worker.unready()

    @property
    def core(self) -> Core | None:
        """The worker's core; None before there is a worker."""
        return None if self._worker is None else self._worker.core

    def decides(self, path: str) -> str | None:
        """The policy whose decisions are asked at a path that was asked before; else None."""
        policy, action = self._places.get(path, ("", ""))
        return policy if action == "act" else None

    def admits(self, call: Call) -> bool:
        """Whether a request may ask for decisions."""
        if self.guard.closed:
            try:
                self.guard.client(call.headers)
            except Problem:
                return False
        return True

    def knows(self, path: str) -> bool:
        """Whether a path is the gateway's own, not BentoML's."""
        return path.startswith(self._prefixes)

    def answer(self, call: Call) -> Replying:
        """The reply to a request whose path is the gateway's own."""
        policy = ""
        try:
            place = self._places.get(call.path)
            if place is None:
                desk = self._desk(call.path)
                if desk is not None:
                    reply = desk(call)
                    return reply if isinstance(reply, Reply) else self._awaited(reply, call, policy)
                place = self._place(call.path)
            policy, action = place
            handler = self._handlers.get((call.method, action)) or otherwise(self._handlers, action, call)
            reply = handler(policy, call)
        except Exception as error:  # noqa: BLE001 - the client gets a clean answer, the log the traceback
            return self._failed(error, call, policy)
        return reply if isinstance(reply, Reply) else self._awaited(reply, call, policy)

    async def _awaited(self, coming: Coroutine[Any, Any, Reply], call: Call, policy: str) -> Reply:
        try:
            return await coming
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(error, call, policy)

    def _failed(self, error: Exception, call: Call, policy: str) -> Reply:
        """The reply to a request that raised an error; called while that is handled, so that the log has it."""
        if isinstance(error, Problem):
            return self._refuse(error, call, policy or error.policy)
        logs.error("request failed", path=call.path, policy=policy, method=call.method)
        internal = Problem(500, "internal", "the gateway failed on this request; its log says how")
        return Reply(500, self._document(internal, call), CONTENT_TYPE)

    def refuse(self, problem: Problem, method: str, path: str) -> Reply:
        """The reply to a request that this door was not asked itself."""
        return self._refuse(problem, Call(method, path, b"", (), b""), problem.policy)

    def _place(self, path: str) -> tuple[str, str]:
        """Policy and action of a path, which is remembered."""
        parts = path[len(_POLICIES) :].strip("/").split("/")
        if len(parts) > 2 or not (path == _POLICIES or path.startswith(f"{_POLICIES}/")):
            raise Problem(404, "path", f"there is nothing at {path}")
        place = (unquote(parts[0]), parts[1] if len(parts) > 1 else "")
        self._places.learn(path, place)
        return place

    def _desk(self, path: str) -> Desk | None:
        for prefix, desk in self._desks.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                return desk
        return None

    def _document(self, problem: Problem, call: Call) -> bytes:
        """The body of a refusal. Clients of other protocols look for a member `error`."""
        return problem.body() if self._desk(call.path) is None else problem.body(error=problem.detail)

    def _for_clients(self, handler: Handler) -> Handler:
        def guarded(policy: str, call: Call) -> Replying:
            self.guard.client(call.headers)
            return handler(policy, call)

        return guarded

    def _refuse(self, problem: Problem, call: Call, policy: str) -> Reply:
        if times := self._quota.told((problem.status, problem.reason)):
            logs.warning(
                "problem",
                status=problem.status,
                reason=problem.reason,
                detail=problem.detail,
                method=call.method,
                path=call.path,
                policy=policy,
                times=times,
            )
        if self._worker is not None:
            self._worker.core.rejected(policy, problem.reason)
        return Reply(problem.status, self._document(problem, call), CONTENT_TYPE, problem.headers())

    def _do_act(self, policy: str, call: Call) -> Replying:
        body = (self._worker or self.running()).core.act_json(policy, call.body)
        return Reply(200, body) if isinstance(body, bytes) else _ok(body)

    async def _do_episodes(self, policy: str, call: Call) -> Reply:
        request: EpisodesRequest = _episodes(call.body) if call.body.strip() else EpisodesRequest()
        started = await self.running().reports.start_episodes(policy, request)
        return Reply(201, _encode(started[0] if request.user_ids is None else ManyStarted(started)))

    async def _do_outcomes(self, policy: str, call: Call) -> Reply:
        many = call.body.lstrip()[:1] == b"{" and b'"outcomes"' in call.body
        given: list[Outcome] = _outcomes(call.body).outcomes if many else [_outcome(call.body)]
        return Reply(200, _encode(await self.running().reports.outcomes(policy, given)))

    async def _do_rewards(self, policy: str, call: Call) -> Reply:
        body = call.body
        if body.lstrip()[:1] == b"[":
            given: list[Reward] = _reward_list(body)
        else:
            given = _rewards(body).rewards if b'"rewards"' in body else [_reward(body)]
        return Reply(200, _encode(await self.running().reports.rewards(policy, given)))

    async def _do_override(self, policy: str, call: Call) -> Reply:
        self.guard.admin(call.headers)
        return Reply(200, _encode(await self.running().overriding.set(policy, _override(call.body))))

    async def _do_clear(self, policy: str, call: Call) -> Reply:
        self.guard.admin(call.headers)
        if call.body.strip():
            request: ClearRequest = _clear(call.body)
        else:
            query = {name: values[-1] for name, values in parse_qs(call.query.decode("latin-1")).items()}
            request = _clear(msgspec.json.encode(query))
        return Reply(200, _encode(await self.running().overriding.clear(policy, request)))

    async def _do_override_log(self, policy: str, call: Call) -> Reply:
        self.guard.admin(call.headers)
        limit = parse_qs(call.query.decode("latin-1")).get("limit", ["100"])[-1]
        if not (limit.isdecimal() and len(limit) < 10 and 0 < int(limit) <= MAX_LOG):
            raise Problem(422, "limit", f"`limit` is a number from 1 to {MAX_LOG}", expected=MAX_LOG, came=limit[:20])
        return Reply(200, _encode(await self.running().overriding.log(policy, int(limit))))

    async def _do_show(self, policy: str, call: Call) -> Reply:
        worker = self.running()
        trusted = self.guard.is_admin(call.headers)
        routes = worker.core.routes
        if policy:
            return Reply(200, _encode(await worker.views.policy(worker.core.known(policy), worker.registry(), trusted)))
        registry = worker.registry()
        shown = [await worker.views.policy(routes[name], registry, trusted) for name in sorted(routes)]
        return Reply(200, _encode({"policies": shown}))

    def running(self) -> Worker:
        """The worker. Raises Problem (503) before there is one."""
        if self._worker is None:
            raise Problem(503, "starting", "the gateway is starting", retry_after=1)
        return self._worker


async def _ok(coming: Coroutine[Any, Any, bytes]) -> Reply:
    return Reply(200, await coming)


def too_large() -> Problem:
    """The problem of a body beyond `MAX_BODY`."""
    return Problem(413, "body_size", f"a request body has at most {MAX_BODY} bytes", expected=MAX_BODY)


def otherwise(handlers: Mapping[tuple[str, str], _H], action: str, call: Call) -> _H:
    """The handler of a request whose method and action have none of their own: HEAD goes where GET goes.

    Raises Problem (404, 405).
    """
    known = {method for method, name in handlers if name == action}
    if not known:
        raise Problem(404, "path", f"there is nothing at {call.path}")
    if "GET" in known:
        if call.method == "HEAD":
            return handlers["GET", action]
        known.add("HEAD")
    raise Problem(405, "method", f"{call.path} does not take {call.method}", expected=sorted(known))
