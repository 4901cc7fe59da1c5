"""Coalescing: requests for one policy that were read in one look at the network are decided by one call of its graph.

With many connections most of what a decision costs is then paid once for all of them. Nobody waits for company: what a
look has brought is answered before the next; of a policy that takes its time it waits in the version's queue as one. A
request that is out of the ordinary, or that is wrong, is answered by itself, as if it had come alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from bentos.errors import Problem
from bentos.event_loop import Paced
from bentos.gateway.engine import MOST_TOGETHER, Core
from bentos.gateway.schemas import ActRequest
from bentos.gateway.validate import Answer, Answering, Ask, Validate
from bentos.http.messages import Request, Response
from bentos.http.router import Router
from bentos.rows import NothingCanAnswer

Answers = Iterable[bytes | Problem | None]
"""Bodies of answers, or why there is none; None: that request is to be answered by itself."""

Part = tuple[Sequence[int], Answers | Coroutine[Any, Any, Answers]]
"""Places of requests among those that were asked together, and their answers, or a coroutine of them."""

_AT_ONCE = 16
"""Answers that were waited for go out so many between two looks at the network: other policies' requests wait there."""

_Waiting = tuple[Request, Callable[[Response | None], None]]


class Coalescing:
    """One worker's requests for decisions of the look at the network that is going on."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._waiting: list[_Waiting] = []
        self._untold = Paced(_AT_ONCE, self._tell)
        self._tasks: set[asyncio.Task[None]] = set()

    def add(
        self, loop: asyncio.AbstractEventLoop, request: Request, answered: Callable[[Response | None], None]
    ) -> None:
        """Have a request answered when all are read. `answered` gets the response; None: ask the router for it."""
        if not self._waiting:
            loop.call_soon(self._answer, loop)
        self._waiting.append((request, answered))

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._waiting = self._waiting, []
        if len(waiting) == 1:
            waiting[0][1](None)
            return
        paths: dict[str, list[_Waiting]] = {}
        for one in waiting:
            paths.setdefault(one[0].path, []).append(one)
        for path, asked in paths.items():
            for at in range(0, len(asked), MOST_TOGETHER):
                self._decide(loop, path, asked[at : at + MOST_TOGETHER])

    def _decide(self, loop: asyncio.AbstractEventLoop, path: str, asked: list[_Waiting]) -> None:
        gateway, policy = self._router.gateway, self._router.v1.decides(path)
        if gateway is None or policy is None:
            for one in asked:
                self._tell((one, None))
            return
        for places, answers in decide(
            gateway.core, policy, [one.body if self._router.v1.admits(one) else None for one, _ in asked]
        ):
            part = [asked[place] for place in places]
            if not isinstance(answers, Coroutine):
                for told in zip(part, answers, strict=True):
                    self._tell(told)
                continue
            task = loop.create_task(self._told(part, answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _told(self, asked: list[_Waiting], coming: Coroutine[Any, Any, Answers]) -> None:
        self._untold.add(zip(asked, await coming, strict=True))

    def _tell(self, told: tuple[_Waiting, bytes | Problem | None]) -> None:
        (request, answered), answer = told
        if isinstance(answer, Problem):
            answer.policy = self._router.v1.decides(request.path) or ""
            answered(self._router.refuse(answer, request.method, request.path))
        else:
            answered(None if answer is None else Response(200, answer))


def decide(core: Core, policy: str, bodies: Sequence[bytes | None]) -> list[Part]:
    """The answers to requests of one policy (None: one that is not to be decided so), in parts.

    Requests of different arms are in different parts: none waits for another, or is to bear another's faults.
    """
    validator = core.gathering(policy)
    read = [None if body is None or validator is None else validator.simple(body) for body in bodies]
    places = [place for place, request in enumerate(read) if request is not None]
    if validator is None or len(places) < 2:
        return [_by_themselves(range(len(bodies)))]
    try:
        parts = validator.parts(_merged(validator, [request for request in read if request is not None]))
    except Exception:  # noqa: BLE001 - whose fault it is shows when each is answered by itself
        return [_by_themselves(range(len(bodies)))]
    found = [_part(core, [places[row] for row in rows], decided) for rows, decided in parts]
    alone = [place for place, request in enumerate(read) if request is None]
    return [*found, _by_themselves(alone)] if alone else found


def _by_themselves(places: Sequence[int]) -> Part:
    return places, [None] * len(places)


def _part(core: Core, places: Sequence[int], decided: Callable[[], Answering]) -> Part:
    try:
        answer = decided()
    except Exception:  # noqa: BLE001 - as above
        return _by_themselves(places)
    return places, core.each(answer) if isinstance(answer, Answer) else _later(core, answer, len(places))


async def _later(core: Core, coming: Coroutine[Any, Any, Answer], size: int) -> Answers:
    try:
        return list(core.each(await coming))
    except NothingCanAnswer as problem:
        return [problem if problem.late else None] * size  # each by itself would wait as long again
    except Exception:  # noqa: BLE001 - as above
        return [None] * size


def _merged(validator: Validate, requests: Sequence[ActRequest]) -> Ask:
    episodes = [request.episode_id for request in requests]
    users = [request.user_id for request in requests]
    return Ask(
        validator.columns([request.observation for request in requests]),
        len(requests),
        typed=True,
        apart=True,
        episode_ids=episodes if any(one is not None for one in episodes) else None,
        user_ids=users if any(one is not None for one in users) else None,
    )
