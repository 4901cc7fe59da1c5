"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from benchmarks.serving.compare import CONNECTIONS, Line
from benchmarks.serving.rounds import Cell


def compared(console: Console, lines: Mapping[str, Line]) -> None:
    """Every peer at every number of connections, a line each."""
    header = ["one worker each", *(f"{count} connection{'s' if count > 1 else ''}" for count in CONNECTIONS)]
    rows = []
    for line in lines.values():
        cells = [_cell(line.cells[count]) if count in line.cells else "" for count in CONNECTIONS]
        rows.append([line.title, *([line.problem.splitlines()[0], "", ""] if line.problem else cells)])
    show(
        console,
        "One observation a request: requests/s, × the ceiling's; p50 / p99 latency, CPU time a request",
        header,
        rows,
    )


def _cell(cell: Cell) -> str:
    failed = f" {cell.failed} failed" if cell.failed else ""
    return f"{cell.rate:,.0f}/s  ×{cell.ratio:.3f}{failed}\n{cell.p50:.2f} / {cell.p99:.2f} ms, {cell.cpu:,.0f} µs"


def show(console: Console, title: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """One table."""
    table = Table(title=title)
    for index, column in enumerate(header):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
