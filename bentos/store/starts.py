"""Starts of experiment episodes as they are stored, and the withdrawal of those that nobody was told of.

Where the database dies in the moment of a commit, its gateway cannot know whether the starts were stored. It gives
their episodes out under other ids, outside the experiment, and closes the starts once the database is back: a stored
outcome of kind `withdrawn` says that nobody ever played them, and no unit is made of them. It is the commit that was in
doubt, whatever the arms: leaving its units out favours none.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from bentos import logs
from bentos.store import outcomes, tables
from bentos.store.outcomes import WITHDRAWN

Row = dict[str, Any]

MOST = 10_000
"""Most starts in doubt that a worker remembers."""

_BATCH = 500


def insert(connection: sa.Connection, rows: Sequence[Row]) -> set[str]:
    """Insert starts; the episodes among them that were withdrawn before, which must not be given out any more.

    A request that was sent again brings the same episodes: the rows of the first time stand, with the time of the
    latest, by which a start that was given out after all is told from one that still is in doubt.
    """
    sent = {row["episode"]: row for row in rows}
    statement = tables.insert(connection, tables.episodes).on_conflict_do_nothing(index_elements=["episode"])
    fresh = connection.execute(statement.returning(tables.episodes.c.episode), list(sent.values())).scalars()
    again = sorted(sent.keys() - set(fresh))
    if not again:
        return set()
    table = tables.episodes
    for episode in again:
        last = sent[episode]["started_at"]
        older = (table.c.episode == episode, table.c.started_at < last)
        connection.execute(table.update().where(*older).values(started_at=last))
    ended = tables.outcomes.c
    found = sa.select(ended.episode).where(ended.episode.in_(again), ended.kind == WITHDRAWN)
    return set(connection.execute(found).scalars())


def withdraw(connection: sa.Connection, rows: Sequence[Row]) -> int:
    """Close those of the starts that are stored, were not given out since, and have no outcome; how many."""
    table = tables.episodes
    # the transaction in doubt may still be open: storing its rows once more waits for its end
    statement = tables.insert(connection, table).on_conflict_do_nothing(index_elements=["episode"])
    never = set(connection.execute(statement.returning(table.c.episode), list(rows)).scalars())
    if never:
        connection.execute(table.delete().where(table.c.episode.in_(never)))
    closed: list[Row] = []
    now = time.time()
    for row in sorted(rows, key=lambda row: str(row["episode"])):
        ours = (table.c.episode == row["episode"], table.c.started_at == row["started_at"])
        # a write holds the row until the end: who sends the same request again now waits, and finds it withdrawn
        held = connection.execute(table.update().where(*ours).values(started_at=row["started_at"]))
        if held.rowcount:
            kept = {name: row[name] for name in ("episode", "policy", "generation", "arm", "version")}
            closed.append({**kept, "episode_return": 0.0, "length": 0, "kind": WITHDRAWN, "recorded_at": now})
    return len(outcomes.insert(connection, closed))


class Untold:
    """Starts that may be stored though nobody was told of them, until they are withdrawn. Any thread may call it."""

    def __init__(self, most: int = MOST) -> None:
        """Beyond `most` the oldest are forgotten: those that were stored are abandoned after their time."""
        self._most = most
        self._rows: deque[Row] = deque()
        self._lock = threading.Lock()
        self.withdrawn = 0
        """How many starts were withdrawn so far."""

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Remember starts whose commit is in doubt."""
        with self._lock:
            self._rows.extend(rows)
            forgotten = max(0, len(self._rows) - self._most)
            for _ in range(forgotten):
                self._rows.popleft()
        if forgotten:
            logs.warning("starts in doubt forgotten", count=forgotten)

    def take(self) -> list[Row]:
        """The next ones to withdraw, the oldest first; `put_back` them where that fails."""
        with self._lock:
            return [self._rows.popleft() for _ in range(min(_BATCH, len(self._rows)))]

    def put_back(self, rows: Sequence[Row]) -> None:
        """Remember them again."""
        with self._lock:
            self._rows.extendleft(reversed(rows))
