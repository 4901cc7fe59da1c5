"""Human overrides: rows of the `overrides` table, followed by every worker within a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from bentos import files
from bentos.store import tables
from bentos.tokens import user_hash

SCOPES = ("all", "user", "episode")
"""Whom an override is for: all of the policy's traffic, a user's, or an episode's."""

_NONE: list[Active] = []


class Active(msgspec.Struct, frozen=True):
    """One active override. Empty `user` (a hash) and `episode` (a nonce): all of the policy's traffic. Unix seconds."""

    id: int
    policy: str
    user: str
    user_id: str | None
    episode: str
    action: Any
    force: bool
    who: str
    reason: str
    set_at: float
    until: float

    @property
    def scope(self) -> str:
        """One of `SCOPES`."""
        if self.episode:
            return "episode"
        return "user" if self.user else "all"

    def document(self) -> dict[str, Any]:
        """As `GET /v1/policies/{policy}` shows it."""
        return {
            "action": self.action,
            "user_id": self.user_id,
            "episode": self.episode or None,
            "force": self.force,
            "who": self.who,
            "reason": self.reason,
            "set_at": self.set_at,
            "until": self.until,
        }

    def outline(self) -> dict[str, Any]:
        """As anybody may see it: that it is there, and nothing of who did it to whom, and why."""
        return {"action": self.action, "until": self.until}


class Overrides:
    """The active overrides, in memory; the last known ones survive on disk while the database is down."""

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self.active: dict[str, list[Active]] = {}
        """By policy, oldest first; some may have expired since they were read. Not for changing."""
        if cache is not None and cache.exists():
            try:
                self.replace(msgspec.json.decode(cache.read_bytes(), type=list[Active]))
            except msgspec.MsgspecError:
                cache.unlink()

    def of(self, policy: str) -> list[Active]:
        """Overrides of a policy, oldest first; some may have expired since they were read."""
        return self.active.get(policy, _NONE)

    def replace(self, active: list[Active]) -> None:
        """Take over what the table holds now."""
        grouped: dict[str, list[Active]] = {}
        for one in active:
            grouped.setdefault(one.policy, []).append(one)
        if grouped == self.active:
            return
        self.active = grouped
        if self._cache is not None:
            files.replace(self._cache, msgspec.json.encode(active))


def read(connection: sa.Connection, now: float) -> list[Active]:
    """The overrides that hold at `now` (Unix seconds), oldest first."""
    table = tables.overrides
    query = sa.select(table).where(table.c.until > now, table.c.cleared_at.is_(None)).order_by(table.c.id)
    return [
        Active(
            id=row.id,
            policy=row.policy,
            user=user_hash(row.user_id) if row.user_id else "",
            user_id=row.user_id,
            episode=row.episode or "",
            action=row.action,
            force=row.force,
            who=row.who,
            reason=row.reason,
            set_at=row.set_at,
            until=row.until,
        )
        for row in connection.execute(query)
    ]


def log(connection: sa.Connection, policy: str, now: float, limit: int) -> list[dict[str, Any]]:
    """The last `limit` overrides of a policy, newest first, and what became of each: active, expired or cleared."""
    table = tables.overrides
    query = sa.select(table).where(table.c.policy == policy).order_by(table.c.id.desc()).limit(limit)
    found = []
    for row in connection.execute(query):
        state = "cleared" if row.cleared_at is not None else "active" if row.until > now else "expired"
        columns = ("action", "user_id", "episode", "force", "who", "reason", "set_at", "until")
        ended = {"state": state, "cleared_at": row.cleared_at, "cleared_by": row.cleared_by}
        found.append({name: getattr(row, name) for name in columns} | ended)
    return found


def put(connection: sa.Connection, values: dict[str, Any]) -> None:
    """Store an override; an earlier one of the same policy, user and episode is cleared in the same transaction."""
    clear(connection, values["policy"], values["user_id"], values["episode"], values["who"], values["set_at"])
    connection.execute(tables.overrides.insert(), values)


def clear(
    connection: sa.Connection, policy: str, user_id: str | None, episode: str | None, who: str, now: float
) -> int:
    """Clear the active override of exactly this policy, user and episode; how many rows that were."""
    table = tables.overrides
    same_user = table.c.user_id.is_(None) if user_id is None else table.c.user_id == user_id
    same_episode = table.c.episode.is_(None) if episode is None else table.c.episode == episode
    statement = (
        sa.update(table)
        .where(table.c.policy == policy, same_user, same_episode, table.c.cleared_at.is_(None), table.c.until > now)
        .values(cleared_at=now, cleared_by=who)
    )
    return connection.execute(statement).rowcount
