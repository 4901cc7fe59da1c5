"""The sweep: episodes that never report get a stored outcome once their time is over, in both arms alike."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from bentos import commit_order, store
from bentos import outcomes as stored
from bentos.commit_order import START, Place
from bentos.package import Outcomes

_MOST = 1000


class Sweep:
    """Closes abandoned episodes of experiments. Several workers may sweep: an episode has one outcome, ever."""

    def __init__(self) -> None:
        self._closed: dict[str, Place] = {}

    def run(self, connection: sa.Connection, policy: str, settings: Outcomes, now: float | None = None) -> int:
        """Close what is overdue at `now` (Unix seconds); how many outcomes were stored.

        Starts up to the first open one are remembered as closed, so that a sweep reads only what may still change.
        """
        now = time.time() if now is None else now
        episodes, outcomes = store.episodes, store.outcomes
        sequence = episodes.c.start_seq
        query = (
            sa.select(episodes)
            .outerjoin(outcomes, outcomes.c.episode == episodes.c.episode)
            .where(
                episodes.c.policy == policy,
                commit_order.settled(sequence, self._closed.get(policy, START), commit_order.horizon(connection)),
                outcomes.c.episode.is_(None),
            )
            .order_by(*commit_order.order(sequence))
            .limit(_MOST)
        )
        unfinished = connection.execute(query).all()
        if unfinished:
            self._closed[policy] = (unfinished[0].xact, unfinished[0].start_seq - 1)
        overdue = [row for row in unfinished if row.started_at + settings.episode_ttl_seconds < now]
        if not overdue:
            return 0
        score = abandoned_return(settings)
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


def abandoned_return(settings: Outcomes) -> float:
    """What an abandoned episode scores: as the spec says, else the low end of the range, else 0."""
    if settings.abandoned_return is not None:
        return settings.abandoned_return
    return settings.return_range[0] if settings.return_range else 0.0
