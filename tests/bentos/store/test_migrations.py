"""Migrations: a database of the first version keeps its rows and takes new ones, whoever comes first."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bentos.store import migrations, tables
from tests.bentos import first_version
from tests.bentos.store_rows import outcome, start

CREATE = "import sys; from bentos.store import tables; tables.create(sys.argv[1])"
KILLED = """
import os, signal, sys
from bentos.store import migrations, tables
note = migrations._note
migrations._note = lambda connection, version: (
    os.kill(os.getpid(), signal.SIGKILL) if version == int(sys.argv[2]) else note(connection, version)
)
tables.create(sys.argv[1])
"""


def shape(engine: sa.Engine) -> dict[str, Any]:
    """Columns, keys and indexes of every table."""
    inspector = sa.inspect(engine)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], _default(column["default"]))
                for column in inspector.get_columns(name)
            },
            "key": inspector.get_pk_constraint(name)["constrained_columns"],
            "unique": sorted(tuple(one["column_names"]) for one in inspector.get_unique_constraints(name)),
            "indexes": sorted(
                (str(one["name"]), tuple(one["column_names"]), one["unique"]) for one in inspector.get_indexes(name)
            ),
        }
        for name in inspector.get_table_names()
    }


def _default(told: str | None) -> str | None:
    """A default without the ways in which both databases write the same."""
    return None if told is None else told.strip("()").replace("'::character varying", "'")


@pytest.fixture
def fresh(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> sa.Engine:
    """A new database beside the old one."""
    if database.startswith("sqlite"):
        return tables.create(f"sqlite:///{tmp_path}/fresh.db")
    return tables.create(request.getfixturevalue("postgres").database())


def assert_it_holds(database: str, before: dict[str, Any]) -> None:
    """Every row of the first version is there, as it was."""
    after = first_version.contents(database)
    for table, (columns, rows) in before.items():
        assert after[table][0][: len(columns)] == columns
        assert sorted((row[: len(columns)] for row in after[table][1]), key=repr) == rows, table


def test_several_gateways_bring_an_old_database_to_the_same_tables_and_lose_nothing(
    database: str, fresh: sa.Engine
) -> None:
    first_version.write(database)
    before = first_version.contents(database)
    starting = [subprocess.Popen([sys.executable, "-c", CREATE, database]) for _ in range(4)]
    assert [process.wait(120) for process in starting] == [0] * 4
    assert shape(tables.create(database)) == shape(fresh)
    assert_it_holds(database, before)
    noted = [row[0] for row in first_version.contents(database)["schema_versions"][1]]
    assert noted == [1, *migrations.STEPS]


@pytest.mark.parametrize("step", migrations.STEPS)
def test_a_killed_migration_leaves_the_old_database_and_the_next_completes_it(
    database: str, fresh: sa.Engine, step: int
) -> None:
    first_version.write(database)
    before = first_version.contents(database)
    killed = subprocess.run([sys.executable, "-c", KILLED, database, str(step)], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert first_version.contents(database) == before
    assert shape(tables.create(database)) == shape(fresh)
    assert_it_holds(database, before)


def test_new_rows_come_after_old_ones(database: str) -> None:
    first_version.write(database)
    engine = tables.create(database)
    with engine.begin() as connection:
        connection.execute(tables.episodes.insert(), [start("new", covariate=0.5)])
        connection.execute(tables.outcomes.insert(), [outcome("new", events="fault")])
    with engine.connect() as connection:
        starts = connection.execute(sa.select(tables.episodes).order_by("xact", "start_seq")).all()
        ends = connection.execute(sa.select(tables.outcomes).order_by("xact", "outcome_seq")).all()
    assert (starts[0].episode, starts[0].covariate, ends[0].events) == ("first-1", None, "")
    assert (starts[-1].episode, starts[-1].covariate, ends[-1].events) == ("new", 0.5, "fault")


def test_an_older_process_goes_on_beside_a_database_that_was_brought_forward(database: str) -> None:
    engine = tables.create(database)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO episodes (episode, policy, generation, arm, unit, version, started_at) "
            "VALUES ('theirs', 'p', 'g', 'control', 'u', '1', 1.5)"
        )
    assert tables.create(database).connect().execute(sa.select(tables.episodes.c.episode)).scalars().all() == ["theirs"]


def test_a_process_starts_on_a_database_of_a_later_version(database: str) -> None:
    engine = tables.create(database)
    with engine.begin() as connection:
        connection.execute(migrations.versions.insert().values(version=migrations.LATEST + 1, at=1.0))
        connection.exec_driver_sql("ALTER TABLE outcomes ADD COLUMN later FLOAT")
    with tables.create(database).begin() as connection:
        connection.execute(tables.outcomes.insert(), [outcome("ours")])
    assert [row[1] for row in first_version.contents(database)["outcomes"][1]] == ["ours"]
