"""Assign: arm and version from the signed episode id, else from the user, else the champion."""

from __future__ import annotations

import asyncio

import numpy as np

from bentos.problems import Problem
from bentos.routes import Route, Seat
from bentos.rows import Decision, Rows


class Assign:
    """Sends each row to the chain of its version, and puts the answers together in the rows' order."""

    def __init__(self, route: Route) -> None:
        self.route = route

    async def decide(
        self, rows: Rows, user_ids: list[str | None] | None, version: str | None = None
    ) -> tuple[Decision, list[Seat]]:
        """The decision, and the seat of each row. Raises Problem (503) when nothing can answer.

        With `version` that one decides, outside the experiment but for its own episodes. Raises Problem: 404 unless it
        can be asked, 422 for an episode of another one.
        """
        if rows.episodes is None and (user_ids is None or version is not None):
            seat = self.route.outside if version is None else self.route.seat_of_version(version)
            return await self._at(seat, rows), [seat] * rows.size
        seats = [self._seat(rows, user_ids, version, row) for row in range(rows.size)]
        first = seats[0]
        if rows.size == 1 or all(seat == first for seat in seats):
            return await self._at(first, rows), seats
        places: dict[Seat, list[int]] = {}
        for row, seat in enumerate(seats):
            places.setdefault(seat, []).append(row)
        indices = [np.array(place) for place in places.values()]
        parts = [rows.take(index) for index in indices]
        decisions = await asyncio.gather(*(self._at(seat, part) for seat, part in zip(places, parts, strict=True)))
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
        return whole, seats

    def _seat(self, rows: Rows, user_ids: list[str | None] | None, version: str | None, row: int) -> Seat:
        episode = rows.episodes[row] if rows.episodes is not None else None
        if version is not None:
            seat = self.route.seat_of_version(version)
            if episode is None:
                return seat
            if episode.version != version:
                detail = f"the episode of row {row} is of another version than the one that is asked"
                raise Problem(422, "version", detail, expected=version, came=episode.version)
        if episode is not None:
            return self.route.seat_of_episode(episode)
        user = user_ids[row] if user_ids is not None else None
        return self.route.outside if user is None else self.route.seat_of_unit(user)

    @staticmethod
    async def _at(seat: Seat, rows: Rows) -> Decision:
        rows.version, rows.arm, rows.generation, rows.rescue = seat.version, seat.arm, seat.generation, seat.rescue
        return await seat.chain.decide(rows)
