"""Rewards reported step by step, as they are stored: once a step, and an episode's outcome with its last.

An episode ends at its first step that terminated or truncated it. Its outcome, the sum of the rewards up to that step
and their number, is stored in the transaction that stores the last missing one of them, whichever that is: with a step
missing in between there is no outcome yet. An outcome that was stored before stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa

from bentos.store import tables

Row = dict[str, Any]
Step = tuple[str, int]


class Reported(NamedTuple):
    """One reward: its row of `store.rewards`, its episode's outcome but for the numbers, and the range of returns."""

    row: Row
    outcome: Row
    allowed: tuple[float, float] | None

    @property
    def key(self) -> Step:
        """The episode and the step."""
        return self.row["episode"], self.row["step"]


class Stored(NamedTuple):
    """What came of it: the steps stored now, the outcomes to store, and the returns refused, by episode."""

    fresh: set[Step]
    ended: list[Row]
    outside: dict[str, float]


def insert(connection: sa.Connection, given: Sequence[Reported]) -> Stored:
    """Insert rewards of steps that have none, and find the outcomes that they complete.

    Where those of an episode add up to a return that is not allowed, none of them given now is stored.
    """
    first: dict[Step, Reported] = {}
    for one in given:
        first.setdefault(one.key, one)
    if not first:
        return Stored(set(), [], {})
    # in one order everywhere: two writers that insert the same keys then wait for each other, but never in a circle
    sent = [first[key].row for key in sorted(first)]
    table = tables.rewards
    statement = tables.insert(connection, table).on_conflict_do_nothing(index_elements=["episode", "step"])
    stored = connection.execute(statement.returning(table.c.episode, table.c.step), sent)
    fresh = {(episode, step) for episode, step in stored}
    told = {one.row["episode"]: one for one in first.values()}
    ended, outside = [], {}
    for episode, (total, length) in _complete(connection, {episode for episode, _ in fresh}).items():
        allowed = told[episode].allowed
        if allowed is None or allowed[0] <= total <= allowed[1]:
            ended.append({**told[episode].outcome, "episode_return": total, "length": length})
        else:
            outside[episode] = total
    refused = [key for key in fresh if key[0] in outside]
    if refused:
        connection.execute(table.delete().where(sa.tuple_(table.c.episode, table.c.step).in_(refused)))
    return Stored(fresh.difference(refused), ended, outside)


def _complete(connection: sa.Connection, episodes: set[str]) -> dict[str, tuple[float, int]]:
    """Return and length of those of the episodes that ended, have all their rewards, and no outcome yet."""
    table, outcomes = tables.rewards.c, tables.outcomes.c
    if not episodes:
        return {}
    query = (
        sa.select(table.episode, sa.func.min(table.step))
        .outerjoin(tables.outcomes, outcomes.episode == table.episode)
        .where(table.episode.in_(episodes), table.terminated | table.truncated, outcomes.episode.is_(None))
        .group_by(table.episode)
    )
    last = {row[0]: row[1] for row in connection.execute(query)}
    if not last:
        return {}
    steps = (
        sa.select(table.episode, table.step, table.reward)
        .where(table.episode.in_(last))
        .order_by(table.episode, table.step)
    )
    complete = {}
    for episode, rows in groupby(connection.execute(steps), key=lambda row: row.episode):
        rewards = [row.reward for row in rows if row.step <= last[episode]]
        if len(rewards) == last[episode] + 1:
            complete[episode] = (math.fsum(rewards), len(rewards))
    return complete
