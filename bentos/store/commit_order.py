"""Commit order: how to read a growing table so that whatever is read later comes after what was read before.

PostgreSQL hands out sequence numbers before commits, so a row may appear below one that was already read, and a replay
of a canary would see another order than the canary did. Each row therefore carries its transaction's number, `xact`;
rows are ordered by (`xact`, sequence number), and only those below the oldest open transaction are read: nothing can
join them any more. SQLite writes one transaction at a time: there `xact` is 0 and sequence numbers alone order rows.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

Place = tuple[int, int]
"""A row's place: its `xact` and its sequence number."""

START: Place = (-(2**63), 0)
"""Before every row."""

NUMBER = "pg_current_xact_id()::text::bigint"
"""This transaction's number, in PostgreSQL's words."""


class transaction(ColumnElement[int]):  # noqa: N801 - stands in expressions, as SQLAlchemy's own functions do
    """The number of the transaction that writes the row; 0 on SQLite."""

    inherit_cache = True
    type = sa.BigInteger()


@compiles(transaction)
def _on_sqlite(_element: transaction, _compiler: Any, **_options: Any) -> str:
    return "0"


@compiles(transaction, "postgresql")
def _on_postgres(_element: transaction, _compiler: Any, **_options: Any) -> str:
    return f"({NUMBER})"


def horizon(connection: sa.Connection) -> int:
    """Transactions below this number have ended: their rows are all there, and no other will join them."""
    if connection.dialect.name != "postgresql":
        return 1
    return int(connection.exec_driver_sql("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").scalar_one())


def settled(sequence: sa.Column[int], after: Place, below: int) -> sa.ColumnElement[bool]:
    """The rows past `after` and below the horizon, of the table whose sequence number is `sequence`."""
    xact = sequence.table.c.xact
    return sa.and_(sa.tuple_(xact, sequence) > sa.tuple_(*map(sa.literal, after)), xact < below)


def order(sequence: sa.Column[int]) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """What to order by, for the table whose sequence number is `sequence`."""
    return sequence.table.c.xact, sequence
