"""Airlock's own tables: what gateways and the control plane must tell each other, durably.

One schema for SQLite and PostgreSQL, SQLAlchemy Core. Times are Unix seconds (float, UTC). A change here needs a step
in `bentos/store/migrations.py`, which brings older databases to the same tables.
"""

from __future__ import annotations

import time
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bentos.store import migrations
from bentos.store.commit_order import transaction

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

metadata = sa.MetaData()
_CREATE_ATTEMPTS = 5
_POSTGRES_WAITS = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
}
"""Seconds, but `tcp_user_timeout` in milliseconds: a database that went away without a word is given up after 11 s, not
hours; and it gives up a gateway that did, whose locks nobody else could get."""

_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _xact() -> sa.Column[int]:
    return sa.Column("xact", sa.BigInteger, nullable=False, server_default=transaction())


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
    sa.Column("covariate", sa.Float, nullable=True),
    _xact(),
    sa.Index("ix_episodes_canary", "policy", "generation", "xact", "start_seq"),
    sa.Index("ix_episodes_policy", "policy", "xact", "start_seq"),
    sqlite_autoincrement=True,
)
"""Starts of experiment episodes, committed before their id is given out. `unit` is the user id, else the episode.

`covariate` is a number known of the episode before its arm acted. The order of starts is (`xact`, `start_seq`): see
`bentos/store/commit_order.py`.
"""

swept = sa.Table(
    "swept",
    metadata,
    sa.Column("policy", sa.String(128), primary_key=True),
    sa.Column("xact", sa.BigInteger, nullable=False),
    sa.Column("start_seq", sa.BigInteger, nullable=False),
)
"""How far a policy's starts have all got their outcome, so that a sweep reads only what may still change."""

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
    sa.Column("events", sa.String(64), nullable=False, server_default=""),
    _xact(),
    sa.Index("ix_outcomes_policy", "policy", "version", "outcome_seq"),
    sa.Index("ix_outcomes_canary", "policy", "generation", "xact", "outcome_seq"),
    sqlite_autoincrement=True,
)
"""One outcome an episode, ever. `kind` is `reported`, `abandoned`, or `withdrawn` for a start that nobody was told of;
`generation` is empty outside an experiment.

`events` are the kinds of `episode_events` that had befallen the episode when its outcome was stored, joined by commas:
an outcome never changes, so every reading of it finds the same.
"""

rewards = sa.Table(
    "rewards",
    metadata,
    sa.Column("reward_seq", _Serial, primary_key=True, autoincrement=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("episode", sa.String(64), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("reward", sa.Float, nullable=False),
    sa.Column("terminated", sa.Boolean, nullable=False),
    sa.Column("truncated", sa.Boolean, nullable=False),
    sa.Column("next_observation", sa.LargeBinary, nullable=True),
    sa.Column("recorded_at", sa.Float, nullable=False),
    sa.UniqueConstraint("episode", "step", name="uq_rewards_step"),
    sa.Index(
        "ix_rewards_end",
        "episode",
        sqlite_where=sa.text("terminated OR truncated"),
        postgresql_where=sa.text("terminated OR truncated"),
    ),
    sqlite_autoincrement=True,
)
"""Rewards reported step by step, one a step, ever. `next_observation` is as in `decisions`."""

episode_events = sa.Table(
    "episode_events",
    metadata,
    sa.Column("episode", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("generation", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("ix_episode_events_at", "at"),
)
"""What befell an experiment episode, once a kind: `fault`, `fallback`, `adjustment`."""

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", _Serial, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("version", sa.String(32), nullable=True),
    sa.Column("arm", sa.String(16), nullable=False),
    sa.Column("generation", sa.String(64), nullable=False),
    sa.Column("episode", sa.String(64), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("observation", sa.LargeBinary, nullable=True),
    sa.Column("observation_norm", sa.Float, nullable=False),
    sa.Column("action", sa.JSON, nullable=False),
    sa.Column("log_prob", sa.Float, nullable=True),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("adjusted", sa.JSON, nullable=False),
    sa.Column("latency_seconds", sa.Float, nullable=False),
    sa.Index("ix_decisions_episode", "policy", "episode", "step"),
    sqlite_autoincrement=True,
)
"""The decision log: every decision of the sampled episodes. `version` answered (null: a constant); `arm` was assigned.

`observation` holds the bytes of the graph's observation inputs, in the order and the dtypes of the manifest, C order;
null where they were too many to keep.
"""

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
"""Counters of one gateway worker for one arm (see `bentos/telemetry/counters.py`), upserted about once a second."""

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

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", _Serial, primary_key=True, autoincrement=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("who", sa.String(256), nullable=False),
    sa.Column("what", sa.String(32), nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Index("ix_audit_policy", "policy", "id"),
    sqlite_autoincrement=True,
)
"""What people and monitors did or noticed that is not a transition or an override: see `tasks/control/audit.py`."""

monitor_reports = sa.Table(
    "monitor_reports",
    metadata,
    sa.Column("id", _Serial, primary_key=True, autoincrement=True),
    sa.Column("policy", sa.String(128), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
    sa.Index("ix_monitor_reports_policy", "policy", "at"),
    sqlite_autoincrement=True,
)
"""What each monitoring run of a champion found."""


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _prepare_postgres(connection: Any, _record: Any) -> None:
    """What is acknowledged is on disk, also where the server was told that it need not be."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone()[0] == "off":
            cursor.execute("SET synchronous_commit TO on")
    connection.commit()


def create(url: str) -> sa.Engine:
    """An engine for `url` with all tables as they are now, older ones brought forward with their rows.

    SQLite runs in WAL mode with full fsync at commit. Many processes may call this at once.
    """
    sqlite = url.startswith("sqlite")
    engine = sa.create_engine(url, pool_pre_ping=not sqlite, connect_args={} if sqlite else _POSTGRES_WAITS)
    sa.event.listen(engine, "connect", _prepare_sqlite if sqlite else _prepare_postgres)
    for attempt in range(_CREATE_ATTEMPTS):
        try:
            migrations.migrate(engine, metadata)
            break
        except sa.exc.DatabaseError:
            # on SQLite two processes cannot both turn on WAL: look again, it is done by then
            if not sqlite or attempt == _CREATE_ATTEMPTS - 1:
                raise
            time.sleep(0.1 * (attempt + 1))
    return engine


def insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insert into a table that can say what is to be done about rows that are there already."""
    dialect = import_module(f"sqlalchemy.dialects.{connection.dialect.name}")  # the other is never needed
    statement: sqlite.Insert | postgresql.Insert = dialect.insert(table)
    return statement


@lru_cache(maxsize=8)
def connect(url: str) -> sa.Engine:
    """The process's engine for `url`."""
    return create(url)
