"""Fault events: rows that gateways and the control plane commit for each other, followed every second."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from bentos import files, logs
from bentos.canary import Canary
from bentos.runners.crash_marks import DEATHS, Death
from bentos.store import tables

if TYPE_CHECKING:
    from bentos.routing.version import Version

BREAKER_OPEN = "breaker_open"
REFUSED = "refused"
SAFETY_ROLLBACK = "safety_rollback"
KILLED_WORKER = "killed_worker"
QUARANTINED = "quarantined"

QUARANTINE = f"the package killed its worker {DEATHS} times: it is quarantined, and its traffic goes to the champion"

_HEARD = (BREAKER_OPEN, SAFETY_ROLLBACK, KILLED_WORKER)
_ONCE = (REFUSED, QUARANTINED)


class Event(msgspec.Struct, frozen=True):
    """A fault event; `at` in Unix seconds. `worker` is told only of a death: the worker that died."""

    policy: str
    version: str
    package_sha256: str
    kind: str
    at: float
    worker: str = ""


class Faults:
    """The events this gateway knows of, in memory; those last read survive on disk while the database is down.

    Of equal events only the latest is kept, so there are never more than versions can cause.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._last = 0
        self._events: dict[tuple[str, ...], Event] = {}
        self._unconfirmed: list[Event] = []
        """What the disk remembers, until the table was read."""
        if cache is not None and cache.exists():
            try:
                self._unconfirmed = msgspec.json.decode(cache.read_bytes(), type=list[Event])
            except (OSError, msgspec.MsgspecError) as error:
                logs.warning("fault events on disk not readable", detail=str(error))

    def note(self, event: Event) -> None:
        """Take an event into account: at once when it arose here, else when it was read."""
        key = (event.policy, event.version, event.package_sha256, event.kind, event.worker)
        known = self._events.get(key)
        if known is None or known.at < event.at:
            self._events[key] = event

    def take(self, rows: list[Any]) -> set[str]:
        """Take over rows read from the table; the policies for which that may change something."""
        changed = {event.policy for event in self._unconfirmed} | {row.policy for row in rows}
        if not changed:
            return changed
        self._unconfirmed = []
        for row in rows:
            worker = row.worker if row.kind == KILLED_WORKER else ""
            self.note(Event(row.policy, row.version, row.package_sha256, row.kind, row.at, worker))
            self._last = max(self._last, row.id)
        if self._cache is not None:
            files.replace(self._cache, msgspec.json.encode(list(self._events.values())))
        return changed

    def read(self, connection: sa.Connection) -> list[Any]:
        """Events since the last time that can withdraw a version."""
        table = tables.fault_events
        query = sa.select(table).where(table.c.id > self._last, table.c.kind.in_(_HEARD)).order_by(table.c.id)
        return list(connection.execute(query))

    def quarantined(self, package_sha256: str) -> bool:
        """Whether a package has killed too many workers, anywhere and ever, under whatever name."""
        killed = {
            event.worker
            for event in self._known()
            if event.kind == KILLED_WORKER and event.package_sha256 == package_sha256
        }
        return len(killed) >= DEATHS

    def withdrawn(
        self, policy: str, champion: str | None, canary: Canary | None, loaded: Mapping[str, Version]
    ) -> frozenset[str]:
        """Versions that must not decide now, the champion never among them.

        The running canary's version from its first opened breaker (anywhere) or safety rollback on; a version that is
        neither champion nor challenger any more, when a safety rollback took it out while its episodes may still run;
        a version whose package is quarantined.
        """
        now = time.time()
        found = {name for name, version in loaded.items() if self.quarantined(version.package_sha256)}
        for event in self._known():
            version = event.version
            if event.policy != policy or version not in loaded or event.kind == KILLED_WORKER:
                continue
            if canary is not None and version == canary.version:
                if event.at >= canary.started_at:
                    found.add(version)
            elif (
                event.kind == SAFETY_ROLLBACK and now - event.at < loaded[version].manifest.outcomes.episode_ttl_seconds
            ):
                found.add(version)
        return frozenset(found - {champion})

    def _known(self) -> list[Event]:
        return [*self._events.values(), *self._unconfirmed]


def record(
    connection: sa.Connection, *, policy: str, version: str, digest: str, kind: str, detail: str, worker: str
) -> None:
    """Store an event. A refusal or a quarantine is stored once a package, however many workers and restarts see it."""
    table = tables.fault_events
    values = {
        "policy": policy,
        "version": version,
        "package_sha256": digest,
        "kind": kind,
        "detail": detail,
        "worker": worker,
        "at": time.time(),
    }
    if kind not in _ONCE:
        connection.execute(table.insert(), values)
        return
    same = [table.c[name] == values[name] for name in ("policy", "version", "package_sha256", "kind", "detail")]
    columns = [table.c[name] for name in values]
    fresh = sa.select(
        *(sa.bindparam(None, value, column.type) for column, value in zip(columns, values.values(), strict=True))
    )
    connection.execute(table.insert().from_select(columns, fresh.where(~sa.exists().where(*same))))


def bury(connection: sa.Connection, death: Death, worker: str) -> None:
    """Store that a version killed workers (once, however often it is told), and its quarantine if it was too often."""
    table = tables.fault_events
    digest, dead = death.suspect.package_sha256, death.workers[0]
    killed = (table.c.kind == KILLED_WORKER, table.c.package_sha256 == digest)
    if connection.execute(sa.select(table.c.id).where(*killed, table.c.worker == dead)).first() is not None:
        return
    about = {"policy": death.suspect.policy, "version": death.suspect.version, "digest": digest}
    detail = f"worker {' and worker '.join(death.workers)} died while the version was at work"
    record(connection, **about, kind=KILLED_WORKER, detail=detail, worker=dead)
    deaths = connection.execute(sa.select(sa.func.count()).select_from(table).where(*killed)).scalar_one()
    if deaths >= DEATHS:
        record(connection, **about, kind=QUARANTINED, detail=QUARANTINE, worker=worker)
