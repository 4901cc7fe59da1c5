"""The gateway's core: decides, starts episodes, takes outcomes and overrides, over whatever routes it is given."""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from typing import Any

import sqlalchemy as sa

from bentos import faults, logs, overrides
from bentos.assignment import Canary
from bentos.episodes import Episode, Signer, State, new_nonce, user_hash
from bentos.faults import Faults
from bentos.overrides import Overrides
from bentos.package import PackageError, Policy
from bentos.problems import Problem
from bentos.routes import Route, no_version
from bentos.rows import MAX_ROWS, NothingCanAnswer, Overloaded
from bentos.runners.assign import Assign
from bentos.runners.validate import Answer, Validate, check_episode, check_user
from bentos.stats import Stats
from bentos.versions import Version, as_action
from bentos.wire import (
    ActRequest,
    ActResponse,
    ClearRequest,
    EpisodesRequest,
    ManyActResponse,
    Outcome,
    OverrideRequest,
    Started,
)
from bentos.writer import Row, StoreDown, Writer


def worker_id() -> str:
    """A name for this worker process that no other ever has."""
    return f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"


class Core:
    """One worker's gateway. Everything runs on its event loop but model calls and the writer."""

    def __init__(self, signer: Signer, writer: Writer, active: Overrides) -> None:
        self.worker = worker_id()
        self.signer = signer
        self.writer = writer
        self.overrides = active
        self.stats = Stats()
        self.faults = Faults()
        self.routes: dict[str, Route] = {}
        self._doors: dict[str, Validate] = {}
        self._decisions = 0
        self._decision_prefix = secrets.token_hex(6)
        self.on_breaker: Any = None

    def build(self, policy: str, version: str, package: Policy, digest: str) -> Version:
        """A version of a policy in this gateway. Raises PackageError. Call it off the event loop."""
        return Version(
            version,
            package,
            digest,
            stats=self.stats,
            overrides=self.overrides,
            champion=lambda: self._champion(policy),
            opened=lambda broken, reason: self._breaker_opened(policy, broken, reason),
        )

    def route(self, route: Route) -> None:
        """Take over a policy's new route: requests that began on the old one end on it."""
        self.routes[route.policy] = route
        if route.manifest is None:
            self._doors.pop(route.policy, None)
        else:
            stateful = any(version.stateful for version in route.versions.values())
            self._doors[route.policy] = Validate(Assign(route), route.manifest, self.signer, stateful)

    def drop(self, policy: str) -> None:
        """Forget a policy that the registry no longer has."""
        self.routes.pop(policy, None)
        self._doors.pop(policy, None)

    async def act(self, policy: str, request: ActRequest) -> ActResponse | ManyActResponse:
        """Decide. Raises Problem."""
        door = self._door(policy)
        try:
            answer = await door.decide(request)
        except Overloaded as error:
            raise Problem(429, "overloaded", str(error), retry_after=1) from error
        except NothingCanAnswer as error:
            raise Problem(503, "no_answer", str(error), retry_after=1) from error
        states = self._states(answer, policy) if door.stateful else None
        return self._many(answer, states) if request.observations is not None else self._one(answer, states)

    async def start_episodes(self, policy: str, request: EpisodesRequest) -> list[Started]:
        """Start episodes. Those of the experiment are committed first; with the store down they stay outside of it."""
        users = [request.user_id] if request.user_ids is None else request.user_ids
        if len(users) > MAX_ROWS:
            raise Problem(413, "rows", f"at most {MAX_ROWS} episodes a request", expected=MAX_ROWS, came=len(users))
        for user in users:
            check_user(user)
        route = self._route(policy)
        now = time.time()
        nonces = [new_nonce() for _ in users]
        seats = [route.seat_of_unit(nonce if user is None else user) for user, nonce in zip(users, nonces, strict=True)]
        rows = [
            {
                "episode": nonce,
                "policy": policy,
                "generation": seat.generation,
                "unit": user or nonce,
                "arm": seat.arm,
                "version": seat.version,
                "started_at": now,
            }
            for user, nonce, seat in zip(users, nonces, seats, strict=True)
            if seat.generation
        ]
        if rows:
            try:
                await self.writer.start_episodes(rows)
            except StoreDown as error:
                logs.warning("episodes outside the experiment", policy=policy, count=len(rows), detail=str(error))
                seats = [route.outside if seat.generation else seat for seat in seats]
        started = []
        for user, nonce, seat in zip(users, nonces, seats, strict=True):
            hashed = user_hash(user) if user else ""
            episode = Episode(policy, seat.version, seat.arm, seat.generation, nonce, hashed, now)
            started.append(Started(self.signer.episode_id(episode), seat.version or None, seat.arm))
        return started

    async def outcomes(self, policy: str, given: list[Outcome]) -> dict[str, int]:
        """Store outcomes, once per episode however often they are sent. Raises Problem: 422, 403, 503."""
        route = self._route(policy)
        now = time.time()
        rows: list[Row] = []
        for place, outcome in enumerate(given):
            episode = check_episode(self.signer, outcome.episode_id, policy)
            value = outcome.episode_return
            served = route.versions.get(episode.version)
            manifest = served.manifest if served else route.manifest
            allowed = manifest.outcomes.return_range if manifest else None
            if not math.isfinite(value):
                raise Problem(422, "return", f"outcome {place}: the return must be finite", came=str(value))
            if allowed is not None and not allowed[0] <= value <= allowed[1]:
                raise Problem(
                    422,
                    "return_range",
                    f"outcome {place}: the return lies outside the range",
                    expected=allowed,
                    came=value,
                )
            rows.append(
                {
                    "episode": episode.nonce,
                    "policy": policy,
                    "generation": episode.generation,
                    "arm": episode.arm,
                    "version": episode.version,
                    "episode_return": value,
                    "length": outcome.length,
                    "kind": "reported",
                    "recorded_at": now,
                }
            )
        if not rows:
            return {"accepted": 0, "duplicates": 0}
        try:
            accepted = await self.writer.outcomes(rows)
        except StoreDown as error:
            raise Problem(
                503, "store_down", "the outcomes could not be stored; send them again", retry_after=1
            ) from error
        for row, fresh in zip(rows, accepted, strict=True):
            if fresh:
                arm = self.stats.arm(policy, row["generation"], row["version"], row["arm"])
                arm.ended(row["episode_return"], row["length"])
        return {"accepted": sum(accepted), "duplicates": len(accepted) - sum(accepted)}

    async def set_override(self, policy: str, request: OverrideRequest) -> dict[str, Any]:
        """Commit an override and follow it at once; other workers do within a second. Raises Problem."""
        route = self._route(policy)
        if route.manifest is None:
            raise no_version(policy)
        try:
            as_action(request.action, route.manifest.action_space)
        except PackageError as error:
            raise Problem(422, "action", f"the action does not fit the policy's action space: {error}") from error
        user, episode = self._target(policy, request.user_id, request.episode_id)
        now = time.time()
        values = {
            "policy": policy,
            "user_id": user,
            "episode": episode,
            "action": request.action,
            "force": request.force,
            "who": request.who,
            "reason": request.reason,
            "set_at": now,
            "until": now + request.ttl_seconds,
        }

        def change(connection: sa.Connection) -> list[overrides.Active]:
            overrides.put(connection, values)
            return overrides.read(connection, now)

        self.overrides.replace(await self._admin(change))
        logs.info("override set", **{**values, "action": str(request.action)})
        return {"policy": policy, "until": values["until"]}

    async def clear_override(self, policy: str, request: ClearRequest) -> dict[str, Any]:
        """Clear an override and stop following it at once. Raises Problem."""
        self._route(policy)
        user, episode = self._target(policy, request.user_id, request.episode_id)
        now = time.time()

        def change(connection: sa.Connection) -> tuple[int, list[overrides.Active]]:
            cleared = overrides.clear(connection, policy, user, episode, request.who, now)
            return cleared, overrides.read(connection, now)

        cleared, active = await self._admin(change)
        self.overrides.replace(active)
        logs.info("override cleared", policy=policy, user_id=user, episode=episode, who=request.who, cleared=cleared)
        return {"policy": policy, "cleared": cleared}

    def rejected(self, policy: str, reason: str) -> None:
        """Count a refused request."""
        route = self.routes.get(policy)
        if route is not None:
            name = route.champion.name if route.champion else ""
            arm = self.stats.arm(policy, "", name, "champion")
            arm.count(arm.rejected, reason, 1)

    def withdrawn(
        self, policy: str, champion: str | None, canary: Canary | None, loaded: dict[str, Version]
    ) -> frozenset[str]:
        """See `Faults.withdrawn`."""
        return self.faults.withdrawn(policy, champion, canary, loaded)

    async def record_fault(self, policy: str, version: str, digest: str, kind: str, detail: str) -> None:
        """Commit a fault event; with the store down it is only logged."""
        try:
            await self.writer.call(
                lambda connection: faults.record(
                    connection,
                    policy=policy,
                    version=version,
                    digest=digest,
                    kind=kind,
                    detail=detail,
                    worker=self.worker,
                )
            )
        except StoreDown as error:
            logs.warning("fault event not stored", policy=policy, version=version, kind=kind, detail=str(error))

    async def _admin(self, change: Any) -> Any:
        try:
            return await self.writer.call(change)
        except StoreDown as error:
            raise Problem(503, "store_down", "the override could not be stored", retry_after=1) from error

    def _target(self, policy: str, user_id: str | None, episode_id: str | None) -> tuple[str | None, str | None]:
        check_user(user_id)
        if user_id is not None and episode_id is not None:
            raise Problem(422, "override", "give `user_id` or `episode_id`, not both")
        return user_id, check_episode(self.signer, episode_id, policy).nonce if episode_id else None

    def _breaker_opened(self, policy: str, version: Version, reason: str) -> None:
        logs.error("breaker opened", policy=policy, version=version.name, detail=reason)
        self.faults.note(policy, version.name, faults.BREAKER_OPEN, time.time())
        if self.on_breaker is not None:
            self.on_breaker(policy, version, reason)

    def _champion(self, policy: str) -> Version | None:
        route = self.routes.get(policy)
        return None if route is None else route.champion

    def _route(self, policy: str) -> Route:
        route = self.routes.get(policy)
        if route is None:
            raise Problem(404, "policy", f"there is no policy {policy!r}", expected=sorted(self.routes)[:20])
        return route

    def _door(self, policy: str) -> Validate:
        door = self._doors.get(policy)
        if door is None:
            raise no_version(self._route(policy).policy)
        return door

    def _decision_ids(self, size: int) -> list[str]:
        """Ids that no other decision of any worker has: this worker's random prefix and a count."""
        first = self._decisions
        self._decisions = first + size
        prefix = self._decision_prefix
        return [f"{prefix}{number:x}" for number in range(first, first + size)]

    def _one(self, answer: Answer, states: list[str] | None) -> ActResponse:
        decision = answer.decision
        response = ActResponse(
            decision.action.tolist()[0],
            decision.versions[0],
            answer.seats[0].arm,
            decision.sources[0],
            decision.adjusted[0] if decision.adjusted else [],
            self._decision_ids(1)[0],
        )
        if states is not None:
            response.state = states[0]
        return response

    def _many(self, answer: Answer, states: list[str] | None) -> ManyActResponse:
        decision = answer.decision
        size = answer.rows.size
        response = ManyActResponse(
            decision.action.tolist(),
            decision.versions,
            [seat.arm for seat in answer.seats],
            decision.sources,
            decision.adjusted or [[]] * size,
            self._decision_ids(size),
        )
        if states is not None:
            response.states = states
        return response

    def _states(self, answer: Answer, policy: str) -> list[str]:
        """The token of each row: its step, the action as it went out, and the graph's next state."""
        rows, decision = answer.rows, answer.decision
        tokens = []
        for row in range(rows.size):
            before = rows.states[row] if rows.states else None
            episode = rows.episodes[row] if rows.episodes else None
            memory = decision.memories[row] if decision.memories else None
            if memory is None and before is not None:
                memory = before.memory
            last = decision.action[row].reshape(-1).tolist()
            step = before.step + 1 if before else 1
            tokens.append(self.signer.state_token(State(policy, episode.nonce if episode else "", step, last, memory)))
        return tokens
