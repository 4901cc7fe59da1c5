"""A store as it is after a long life: many canaries of several policies, made inside PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from bentos.store import tables
from bentos.telemetry import counters

TABLES = ("episodes", "outcomes")
BEGAN = 1.7e9
"""When the first episode started, in Unix seconds; one follows another by `BETWEEN` seconds."""

BETWEEN = 0.5
USERS = 1000
"""How many users an arm of the policy at place 1 has at most; of the others each episode is a unit."""


@dataclass(frozen=True)
class Life:
    """`rows` outcomes with their episodes, of `policies` policies with `canaries` canaries each, one after another."""

    rows: int
    policies: int = 5
    canaries: int = 100

    def policy(self, place: int) -> str:
        """The name of a policy; that at place 1 has users."""
        return f"policy{place}"

    def generation(self, canary: int) -> str:
        """The generation of a canary, counted from 0, whose challenger is version `canary` + 2."""
        return f"{canary + 2}-{canary:016x}"

    @property
    def last(self) -> str:
        """The generation of the last canary, the one that runs."""
        return self.generation(self.canaries - 1)


def fill(engine: sa.Engine, life: Life) -> None:
    """Fill a new database. Indexes are made once all rows are there; every second row of a canary is a challenger's.

    Transactions are numbered as after a restore into another cluster: below all that this one hands out.
    """
    arms = 2 * life.policies
    numbered = f"""
        SELECT n, md5(n::text) AS episode, 'policy' || mod(n, {life.policies}) AS policy,
               (n - 1) * {life.canaries} / {life.rows} AS canary, mod(n, {arms}) < {life.policies} AS tried,
               n / 20 - {life.rows} AS xact
        FROM generate_series(1, {life.rows}::bigint) AS n"""
    shared = f"""
        n, episode, policy, (canary + 2) || '-' || lpad(to_hex(canary), 16, '0'),
        CASE WHEN tried THEN 'challenger' ELSE 'control' END, CASE WHEN tried THEN canary + 2 ELSE canary + 1 END,
        xact, {BEGAN} + n * {BETWEEN}"""
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '512MB'")
        connection.exec_driver_sql(f"TRUNCATE {', '.join(TABLES)}")
        definitions = [one for table in TABLES for one in _without_indexes(connection, table)]
        connection.exec_driver_sql(
            f"""INSERT INTO episodes
                (start_seq, episode, policy, generation, arm, version, xact, started_at, unit, covariate)
            SELECT {shared},
                   CASE WHEN policy = 'policy1' THEN 'user' || mod(n, {arms * USERS}) ELSE episode END, mod(n, 7)
            FROM ({numbered}) AS numbered"""
        )
        connection.exec_driver_sql(
            f"""INSERT INTO outcomes
                (outcome_seq, episode, policy, generation, arm, version, xact, recorded_at, episode_return, length,
                 kind, events)
            SELECT {shared} + 30, 250 + mod(n * 7919, 201), 200, 'reported', '' FROM ({numbered}) AS numbered"""
        )
        for definition in definitions:
            connection.exec_driver_sql(definition)
        for table, key in zip(TABLES, ("start_seq", "outcome_seq"), strict=True):
            connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('{table}', '{key}'), {life.rows})")
        _count(connection, life)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _without_indexes(connection: sa.Connection, table: str) -> list[str]:
    """Take a table's indexes away; the statements that bring them back."""
    constraints = connection.exec_driver_sql(
        f"""SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = '{table}'::regclass AND contype IN ('p', 'u')"""
    ).all()
    for name, _ in constraints:
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = connection.exec_driver_sql(
        f"SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{table}'"
    ).all()
    for name, _ in indexes:
        connection.exec_driver_sql(f"DROP INDEX {name}")
    again = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for name, definition in constraints]
    return [*again, *(definition for _, definition in indexes)]


def _count(connection: sa.Connection, life: Life, workers: int = 4) -> None:
    """The counters that gateway workers left behind: of each arm of each canary, and of each version's traffic."""
    arm = counters.Arm().to_json()
    arms = [
        (name, canary, life.generation(canary) if name != "champion" else "")
        for canary in range(life.canaries)
        for name in ("champion", "control", "challenger")
    ]
    rows = [
        {
            "policy": life.policy(place),
            "generation": generation,
            "version": str(canary + 1 + (name == "challenger")),
            "arm": name,
            "worker": f"worker{canary * workers + worker}",
            "stats": arm,
            "updated_at": BEGAN + (canary + 1) * BETWEEN * life.rows / life.canaries,
        }
        for place in range(life.policies)
        for name, canary, generation in arms
        for worker in range(workers)
    ]
    connection.execute(tables.arm_stats.delete())
    connection.execute(tables.arm_stats.insert(), rows)
