"""Intents: stored before the first write, and until the last."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from bentos.store import tables
from tasks.control import intents
from tasks.control.lease import LeaseLost, acquire


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return tables.create(f"sqlite:///{tmp_path / 'airlock.db'}")


def test_an_intent_is_pending_until_it_is_closed_and_records_who_and_why(engine: sa.Engine) -> None:
    lease = acquire(engine, "cartpole", "ada")
    writes = [intents.set_alias("champion", "4"), intents.delete_tag("canary")]
    begun = intents.begin(engine, lease, "promote", "ada", "it won", writes)
    assert intents.pending(engine, "cartpole") == [begun]
    assert intents.policies_with_pending(engine) == ["cartpole"]
    intents.close(engine, begun)
    assert intents.pending(engine, "cartpole") == []
    with engine.connect() as connection:
        row = connection.execute(sa.select(tables.intents)).one()
    assert (row.who, row.reason, row.state, row.fence, row.writes) == ("ada", "it won", "done", lease.fence, writes)


def test_without_the_lease_no_intent_is_stored(engine: sa.Engine) -> None:
    stalled = acquire(engine, "cartpole", "ada", ttl=0.0)
    acquire(engine, "cartpole", "bob")
    with pytest.raises(LeaseLost):
        intents.begin(engine, stalled, "promote", "ada", "late", [intents.set_alias("champion", "4")])
    assert intents.pending(engine, "cartpole") == []


def test_a_fault_event_made_twice_is_one_event(engine: sa.Engine) -> None:
    write = intents.fault_event("4", "ab" * 32, "safety_rollback", "by hand [1]")
    for _ in range(2):
        intents.make(Mock(), engine, "cartpole", write)
    intents.make(Mock(), engine, "cartpole", {**write, "detail": "by hand [2]"})
    with engine.connect() as connection:
        rows = connection.execute(sa.select(tables.fault_events)).all()
    assert [(row.version, row.detail) for row in rows] == [("4", "by hand [1]"), ("4", "by hand [2]")]


def test_a_write_of_an_unknown_kind_is_refused(engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        intents.make(Mock(), engine, "cartpole", {"op": "drop_everything"})
