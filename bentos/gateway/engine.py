"""The gateway's core: decides, over whatever routes it is given."""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec

from bentos import logs
from bentos.errors import Problem
from bentos.gateway.assign import Assign, Shadowed
from bentos.gateway.schemas import ActRequest, ActResponse, ManyActResponse
from bentos.gateway.validate import Answer, Answering, Ask, Validate
from bentos.package.session import Policy
from bentos.routing import faults
from bentos.routing.faults import Event, Faults
from bentos.routing.route import Route, Seat, no_version
from bentos.routing.version import Version
from bentos.rows import MAX_ROWS, Array, Rows
from bentos.runners import settled
from bentos.store.journal import Journal
from bentos.store.overrides import Overrides
from bentos.store.writer import Writer
from bentos.telemetry.counters import Stats
from bentos.tokens import Signer

MOST_TOGETHER = 64
"""Requests that one call decides together at most."""

_PLACES = [f".{place}" for place in range(MAX_ROWS)]
_UNCHANGED: list[str] = []
_encode = msgspec.json.Encoder().encode


def worker_id() -> str:
    """A name for this worker process that no other ever has."""
    return f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"


class Core:
    """One worker's gateway. Everything runs on its event loop but model calls and the writer."""

    def __init__(
        self,
        signer: Signer,
        writer: Writer,
        active: Overrides,
        journal: Journal | None = None,
        known: Faults | None = None,
        *,
        breaker_opened: Callable[[str, Version, str], None] = lambda policy, version, reason: None,
        unheard: Callable[[], bool] = lambda: False,
    ) -> None:
        """`breaker_opened` is called with policy, version and reason; `unheard` says whether the registry has yet to
        say which policies there are."""
        self.worker = worker_id()
        self.signer = signer
        self.writer = writer
        self.overrides = active
        self.stats = Stats()
        self.journal = Journal() if journal is None else journal
        self.faults = Faults() if known is None else known
        self.routes: dict[str, Route] = {}
        self._validators: dict[str, Validate] = {}
        self._gathering: dict[str, Validate] = {}
        self._decisions = 0
        self._decision_prefix = secrets.token_hex(6)
        self._report_breaker = breaker_opened
        self.unheard = unheard

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
            journal=self.journal,
        )

    def route(self, route: Route) -> None:
        """Take over a policy's new route: requests that began on the old one end on it."""
        self.routes[route.policy] = route
        self._gathering.pop(route.policy, None)
        if route.manifest is None:
            self._validators.pop(route.policy, None)
        else:
            stateful = any(version.stateful for version in route.versions.values())
            assign = Assign(route)
            shadow = route.shadowed
            shadowed = Shadowed(assign, shadow.chain.shadow, shadow.generation) if shadow else None
            validator = self._validators[route.policy] = Validate(
                assign, route.manifest, self.signer, stateful, shadowed
            )
            if not stateful and shadowed is None and all(map(_gains, route.versions.values())):
                self._gathering[route.policy] = validator

    def drop(self, policy: str) -> None:
        """Forget a policy that the registry no longer has."""
        self.routes.pop(policy, None)
        self._validators.pop(policy, None)
        self._gathering.pop(policy, None)

    async def act(self, policy: str, request: ActRequest) -> ActResponse | ManyActResponse:
        """Decide what a JSON request asks for. Raises Problem."""
        ask = self._validator(policy).ask(request)
        return self._response(ask, await settled(self.decide(policy, ask)))

    def act_json(self, policy: str, body: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        """Decide what the body of a JSON request asks for; where that must be waited for, later. Raises Problem."""
        validator = self._validator(policy)
        ask = validator.read(body)
        answer = validator.decide(ask)
        return _encode(self._response(ask, answer)) if isinstance(answer, Answer) else self._act_json(ask, answer)

    async def _act_json(self, ask: Ask, coming: Coroutine[Any, Any, Answer]) -> bytes:
        return _encode(self._response(ask, await coming))

    def decide(self, policy: str, ask: Ask) -> Answering:
        """Decide. Raises Problem."""
        return self._validator(policy).decide(ask)

    def _response(self, ask: Ask, answer: Answer) -> ActResponse | ManyActResponse:
        """An answer as JSON requests get it."""
        return self._many(answer) if ask.many else self._one(answer)

    def gathering(self, policy: str) -> Validate | None:
        """What decides a policy's requests together; None where each is decided by itself.

        Those of versions that answer at once gain, and those that wait in a version's queue: they wait there as one. A
        batch size of 1 says that requests shall not meet, and `max_wait_ms` where they do; state and the samples of a
        shadow are of one request.
        """
        return self._gathering.get(policy)

    def each(self, answer: Answer) -> Iterator[bytes]:
        """The JSON answers to the rows of what was asked together, each as a request of its own gets it."""
        actions = answer.decision.action.tolist()
        return (_encode(self._row(answer, row, action)) for row, action in enumerate(actions))

    def observe(self, policy: str, observations: list[Any]) -> Rows:
        """Observations as the policy's graph takes them, checked as those of a decision are. Raises Problem."""
        validator = self._validator(policy)
        return validator.rows(validator.ask(ActRequest(observations=observations)))

    def rejected(self, policy: str, reason: str) -> None:
        """Count a refused request."""
        route = self.routes.get(policy)
        if route is not None:
            name = route.champion.name if route.champion else ""
            arm = self.stats.arm(policy, "", name, "champion")
            arm.count(arm.rejected, reason, 1)

    def _breaker_opened(self, policy: str, version: Version, reason: str) -> None:
        logs.error("breaker opened", policy=policy, version=version.name, detail=reason)
        self.faults.note(Event(policy, version.name, version.package_sha256, faults.BREAKER_OPEN, time.time()))
        self._report_breaker(policy, version, reason)

    def _champion(self, policy: str) -> Version | None:
        route = self.routes.get(policy)
        return None if route is None else route.champion

    def known(self, policy: str) -> Route:
        """The route of a policy. Raises Problem: 404, or 503 as long as the registry was never heard of."""
        route = self.routes.get(policy)
        if route is None and self.unheard():
            raise Problem(503, "registry", "this gateway has not heard from the registry yet; ask again", retry_after=1)
        if route is None:
            raise Problem(404, "policy", f"there is no policy {policy!r}", expected=sorted(self.routes)[:20])
        return route

    def _validator(self, policy: str) -> Validate:
        validator = self._validators.get(policy)
        if validator is None:
            raise no_version(self.known(policy).policy)
        return validator

    def decision_id(self) -> str:
        """An id that no other decision of any worker has: this worker's random prefix and a count."""
        self._decisions += 1
        return f"{self._decision_prefix}{self._decisions:x}"

    def decision_ids(self, size: int) -> list[str]:
        """Ids of the rows of one request: one id, and the row's place."""
        common = self.decision_id()
        return [common + place for place in _PLACES[:size]]

    def _one(self, answer: Answer) -> ActResponse:
        response = self._row(answer, 0, answer.decision.action.tolist()[0])
        if answer.states is not None:
            response.state = answer.states[0]
        return response

    def _row(self, answer: Answer, row: int, action: Any) -> ActResponse:
        decision = answer.decision
        response = ActResponse(
            action,
            decision.versions[row],
            answer.seats[row].arm,
            decision.sources[row],
            decision.adjusted[row] if decision.adjusted else _UNCHANGED,
            self.decision_id(),
        )
        if decision.log_prob is not None:
            response.log_prob = _told(decision.log_prob[row : row + 1])[0]
        return response

    def _many(self, answer: Answer) -> ManyActResponse:
        decision = answer.decision
        size = answer.rows.size
        response = ManyActResponse(
            decision.action.tolist(),
            decision.versions,
            _arms(answer.seats),
            decision.sources,
            decision.adjusted or [_UNCHANGED] * size,
            self.decision_ids(size),
        )
        if answer.states is not None:
            response.states = answer.states
        if decision.log_prob is not None:
            response.log_probs = _told(decision.log_prob)
        return response


def _gains(version: Version) -> bool:
    serve, inline = version.manifest.serve, version.batch.inline_rows
    return serve.batch_size > 1 and not serve.max_wait_ms and (not inline or inline >= MOST_TOGETHER)


def _told(log_prob: Array) -> list[float | None]:
    """Log-probabilities as JSON carries them: null where nobody drew the action."""
    return [None if math.isnan(value) else value for value in log_prob.tolist()]


def _arms(seats: list[Seat]) -> list[str]:
    first = seats[0]
    return [first.arm] * len(seats) if seats.count(first) == len(seats) else [seat.arm for seat in seats]
