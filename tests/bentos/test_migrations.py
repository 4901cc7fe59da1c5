"""Migrations: a database of an older version keeps its rows and takes new ones, whoever comes first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from bentos import migrations, store
from tests.bentos.store_rows import outcome, start


def as_first_made(database: str) -> None:
    """The tables of the first version that changed since, as that version made them, with an episode in them."""
    serial = "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT" if database.startswith("sqlite") else "BIGSERIAL PRIMARY KEY"
    rest = "policy VARCHAR(128) NOT NULL, generation VARCHAR(64) NOT NULL, arm VARCHAR(16) NOT NULL"
    statements = [
        f"CREATE TABLE episodes (start_seq {serial}, episode VARCHAR(64) NOT NULL UNIQUE, {rest}, "
        "unit VARCHAR(256) NOT NULL, version VARCHAR(32) NOT NULL, started_at FLOAT NOT NULL)",
        "CREATE INDEX ix_episodes_canary ON episodes (policy, generation, start_seq)",
        f"CREATE TABLE outcomes (outcome_seq {serial}, episode VARCHAR(64) NOT NULL UNIQUE, {rest}, "
        "version VARCHAR(32) NOT NULL, episode_return FLOAT NOT NULL, length INTEGER NOT NULL, "
        "kind VARCHAR(16) NOT NULL, recorded_at FLOAT NOT NULL)",
        "CREATE INDEX ix_outcomes_policy ON outcomes (policy, version, outcome_seq)",
        "CREATE INDEX ix_outcomes_canary ON outcomes (policy, generation, outcome_seq)",
        "INSERT INTO episodes (episode, policy, generation, arm, unit, version, started_at) "
        "VALUES ('old', 'p', 'g', 'control', 'u', '1', 1.5)",
        "INSERT INTO outcomes (episode, policy, generation, arm, version, episode_return, length, kind, recorded_at) "
        "VALUES ('old', 'p', 'g', 'control', '1', 9.5, 7, 'reported', 2.5)",
    ]
    with sa.create_engine(database).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def shape(engine: sa.Engine) -> dict[str, Any]:
    """Columns and indexes of every table."""
    inspector = sa.inspect(engine)
    return {
        name: (
            sorted(column["name"] for column in inspector.get_columns(name)),
            sorted((str(index["name"]), tuple(index["column_names"])) for index in inspector.get_indexes(name)),
        )
        for name in inspector.get_table_names()
    }


def test_an_older_database_is_brought_to_the_same_tables_and_loses_nothing(database: str) -> None:
    as_first_made(database)
    with ThreadPoolExecutor(8) as threads:
        engines = list(threads.map(store.create, [database] * 8))
    engine = engines[0]
    with engine.begin() as connection:
        connection.execute(store.episodes.insert(), [start("new", covariate=0.5)])
        connection.execute(store.outcomes.insert(), [outcome("new", events="fault")])
    with engine.connect() as connection:
        starts = connection.execute(sa.select(store.episodes).order_by("xact", "start_seq")).all()
        ends = connection.execute(sa.select(store.outcomes).order_by("xact", "outcome_seq")).all()
        noted = connection.execute(sa.select(migrations.versions.c.version)).scalars().all()
    assert [(row.episode, row.unit, row.started_at, row.covariate) for row in starts] == [
        ("old", "u", 1.5, None),
        ("new", "new", 0.0, 0.5),
    ]
    assert [(row.episode, row.episode_return, row.length, row.events) for row in ends] == [
        ("old", 9.5, 7, ""),
        ("new", 1.0, 3, "fault"),
    ]
    assert sorted(noted) == [1, 2, 3]


def test_old_and_new_databases_end_alike(database: str, tmp_path: Any, request: pytest.FixtureRequest) -> None:
    as_first_made(database)
    fresh = (
        f"sqlite:///{tmp_path}/fresh.db"
        if database.startswith("sqlite")
        else request.getfixturevalue("postgres").database()
    )
    old, new = shape(store.create(database)), shape(store.create(fresh))
    assert old.keys() == new.keys()
    assert {name: old[name] for name in ("episodes", "outcomes")} == {
        name: new[name] for name in ("episodes", "outcomes")
    }


def test_an_older_process_goes_on_beside_a_database_that_was_brought_forward(database: str) -> None:
    engine = store.create(database)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO episodes (episode, policy, generation, arm, unit, version, started_at) "
            "VALUES ('theirs', 'p', 'g', 'control', 'u', '1', 1.5)"
        )
    assert store.create(database).connect().execute(sa.select(store.episodes.c.episode)).scalars().all() == ["theirs"]
