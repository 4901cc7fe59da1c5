"""A database of the first version, with what a gateway and a control plane had left in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

GENERATION = "2-0f0e0d0c0b0a0908"
"""The canary that runs: 60 units an arm, all with their outcomes, and one challenger's episode that goes on."""

RUNNING = (
    "e1.WyJjYXJ0cG9sZSIsIjIiLCJjaGFsbGVuZ2VyIiwiMi0wZjBlMGQwYzBiMGEwOTA4IiwiZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmYi"
    "LCIiLDQwMDAwMDAwMDAuMF0.mUMR1i-ug3xZ5Kuqr1cDyw"
)
"""The id of that episode, as the first version signed it with `EPISODE_KEY`."""

_KEYS = {"sqlite": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "postgresql": "BIGSERIAL NOT NULL PRIMARY KEY"}


def write(database: str) -> None:
    """Make its tables and rows in an empty database."""
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    text = Path(__file__).with_suffix(".sql").read_text().replace("SERIAL_KEY", _KEYS[engine.dialect.name])
    with engine.begin() as connection:
        for statement in text.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def contents(database: str) -> dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
    """Columns and rows of each table."""
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    found = {}
    with engine.connect() as connection:
        for name in sorted(sa.inspect(connection).get_table_names()):
            rows = connection.exec_driver_sql(f"SELECT * FROM {name}")
            found[name] = (tuple(rows.keys()), sorted(map(tuple, rows), key=repr))
    return found
