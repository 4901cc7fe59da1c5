"""Migrations of Airlock's own tables: forward only, one short list of steps, no tool of their own.

The gateway brings its database forward when it starts, and it must start without the libraries of the control plane;
a step is a few statements that both databases take, so a migration library would be the larger part. Steps only add:
processes of the version before go on beside a database that was brought forward.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from bentos.store.commit_order import NUMBER

_LOCK = 0x4149524C4F434B
"""The advisory lock that migrations hold on PostgreSQL: "AIRLOCK" in ASCII."""

_FIRST = "episodes"
"""A table that every version has had."""

versions = sa.table("schema_versions", sa.column("version", sa.Integer), sa.column("at", sa.Float))
"""The steps that this database has taken."""


def migrate(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Bring the database to `metadata`, from nothing or from any older version. Many may call this at once."""
    with engine.connect() as connection:
        if _current(connection) >= LATEST:
            _settle(connection)
            return
    with engine.begin() as connection:
        _lock(connection)
        taken = _current(connection)
        if taken == 0:
            # before this module there was one version, which kept no number
            taken = 1 if sa.inspect(connection).has_table(_FIRST) else LATEST
            connection.exec_driver_sql(
                "CREATE TABLE schema_versions (version INTEGER NOT NULL PRIMARY KEY, at FLOAT NOT NULL)"
            )
            _note(connection, taken)
        for version, step in STEPS.items():
            if version > taken:
                step(connection)
                _note(connection, version)
        metadata.create_all(connection)


def _current(connection: sa.Connection) -> int:
    """The database's version; 0 where none is noted."""
    if not sa.inspect(connection).has_table(versions.name):
        return 0
    return int(connection.execute(sa.select(sa.func.max(versions.c.version))).scalar() or 0)


def _note(connection: sa.Connection, version: int) -> None:
    connection.execute(versions.insert().values(version=version, at=time.time()))


def _lock(connection: sa.Connection) -> None:
    """Let nobody else migrate until this transaction ends."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _settle(connection: sa.Connection) -> None:
    """After a restore into another PostgreSQL cluster: move transaction numbers below those that it hands out.

    A cluster counts transactions from its own beginning, so restored rows may lie beyond its horizon for years.
    The order of rows stays.
    """
    if connection.dialect.name != "postgresql" or not _ahead(connection):
        return
    _lock(connection)
    if _ahead(connection):
        for table in ("episodes", "outcomes"):
            connection.exec_driver_sql(f"UPDATE {table} SET xact = xact - (SELECT 1 + max(xact) FROM {table})")
        connection.exec_driver_sql("DELETE FROM swept")
    connection.commit()


def _ahead(connection: sa.Connection) -> bool:
    """Whether the last rows bear numbers that this cluster has not handed out yet."""
    last = " UNION ALL ".join(
        f"(SELECT xact FROM {table} ORDER BY {sequence} DESC LIMIT 1)"
        for table, sequence in (("episodes", "start_seq"), ("outcomes", "outcome_seq"))
    )
    found = (
        f"SELECT coalesce(max(xact) >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint, false) FROM ({last}) a"
    )
    return bool(connection.exec_driver_sql(found).scalar_one())


def _rewards_events_and_order(connection: sa.Connection) -> None:
    """Version 2: covariates, events and transaction numbers; the tables it adds are made with all that are missing."""
    added = {
        "episodes": ("covariate FLOAT", "xact BIGINT DEFAULT 0 NOT NULL"),
        "outcomes": ("events VARCHAR(64) DEFAULT '' NOT NULL", "xact BIGINT DEFAULT 0 NOT NULL"),
    }
    for table, columns in added.items():
        for column in columns:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
        if connection.dialect.name == "postgresql":
            # only now: with a default that is computed, adding the column would rewrite the table
            connection.exec_driver_sql(f"ALTER TABLE {table} ALTER COLUMN xact SET DEFAULT {NUMBER}")
    for name, on in (
        ("ix_episodes_canary", "episodes (policy, generation, xact, start_seq)"),
        ("ix_episodes_policy", "episodes (policy, xact, start_seq)"),
        ("ix_outcomes_canary", "outcomes (policy, generation, xact, outcome_seq)"),
    ):
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
        connection.exec_driver_sql(f"CREATE INDEX {name} ON {on}")


def _index_of_events(connection: sa.Connection) -> None:
    """Version 3: an index by age; the tables it adds are made with all that are missing."""
    if sa.inspect(connection).has_table("episode_events"):
        connection.exec_driver_sql("CREATE INDEX ix_episode_events_at ON episode_events (at)")


STEPS: dict[int, Callable[[sa.Connection], None]] = {
    2: _rewards_events_and_order,
    3: _index_of_events,  # and the tables audit, monitor_reports, swept
}
"""What leads to each version from the one before."""

LATEST = max(STEPS)
"""The version of the tables in `bentos/store/tables.py`."""
