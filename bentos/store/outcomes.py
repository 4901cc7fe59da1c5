"""Outcomes as they are stored: one an episode, ever, with what had befallen the episode by then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from bentos.store import episode_events, tables

Row = dict[str, Any]

WITHDRAWN = "withdrawn"
"""The kind of an outcome that closes a start which was never given out (see `starts`): of no episode."""


def insert(connection: sa.Connection, rows: Sequence[Row]) -> set[str]:
    """Insert outcomes of episodes that have none; the episodes whose outcome was stored now. The first of two wins."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["episode"], row)
    if not first:
        return set()
    tried = [episode for episode, row in first.items() if row["generation"]]
    befell = episode_events.befallen(connection, tried) if tried else {}
    # in one order everywhere: two writers that insert the same keys then wait for each other, but never in a circle
    sent = [{**first[episode], "events": befell.get(episode, "")} for episode in sorted(first)]
    statement = tables.insert(connection, tables.outcomes).on_conflict_do_nothing(index_elements=["episode"])
    return set(connection.execute(statement.returning(tables.outcomes.c.episode), sent).scalars())
