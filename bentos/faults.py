"""Fault events: rows that gateways and the control plane commit for each other, followed every second."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from bentos import store
from bentos.assignment import Canary
from bentos.versions import Version

BREAKER_OPEN = "breaker_open"
REFUSED = "refused"
SAFETY_ROLLBACK = "safety_rollback"


class Faults:
    """The events this gateway knows of."""

    def __init__(self) -> None:
        self._last = 0
        self._events: dict[str, list[tuple[str, str, float]]] = {}

    def note(self, policy: str, version: str, kind: str, at: float) -> None:
        """Take an event into account: at once when it arose here, else when it was read."""
        self._events.setdefault(policy, []).append((version, kind, at))

    def take(self, rows: list[Any]) -> set[str]:
        """Take over rows read from the table; the policies they concern."""
        for row in rows:
            self.note(row.policy, row.version, row.kind, row.at)
            self._last = max(self._last, row.id)
        return {row.policy for row in rows}

    def read(self, connection: sa.Connection) -> list[Any]:
        """Events since the last time that can withdraw a version."""
        table = store.fault_events
        query = (
            sa.select(table)
            .where(table.c.id > self._last, table.c.kind.in_((BREAKER_OPEN, SAFETY_ROLLBACK)))
            .order_by(table.c.id)
        )
        return list(connection.execute(query))

    def withdrawn(
        self, policy: str, champion: str | None, canary: Canary | None, loaded: dict[str, Version]
    ) -> frozenset[str]:
        """Versions that must not decide now.

        The running canary's version from its first opened breaker (anywhere) or safety rollback on; a version that is
        neither champion nor challenger any more, when a safety rollback took it out while its episodes may still run.
        """
        now = time.time()
        found = set()
        for version, kind, at in self._events.get(policy, ()):
            if version == champion or version not in loaded:
                continue
            if canary is not None and version == canary.version:
                if at >= canary.started_at:
                    found.add(version)
            elif kind == SAFETY_ROLLBACK and now - at < loaded[version].manifest.outcomes.episode_ttl_seconds:
                found.add(version)
        return frozenset(found)


def record(
    connection: sa.Connection, *, policy: str, version: str, digest: str, kind: str, detail: str, worker: str
) -> None:
    """Store an event. A refusal is stored once per package, however many workers and restarts see it."""
    table = store.fault_events
    values = {
        "policy": policy,
        "version": version,
        "package_sha256": digest,
        "kind": kind,
        "detail": detail,
        "worker": worker,
        "at": time.time(),
    }
    if kind != REFUSED:
        connection.execute(table.insert(), values)
        return
    same = [table.c[name] == values[name] for name in ("policy", "version", "package_sha256", "kind", "detail")]
    columns = [table.c[name] for name in values]
    fresh = sa.select(
        *(sa.bindparam(None, value, column.type) for column, value in zip(columns, values.values(), strict=True))
    )
    connection.execute(table.insert().from_select(columns, fresh.where(~sa.exists().where(*same))))
