"""Retention: rows that only explain the past are deleted when they are too old, or too many. Outcomes never are."""

from __future__ import annotations

import os
import time

import sqlalchemy as sa

from bentos.store import tables

DAYS = 30.0
"""How long they are kept, unless `$AIRLOCK_LOG_DAYS` says another."""

ROWS = 1_000_000
"""How many rows of each table are kept, unless `$AIRLOCK_LOG_ROWS` says another."""

_BATCH = 1000


class Retention:
    """What is kept of the decision log, of rewards, and of events."""

    def __init__(self, days: float | None = None, rows: int | None = None) -> None:
        """By default as configured. Raises ValueError for what is no number."""
        self._seconds = 86400.0 * (float(os.environ.get("AIRLOCK_LOG_DAYS", DAYS)) if days is None else days)
        self._rows = int(os.environ.get("AIRLOCK_LOG_ROWS", ROWS)) if rows is None else rows

    def run(self, connection: sa.Connection, now: float | None = None) -> bool:
        """Delete a batch of what is too old at `now` (Unix seconds) or too many; whether there may be more of it."""
        before = (time.time() if now is None else now) - self._seconds
        decisions, rewards, events = tables.decisions.c, tables.rewards.c, tables.episode_events.c
        deleted = [
            self._oldest(connection, decisions.id, decisions.at, before),
            self._oldest(connection, rewards.reward_seq, rewards.recorded_at, before),
        ]
        connection.execute(tables.episode_events.delete().where(events.at < before))
        return max(deleted) >= _BATCH

    def _oldest(self, connection: sa.Connection, key: sa.Column[int], at: sa.Column[float], before: float) -> int:
        """Delete among the oldest rows, in the order of their keys, those that may go; how many."""
        oldest = sa.select(key).order_by(key).limit(_BATCH).subquery()
        newest = connection.execute(sa.select(sa.func.max(key))).scalar() or 0
        may_go = sa.or_(at < before, key <= newest - self._rows)
        gone = connection.execute(key.table.delete().where(key.in_(sa.select(oldest)), may_go))
        return int(gone.rowcount)
