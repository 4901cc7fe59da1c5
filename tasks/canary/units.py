"""The units of a canary as they grow in the store: each look reads only what came since the last one."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from bentos.store import commit_order, tables
from bentos.store.commit_order import START, Place
from bentos.store.outcomes import WITHDRAWN
from tasks.analysis.judge.units import Start

_FETCHED = 10_000
_KEPT = 8


class StoredUnits:
    """First episodes of a canary's units, in order of start, with their outcomes as far as they are stored.

    A new one reads everything. What was read never changes, and nothing is ever read before something that comes
    earlier in the order (see `bentos/store/commit_order.py`), so it makes no difference to a verdict how often one
    looks.
    """

    def __init__(self, policy: str, generation: str) -> None:
        self._of = (policy, generation)
        self._lock = threading.Lock()
        self._starts: list[Start] = []
        self._places: dict[str, int] = {}
        self._units: set[str] = set()
        self._started: Place = START
        self._ended: Place = START

    def read(self, connection: sa.Connection) -> list[Start]:
        """Every unit so far."""
        with self._lock:
            below = commit_order.horizon(connection)
            self._read_starts(connection, below)
            self._read_outcomes(connection, below)
            return list(self._starts)

    def _read_starts(self, connection: sa.Connection, below: int) -> None:
        table = tables.episodes.c
        query = self._new(
            (table.episode, table.unit, table.arm, table.covariate), table.start_seq, self._started, below
        )
        for xact, sequence, episode, unit, arm, covariate in connection.execute(query):
            self._started = (xact, sequence)
            if unit in self._units:
                continue  # a unit counts once, with its first episode
            self._units.add(unit)
            self._places[episode] = len(self._starts)
            self._starts.append(Start(sequence, unit, arm, None, False, covariate=covariate))

    def _read_outcomes(self, connection: sa.Connection, below: int) -> None:
        table = tables.outcomes.c
        columns = (table.episode, table.episode_return, table.kind, table.events)
        query = self._new(columns, table.outcome_seq, self._ended, below)
        for xact, sequence, episode, value, kind, events in connection.execute(query):
            self._ended = (xact, sequence)
            place = self._places.pop(episode, None)
            if place is not None:
                self._starts[place] = replace(
                    self._starts[place],
                    episode_return=value,
                    abandoned=kind == "abandoned",
                    withdrawn=kind == WITHDRAWN,
                    events=tuple(events.split(",")) if events else (),
                )

    def _new(
        self, columns: tuple[sa.Column[Any], ...], sequence: sa.Column[int], after: Place, below: int
    ) -> sa.Select[Any]:
        table = sequence.table.c
        policy, generation = self._of
        return (
            sa.select(table.xact, sequence, *columns)
            .where(
                table.policy == policy,
                table.generation == generation,
                commit_order.settled(sequence, after, below),
            )
            .order_by(*commit_order.order(sequence))
            .execution_options(yield_per=_FETCHED)
        )


@lru_cache(maxsize=_KEPT)
def kept(url: str, policy: str, generation: str) -> StoredUnits:
    """This process's units of a canary in the database at `url`."""
    return StoredUnits(policy, generation)
