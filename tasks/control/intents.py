"""Intents: what a transition is about to write to the registry, stored before the first write and until the last.

Every write is idempotent and the order is chosen by the transition so that each state between is safe. Whoever holds
the lease next finishes what a killed one left, by making all its writes again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from bentos.store.tables import fault_events, intents
from tasks.control import audit
from tasks.control.lease import Lease
from tasks.tracking.registry import Registry

Write = dict[str, Any]
State = Literal["pending", "done", "failed"]


@dataclass(frozen=True)
class Intent:
    """A stored intent that was begun."""

    id: int
    policy: str
    kind: str
    writes: tuple[Write, ...]


def set_alias(alias: str, version: str) -> Write:
    """Point an alias of the policy to a version."""
    return {"op": "set_alias", "alias": alias, "version": version}


def delete_alias(alias: str) -> Write:
    """Remove an alias."""
    return {"op": "delete_alias", "alias": alias}


def saw_alias(alias: str, version: str | None) -> Write:
    """Nothing is written: the alias was found to point to a version (None: to be gone), moved there by hand."""
    return {"op": "saw_alias", "alias": alias, "version": version}


def audit_event(who: str, what: str, words: str, **detail: Any) -> Write:
    """Commit an event of the audit log, once."""
    return {"op": "audit", "at": time.time(), "who": who, "what": what, "words": words, "detail": detail}


def set_tag(key: str, value: str) -> Write:
    """Set a tag of the registered model."""
    return {"op": "set_tag", "key": key, "value": value}


def delete_tag(key: str) -> Write:
    """Remove a tag of the registered model."""
    return {"op": "delete_tag", "key": key}


def tag_version(version: str, key: str, value: str) -> Write:
    """Set a tag of a model version."""
    return {"op": "tag_version", "version": version, "key": key, "value": value}


def fault_event(version: str, package_sha256: str, kind: str, detail: str) -> Write:
    """Commit a fault event that makes gateways move running episodes off a version. `detail` makes it unique."""
    return {
        "op": "fault_event",
        "version": version,
        "package_sha256": package_sha256,
        "kind": kind,
        "detail": detail,
    }


def begin(engine: sa.Engine, lease: Lease, kind: str, who: str, reason: str, writes: list[Write]) -> Intent:
    """Store an intent, in the transaction that proves the lease. Raises LeaseLost."""
    with engine.begin() as connection:
        lease.renew(connection)
        row = connection.execute(
            sa.insert(intents).values(
                policy=lease.policy,
                kind=kind,
                fence=lease.fence,
                who=who,
                reason=reason,
                writes=writes,
                state="pending",
                created_at=time.time(),
            )
        )
        key = row.inserted_primary_key
        assert key is not None
        return Intent(int(key[0]), lease.policy, kind, tuple(writes))


def pending(engine: sa.Engine, policy: str) -> list[Intent]:
    """Intents that were begun and not ended, oldest first."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(intents).where(intents.c.policy == policy, intents.c.state == "pending").order_by(intents.c.id)
        )
        return [Intent(row.id, row.policy, row.kind, tuple(row.writes)) for row in rows]


def policies_with_pending(engine: sa.Engine) -> list[str]:
    """Policies that have an unfinished intent."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(intents.c.policy).where(intents.c.state == "pending").distinct())
        return sorted(row.policy for row in rows)


def expected(engine: sa.Engine, policy: str, alias: str) -> list[str | None]:
    """Where an alias may point by what Airlock wrote, newest first: one version (None: nowhere), or more where MLflow
    refused a write. Empty where no transition of the policy is stored here: then nothing can be said.
    """
    query = (
        sa.select(intents.c.writes, intents.c.state)
        .where(intents.c.policy == policy, intents.c.state != "pending")
        .order_by(intents.c.id.desc())
        .execution_options(yield_per=100)
    )
    found: list[str | None] = []
    known = False
    with engine.connect() as connection:
        for row in connection.execute(query):
            known = True
            written = [write.get("version") for write in row.writes if write.get("alias") == alias]
            if written:
                found.append(written[-1])
                if row.state == "done":
                    return found
    return [*found, None] if known else []


def close(engine: sa.Engine, intent: Intent, state: State = "done") -> None:
    """Mark an intent as ended."""
    with engine.begin() as connection:
        connection.execute(sa.update(intents).where(intents.c.id == intent.id).values(state=state, done_at=time.time()))


def make(registry: Registry, engine: sa.Engine, policy: str, write: Write) -> None:
    """Make one write; making it again changes nothing. Raises RegistryRefused or RegistryUnavailable."""
    match write["op"]:
        case "set_alias":
            registry.set_alias(policy, write["alias"], write["version"])
        case "delete_alias":
            registry.delete_alias(policy, write["alias"])
        case "saw_alias":
            pass
        case "audit":
            audit.record_once(engine, policy, **{name: value for name, value in write.items() if name != "op"})
        case "set_tag":
            registry.set_model_tag(policy, write["key"], write["value"])
        case "delete_tag":
            registry.delete_model_tag(policy, write["key"])
        case "tag_version":
            registry.set_version_tag(policy, write["version"], write["key"], write["value"])
        case "fault_event":
            _commit_fault(engine, policy, write)
        case unknown:
            raise ValueError(f"an intent of {policy} holds a write of an unknown kind: {unknown!r}")


def _commit_fault(engine: sa.Engine, policy: str, write: Write) -> None:
    fields = {name: write[name] for name in ("version", "package_sha256", "kind", "detail")}
    with engine.begin() as connection:
        same = [fault_events.c.policy == policy, *(fault_events.c[name] == value for name, value in fields.items())]
        if connection.execute(sa.select(fault_events.c.id).where(*same)).first() is None:
            connection.execute(
                sa.insert(fault_events).values(policy=policy, worker="control", at=time.time(), **fields)
            )
