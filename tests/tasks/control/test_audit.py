"""The audit log tells a policy's story in order, from all that keep a part of it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from bentos.store import tables
from tasks.control import audit


def test_a_story_is_told_newest_first_from_the_log_the_transitions_and_the_overrides(tmp_path: Path) -> None:
    engine = tables.create(f"sqlite:///{tmp_path}/a.db")
    shared = {"policy": "p", "who": "ada", "reason": "slow"}
    with engine.begin() as connection:
        done = {"kind": "rollback", "fence": 1, "writes": [], "state": "done", "created_at": 20.0}
        connection.execute(sa.insert(tables.intents).values(**shared, **done))
        connection.execute(
            sa.insert(tables.intents).values(**shared, **{**done, "kind": "annotate", "created_at": 25.0})
        )
        override = {"action": 1, "force": False, "set_at": 10.0, "until": 99.0, "cleared_at": 30.0, "cleared_by": "bo"}
        connection.execute(sa.insert(tables.overrides).values(**shared, user_id="u", **override))
    audit.record(engine, "p", "monitor_p", "alert", "HIGH_LATENCY fires", p99_ms=120)
    audit.record(engine, "other", "eve", "alert", "not ours")
    found = audit.story(engine, "p")
    assert [(event.what, event.who) for event in found] == [
        ("alert", "monitor_p"),
        ("override_cleared", "bo"),
        ("rollback", "ada"),
        ("override_set", "ada"),
    ]
    assert found[0].detail == {"p99_ms": 120}
    assert found[3].detail == {"action": 1, "until": 99.0, "user_id": "u"}
    assert [event.what for event in audit.story(engine, "p", limit=2)] == ["alert", "override_cleared"]
