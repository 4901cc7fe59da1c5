"""The routes under `/v1/policies`: decisions, episodes, outcomes, rewards, overrides and status."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from bentos.errors import Problem
from bentos.gateway.gateway import Gateway
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
from bentos.http.messages import Handler, Request, Responding, Response, otherwise

MAX_LOG = 1000
"""Most entries of the overrides' log in one answer."""

_episodes = Body(EpisodesRequest)
_outcome = Body(Outcome)
_outcomes = Body(ManyOutcomes)
_reward = Body(Reward)
_rewards = Body(ManyRewards)
_reward_list = Body(list[Reward])
_override = Body(OverrideRequest)
_clear = Body(ClearRequest)
_encode = msgspec.json.Encoder().encode


class V1:
    """One worker's routes of the first version of the API."""

    prefix = "/v1/policies"

    def __init__(self, gateway: Callable[[], Gateway], guard: Guard) -> None:
        """`gateway` gives the running gateway, and raises Problem (503) before there is one."""
        self._gateway = gateway
        self._guard = guard
        self._places = Known[str, tuple[str, str]]()
        self._handlers: dict[tuple[str, str], Handler] = {
            ("POST", "act"): self._act,
            ("POST", "episodes"): self._start_episodes,
            ("POST", "outcomes"): self._report_outcomes,
            ("POST", "rewards"): self._report_rewards,
            ("PUT", "override"): self._set_override,
            ("DELETE", "override"): self._clear_override,
            ("GET", "override"): self._override_log,
            ("GET", ""): self._status,
        }
        if guard.closed:
            for (method, action), handler in self._handlers.items():
                if method == "POST":
                    self._handlers[method, action] = self._for_clients(handler)

    def answer(self, request: Request) -> Responding:
        """The response to a request under the prefix. Raises Problem."""
        place = self._places.get(request.path) or self._learn(request.path)
        policy, action = place
        handler = self._handlers.get((request.method, action)) or otherwise(self._handlers, action, request)
        return handler(policy, request)

    def decides(self, path: str) -> str | None:
        """The policy whose decisions are asked at a path that was asked before; else None."""
        policy, action = self._places.get(path, ("", ""))
        return policy if action == "act" else None

    def admits(self, request: Request) -> bool:
        """Whether a request may ask for decisions."""
        if self._guard.closed:
            try:
                self._guard.client(request.headers)
            except Problem:
                return False
        return True

    def policy_of(self, path: str) -> str:
        """The policy that a path names, empty for none."""
        place = self._places.get(path) or self._place(path)
        return "" if place is None else place[0]

    def _learn(self, path: str) -> tuple[str, str]:
        place = self._place(path)
        if place is None:
            raise Problem(404, "path", f"there is nothing at {path}")
        self._places.learn(path, place)
        return place

    def _place(self, path: str) -> tuple[str, str] | None:
        """Policy and action of a path."""
        parts = path[len(self.prefix) :].strip("/").split("/")
        if len(parts) > 2 or not (path == self.prefix or path.startswith(f"{self.prefix}/")):
            return None
        return unquote(parts[0]), parts[1] if len(parts) > 1 else ""

    def _for_clients(self, handler: Handler) -> Handler:
        def guarded(policy: str, request: Request) -> Responding:
            self._guard.client(request.headers)
            return handler(policy, request)

        return guarded

    def _act(self, policy: str, request: Request) -> Responding:
        body = self._gateway().core.act_json(policy, request.body)
        return Response(200, body) if isinstance(body, bytes) else _ok(body)

    async def _start_episodes(self, policy: str, request: Request) -> Response:
        body = request.body
        asked: EpisodesRequest = _episodes(body) if body.strip() else EpisodesRequest()
        started = await self._gateway().reports.start_episodes(policy, asked)
        return Response(201, _encode(started[0] if asked.user_ids is None else ManyStarted(started)))

    async def _report_outcomes(self, policy: str, request: Request) -> Response:
        body = request.body
        many = body.lstrip()[:1] == b"{" and b'"outcomes"' in body
        given: list[Outcome] = _outcomes(body).outcomes if many else [_outcome(body)]
        return Response(200, _encode(await self._gateway().reports.outcomes(policy, given)))

    async def _report_rewards(self, policy: str, request: Request) -> Response:
        body = request.body
        if body.lstrip()[:1] == b"[":
            given: list[Reward] = _reward_list(body)
        else:
            given = _rewards(body).rewards if b'"rewards"' in body else [_reward(body)]
        return Response(200, _encode(await self._gateway().reports.rewards(policy, given)))

    async def _set_override(self, policy: str, request: Request) -> Response:
        self._guard.admin(request.headers)
        return Response(200, _encode(await self._gateway().overriding.set(policy, _override(request.body))))

    async def _clear_override(self, policy: str, request: Request) -> Response:
        self._guard.admin(request.headers)
        if request.body.strip():
            which: ClearRequest = _clear(request.body)
        else:
            which = _clear(msgspec.json.encode({name: values[-1] for name, values in _query(request).items()}))
        return Response(200, _encode(await self._gateway().overriding.clear(policy, which)))

    async def _override_log(self, policy: str, request: Request) -> Response:
        self._guard.admin(request.headers)
        limit = _query(request).get("limit", ["100"])[-1]
        if not (limit.isdecimal() and len(limit) < 10 and 0 < int(limit) <= MAX_LOG):
            raise Problem(422, "limit", f"`limit` is a number from 1 to {MAX_LOG}", expected=MAX_LOG, came=limit[:20])
        return Response(200, _encode(await self._gateway().overriding.log(policy, int(limit))))

    async def _status(self, policy: str, request: Request) -> Response:
        gateway = self._gateway()
        trusted = self._guard.is_admin(request.headers)
        core, views, registry = gateway.core, gateway.views, gateway.registry()
        if policy:
            return Response(200, _encode(await views.policy(core.known(policy), registry, trusted)))
        routes = core.routes
        shown = [await views.policy(routes[name], registry, trusted) for name in sorted(routes)]
        return Response(200, _encode({"policies": shown}))


def _query(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.query.decode("latin-1"))


async def _ok(coming: Coroutine[Any, Any, bytes]) -> Response:
    return Response(200, await coming)
