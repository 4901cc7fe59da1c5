"""What PostgreSQL did to answer: the statements of a piece of work, run again under EXPLAIN (ANALYZE, BUFFERS)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

Statement = tuple[str, Any]


@dataclass(frozen=True)
class Plan:
    """One statement: rows that were read from tables and indexes (also those thrown away), 8 KiB pages touched, ms."""

    statement: str
    rows: int
    pages: int
    milliseconds: float
    scans: tuple[str, ...]


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[Statement]]:
    """The SELECTs that are sent meanwhile."""
    sent: list[Statement] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if statement.lstrip().startswith("SELECT"):
            sent.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def explained(engine: sa.Engine, sent: list[Statement]) -> list[Plan]:
    """What it takes to answer each again."""
    with engine.connect() as connection:
        return [_plan(connection, statement, parameters) for statement, parameters in sent]


def _plan(connection: sa.Connection, statement: str, parameters: Any) -> Plan:
    command = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
    (found,) = connection.exec_driver_sql(command, parameters).scalar_one()
    scans = list(_scans(found["Plan"]))
    return Plan(
        " ".join(statement.split()),
        sum(_read(scan) for scan in scans),
        found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"],
        found["Execution Time"],
        tuple(f"{scan['Node Type']} on {scan.get('Index Name', scan['Relation Name'])}" for scan in scans),
    )


def _scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in node:
        yield node
    for child in node.get("Plans", ()):
        yield from _scans(child)


def _read(scan: dict[str, Any]) -> int:
    thrown_away = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
    return round((scan["Actual Rows"] + thrown_away) * scan["Actual Loops"])
