"""Arm and version of a request: from the signed episode id, else from the user, else the champion.

While a challenger runs in shadow, a sample of the requests goes on to it; its actions are not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from bentos import logs
from bentos.errors import Problem
from bentos.routing.route import Route, Seat
from bentos.rows import Decision, Rows
from bentos.runners import Deciding, later, settled
from bentos.runners.shadow import Shadow
from bentos.tokens import Episode


class Assign:
    """Sends each row to the chain of its version, and puts the answers together in the rows' order."""

    def __init__(self, route: Route) -> None:
        self.route = route

    def seats(self, rows: Rows, user_ids: list[str | None] | None, version: str | None = None) -> list[Seat]:
        """The seat of each row; alike seats are one object. Raises Problem (503) when nothing can answer.

        With `version` that one decides, outside the experiment but for its own episodes. Raises Problem: 404 unless it
        can be asked, 422 for an episode of another one.
        """
        route = self.route
        episodes = rows.episodes
        if rows.size == 1 and episodes is not None and episodes[0] is not None and version is None:
            return [route.seat_of_episode(episodes[0])]
        outside = route.outside if version is None else route.seat_of_version(version)
        if episodes is None and (user_ids is None or version is not None):
            return [outside] * rows.size
        users = user_ids if user_ids is not None and version is None else [None] * rows.size
        if episodes is None:
            return [outside if user is None else route.seat_of_unit(user) for user in users]
        if version is not None:
            _check_version(episodes, version)
        seat_of = route.seats.get
        return [
            seat_of((episode.version, episode.arm, episode.generation)) or route.seat_of_episode(episode)
            if episode is not None
            else outside
            if user is None
            else route.seat_of_unit(user)
            for episode, user in zip(episodes, users, strict=True)
        ]

    def decide(self, rows: Rows, seats: list[Seat]) -> Deciding:
        """The decision of each row's own chain."""
        first = seats[0]
        return _at(first, rows) if rows.size == 1 or seats.count(first) == rows.size else _in_parts(rows, seats)


def _at(seat: Seat, rows: Rows) -> Deciding:
    rows.version, rows.arm, rows.generation, rows.rescue = seat.version, seat.arm, seat.generation, seat.rescue
    return seat.chain.decide(rows)


async def _settled_at(seat: Seat, rows: Rows) -> Decision:
    return await settled(_at(seat, rows))


async def _in_parts(rows: Rows, seats: list[Seat]) -> Decision:
    places: dict[Seat, list[int]] = {}
    for row, seat in enumerate(seats):
        places.setdefault(seat, []).append(row)
    indices = [np.array(place) for place in places.values()]
    parts = [rows.take(index) for index in indices]
    decisions = await asyncio.gather(*(_settled_at(seat, part) for seat, part in zip(places, parts, strict=True)))
    whole = Decision(
        action=np.empty((rows.size, *decisions[0].action.shape[1:]), decisions[0].action.dtype),
        finite=np.empty(rows.size, dtype=bool),
        sources=[""] * rows.size,
        versions=[None] * rows.size,
    )
    for index, decision in zip(indices, decisions, strict=True):
        whole.put(index, decision)
        if decision.adjusted is not None:
            whole.adjusted = whole.adjusted or [[] for _ in range(rows.size)]
            for row, reasons in zip(index.tolist(), decision.adjusted, strict=True):
                whole.adjusted[row] = reasons
    return whole


def _check_version(episodes: Sequence[Episode | None], version: str) -> None:
    for row, episode in enumerate(episodes):
        if episode is not None and episode.version != version:
            detail = f"the episode of row {row} is of another version than the one that is asked"
            raise Problem(422, "version", detail, expected=version, came=episode.version)


class Shadowed:
    """Around `assign`, while the route has a challenger in shadow: `generation` is its canary's."""

    def __init__(self, following: Assign, shadow: Shadow, generation: str) -> None:
        self.following = following
        self._shadow = shadow
        self._generation = generation

    def decide(self, rows: Rows, seats: list[Seat]) -> Deciding:
        """The inner answer. Raises what that raises, and nothing of the shadow's."""
        decision = self.following.decide(rows, seats)
        return self._offered(rows, decision) if isinstance(decision, Decision) else later(decision, rows, self._offered)

    def _offered(self, rows: Rows, decision: Decision) -> Decision:
        try:
            self._shadow.offer(rows, decision, self._generation)
        except Exception as error:  # noqa: BLE001 - nothing in shadow may keep a client from its answer
            logs.error("sample for the shadow failed", generation=self._generation, detail=str(error))
        return decision
