"""Events: what befell an episode of an experiment, noted once a kind, and kept until it is stored.

The rate guardrails of a canary count units, not decisions: a fault in a unit counts once, however many follow it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from bentos.store import tables

FAULT = "fault"
FALLBACK = "fallback"
ADJUSTMENT = "adjustment"

Row = dict[str, Any]

_MOST_PENDING = 100_000
_REMEMBERED = 100_000


class Events:
    """One worker's events that are not stored yet. Noted on the event loop, taken by the writer's thread."""

    def __init__(self) -> None:
        self.lost = 0
        self._pending: deque[Row] = deque()
        self._seen: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        return len(self._pending)

    def note(self, policy: str, generation: str, episode: str, kind: str) -> None:
        """An episode (its nonce) met with `kind`. Beyond 100,000 that wait for the store they are lost, and counted."""
        key = (episode, kind)
        if key in self._seen:
            return
        if len(self._pending) >= _MOST_PENDING:
            self.lost += 1
            return
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()  # those that come again are in the store already, where they count once
        self._seen.add(key)
        self._pending.append(
            {"episode": episode, "kind": kind, "policy": policy, "generation": generation, "at": time.time()}
        )

    def take(self, most: int) -> list[Row]:
        """The oldest events, at most `most`; they are the caller's now, to store or to give back."""
        taken: list[Row] = []
        while self._pending and len(taken) < most:
            taken.append(self._pending.popleft())
        return taken

    def give_back(self, rows: list[Row]) -> None:
        """Events that could not be stored wait again, in front."""
        self._pending.extendleft(reversed(rows))


def insert(connection: sa.Connection, rows: list[Row]) -> None:
    """Store events that are not there yet."""
    into = tables.insert(connection, tables.episode_events)
    statement = into.on_conflict_do_nothing(index_elements=["episode", "kind"])
    # in one order everywhere: two writers that insert the same keys then wait for each other, but never in a circle
    connection.execute(statement, sorted(rows, key=lambda row: (row["episode"], row["kind"])))


def befallen(connection: sa.Connection, episodes: Iterable[str]) -> dict[str, str]:
    """The stored kinds of each of the episodes that met with any, sorted and joined by commas."""
    table = tables.episode_events.c
    query = sa.select(table.episode, table.kind).where(table.episode.in_(list(episodes)))
    found: dict[str, list[str]] = {}
    for episode, kind in connection.execute(query):
        found.setdefault(episode, []).append(kind)
    return {episode: ",".join(sorted(kinds)) for episode, kinds in found.items()}
