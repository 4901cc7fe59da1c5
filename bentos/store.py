"""Airlock's own tables: what gateways and the control plane must tell each other, durably.

One schema for SQLite and PostgreSQL, SQLAlchemy Core. Times are Unix seconds (float, UTC).
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()
_CREATE_ATTEMPTS = 5
_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

episodes = sa.Table(
    "episodes",
    metadata,
    sa.Column("start_seq", _Serial, primary_key=True, autoincrement=True),
    sa.Column("episode", sa.String(64), nullable=False, unique=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("generation", sa.String(64), nullable=False),
    sa.Column("unit", sa.String(256), nullable=False),
    sa.Column("arm", sa.String(16), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Index("ix_episodes_canary", "policy", "generation", "start_seq"),
    sqlite_autoincrement=True,
)
"""Starts of experiment episodes, committed before their id is given out. `unit` is the user id, else the episode."""

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("outcome_seq", _Serial, primary_key=True, autoincrement=True),
    sa.Column("episode", sa.String(64), nullable=False, unique=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("generation", sa.String(64), nullable=False),
    sa.Column("arm", sa.String(16), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("episode_return", sa.Float, nullable=False),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("recorded_at", sa.Float, nullable=False),
    sa.Index("ix_outcomes_policy", "policy", "version", "outcome_seq"),
    sa.Index("ix_outcomes_canary", "policy", "generation", "outcome_seq"),
    sqlite_autoincrement=True,
)
"""One outcome an episode, ever. `kind` is `reported` or `abandoned`; `generation` is empty outside an experiment."""

arm_stats = sa.Table(
    "arm_stats",
    metadata,
    sa.Column("policy", sa.String(128), primary_key=True),
    sa.Column("generation", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(32), primary_key=True),
    sa.Column("arm", sa.String(16), primary_key=True),
    sa.Column("worker", sa.String(64), primary_key=True),
    sa.Column("stats", sa.JSON, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)
"""Cumulative counters of one gateway worker for one arm (see bentos/stats.py), upserted about once a second."""

fault_events = sa.Table(
    "fault_events",
    metadata,
    sa.Column("id", _Serial, primary_key=True, autoincrement=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("package_sha256", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("worker", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("ix_fault_events_policy", "policy", "id"),
    sqlite_autoincrement=True,
)
"""Faults that peers and the canary task must know of: an opened breaker, a package that was refused."""

overrides = sa.Table(
    "overrides",
    metadata,
    sa.Column("id", _Serial, primary_key=True, autoincrement=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("user_id", sa.String(256), nullable=True),
    sa.Column("episode", sa.String(64), nullable=True),
    sa.Column("action", sa.JSON, nullable=False),
    sa.Column("force", sa.Boolean, nullable=False),
    sa.Column("who", sa.String(256), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("set_at", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("cleared_at", sa.Float, nullable=True),
    sa.Column("cleared_by", sa.String(256), nullable=True),
    sa.Index("ix_overrides_policy", "policy", "until"),
    sqlite_autoincrement=True,
)
"""A human's actions: who, when, why, until. Rows are never deleted, so the table is its own audit log."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("policy", sa.String(128), primary_key=True),
    sa.Column("holder", sa.String(256), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)
"""Who may write the registry for a policy now; `fence` grows with every holder."""

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("id", _Serial, primary_key=True, autoincrement=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("who", sa.String(256), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("writes", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("done_at", sa.Float, nullable=True),
    sa.Index("ix_intents_policy", "policy", "state", "id"),
    sqlite_autoincrement=True,
)
"""Each transition of a policy as the registry writes it consists of; `pending` until all were made."""


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def create(url: str) -> sa.Engine:
    """An engine for `url` with all tables present. SQLite runs in WAL mode with full fsync at commit."""
    engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    for attempt in range(_CREATE_ATTEMPTS):
        try:
            metadata.create_all(engine)
            break
        except sa.exc.DatabaseError:
            # another process is creating the same tables: look again, they are there by then
            if attempt == _CREATE_ATTEMPTS - 1:
                raise
            time.sleep(0.1 * (attempt + 1))
    return engine


@lru_cache(maxsize=8)
def connect(url: str) -> sa.Engine:
    """The process's engine for `url`."""
    return create(url)
