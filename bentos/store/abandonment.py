"""The sweep: episodes that never report get a stored outcome once their time is over, in both arms alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from bentos.package.manifest import Outcomes
from bentos.store import commit_order, tables
from bentos.store import outcomes as stored
from bentos.store.commit_order import START, Place

_MOST = 1000
_WINDOW = 20_000
"""How many starts a sweep looks at: what is overdue stands first, and nobody's outcome may wait for a long one."""


def sweep(connection: sa.Connection, policy: str, settings: Outcomes, now: float | None = None) -> int:
    """Close what is overdue at `now` (Unix seconds); how many outcomes were stored.

    Several workers may sweep: an episode has one outcome, ever. How far all starts are closed is kept in the store, so
    that no sweep, not even a worker's first, reads more than what may still change.
    """
    now = time.time() if now is None else now
    outcomes = tables.outcomes.c
    closed = _closed(connection, policy)
    starts = _starts(connection, policy, closed)
    query = (
        sa.select(starts)
        .outerjoin(tables.outcomes, outcomes.episode == starts.c.episode)
        .where(outcomes.episode.is_(None))
        .order_by(starts.c.xact, starts.c.start_seq)
        .limit(_MOST)
    )
    unfinished = connection.execute(query).all()
    overdue = [row for row in unfinished if row.started_at + settings.episode_ttl_seconds < now]
    stored_now = _abandon(connection, policy, overdue, abandoned_return(settings), now) if overdue else 0
    reached = (unfinished[0].xact, unfinished[0].start_seq - 1) if unfinished else _last(connection, starts, closed)
    if reached > closed:
        _keep(connection, policy, reached)
    return stored_now


def _abandon(connection: sa.Connection, policy: str, overdue: Sequence[sa.Row[Any]], score: float, now: float) -> int:
    rows: list[dict[str, Any]] = [
        {
            "episode": row.episode,
            "policy": policy,
            "generation": row.generation,
            "arm": row.arm,
            "version": row.version,
            "episode_return": score,
            "length": 0,
            "kind": "abandoned",
            "recorded_at": now,
        }
        for row in overdue
    ]
    return len(stored.insert(connection, rows))


def _closed(connection: sa.Connection, policy: str) -> Place:
    table = tables.swept.c
    found = connection.execute(sa.select(table.xact, table.start_seq).where(table.policy == policy)).one_or_none()
    return START if found is None else (found.xact, found.start_seq)


def _starts(connection: sa.Connection, policy: str, closed: Place) -> sa.Subquery:
    """The next starts past `closed`, at most `_WINDOW`."""
    sequence = tables.episodes.c.start_seq
    return (
        sa.select(tables.episodes)
        .where(
            tables.episodes.c.policy == policy,
            commit_order.settled(sequence, closed, commit_order.horizon(connection)),
        )
        .order_by(*commit_order.order(sequence))
        .limit(_WINDOW)
        .subquery()
    )


def _last(connection: sa.Connection, starts: sa.Subquery, otherwise: Place) -> Place:
    """The place of the last of `starts`."""
    place = starts.c.xact, starts.c.start_seq
    found = connection.execute(sa.select(*place).order_by(place[0].desc(), place[1].desc()).limit(1)).one_or_none()
    return otherwise if found is None else (found.xact, found.start_seq)


def _keep(connection: sa.Connection, policy: str, place: Place) -> None:
    """Note how far all is closed; never back, where another worker was further."""
    table = tables.swept
    statement = tables.insert(connection, table).values(policy=policy, xact=place[0], start_seq=place[1])
    fresh = statement.excluded
    further = sa.tuple_(table.c.xact, table.c.start_seq) < sa.tuple_(fresh.xact, fresh.start_seq)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["policy"], set_={"xact": fresh.xact, "start_seq": fresh.start_seq}, where=further
        )
    )


def abandoned_return(settings: Outcomes) -> float:
    """What an abandoned episode scores: as the spec says, else the low end of the range, else 0."""
    if settings.abandoned_return is not None:
        return settings.abandoned_return
    return settings.return_range[0] if settings.return_range else 0.0
