"""The audit log: what people and monitors did to a policy or noticed about it, in order, for the console to tell.

Transitions (`tasks/control/intents.py`) and overrides (`bentos/store/overrides.py`) keep who, when and why in rows of
their own; `story` reads them together with what only this log has: refused and triggered actions, aliases that were
moved by hand, alerts, breaches.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from bentos.store.tables import audit, intents, overrides

WORDS_LENGTH = 2000
ANNOTATE = "annotate"
"""The kind of a transition that sets plain tags and decides nothing."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a policy: who did what, when (Unix seconds), and in words why."""

    at: float
    who: str
    what: str
    words: str
    detail: dict[str, Any]


def record(engine: sa.Engine, policy: str, who: str, what: str, words: str, **detail: Any) -> None:
    """Commit an event. `what` is a short identifier (at most 32 characters), `detail` anything that is JSON."""
    with engine.begin() as connection:
        connection.execute(sa.insert(audit).values(at=time.time(), **_row(policy, who, what, words, detail)))


def record_once(
    engine: sa.Engine, policy: str, at: float, who: str, what: str, words: str, detail: dict[str, Any]
) -> None:
    """Commit an event that happened at `at` (Unix seconds), unless it was committed before."""
    with engine.begin() as connection:
        same = (audit.c.policy == policy, audit.c.at == at, audit.c.what == what)
        if connection.execute(sa.select(audit.c.id).where(*same)).first() is None:
            connection.execute(sa.insert(audit).values(at=at, **_row(policy, who, what, words, detail)))


def _row(policy: str, who: str, what: str, words: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {"policy": policy, "who": who[:256], "what": what, "words": words[:WORDS_LENGTH], "detail": detail}


def events(engine: sa.Engine, policy: str, what: str, limit: int = 100) -> list[Event]:
    """The last events of one kind in the log, newest first."""
    with engine.connect() as connection:
        found = connection.execute(_newest(audit, audit.c.id, policy, limit).where(audit.c.what == what))
        return [Event(row.at, row.who, row.what, row.words, dict(row.detail)) for row in found]


def story(engine: sa.Engine, policy: str, limit: int = 100) -> list[Event]:
    """What happened to a policy, newest first: the log, its transitions (not plain tags) and its overrides."""
    transitions = _newest(intents, intents.c.id, policy, limit).where(intents.c.kind != ANNOTATE)
    with engine.connect() as connection:
        found = [
            *(
                Event(row.at, row.who, row.what, row.words, dict(row.detail))
                for row in connection.execute(_newest(audit, audit.c.id, policy, limit))
            ),
            *(
                Event(row.created_at, row.who, row.kind, row.reason, {"state": row.state})
                for row in connection.execute(transitions)
            ),
        ]
        for row in connection.execute(_newest(overrides, overrides.c.id, policy, limit)):
            whose = {"user_id": row.user_id, "episode": row.episode}
            detail = {name: value for name, value in whose.items() if value is not None}
            set_to = {"action": row.action, "until": row.until, **detail}
            found.append(Event(row.set_at, row.who, "override_set", row.reason, set_to))
            if row.cleared_at is not None:
                found.append(Event(row.cleared_at, row.cleared_by or "unknown", "override_cleared", "", detail))
    return sorted(found, key=lambda event: event.at, reverse=True)[:limit]


def _newest(table: sa.Table, key: sa.Column[Any], policy: str, limit: int) -> sa.Select[Any]:
    return sa.select(table).where(table.c.policy == policy).order_by(key.desc()).limit(limit)
