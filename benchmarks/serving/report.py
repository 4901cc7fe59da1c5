"""What was measured, as tables and sentences, each beside what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving import binary
from benchmarks.serving.bentoml_apis import OWN, Times
from benchmarks.serving.compare import CONNECTIONS, MANY_CONNECTIONS, Line
from benchmarks.serving.decision_overhead import Added
from benchmarks.serving.multi_worker import Best
from benchmarks.serving.paired_rounds import Cell
from benchmarks.serving.slow_policy import Slow
from benchmarks.serving.start_peer import ASKED
from benchmarks.serving.startup import Standing

ASKED_OF_THE_CEILING = 0.65
ASKED_OF_BENTOML = {1: 5, 16: 7, 64: 12}
TITLE = "Requests/s, × the ceiling's beside it; p50 / p99; the server's CPU time a request"
REFERENCE_RUN = 5.8
"""What session.run took, in µs, on the machine that the decision path's 12 µs are asked of."""

_OWN = tuple(own.name for own in OWN)


def progress(console: Console, line: Line) -> None:
    """A peer is done."""
    console.print(f"{line.title}: {line.problem or ', '.join(f'×{cell.ratio:.3f}' for cell in line.cells.values())}")


def show(console: Console, name: str, found: Any) -> None:
    """One measurement."""
    if name == "peers":
        header, rows = table(found)
        shown = Table(title=TITLE, show_lines=True)
        for index, column in enumerate(header):
            shown.add_column(column, justify="right" if index else "left")
        for row in rows:
            shown.add_row(*("\n".join(cell) for cell in row))
        console.print(shown)
    for sentence in sentences(name, found):
        console.print(sentence)


def table(lines: Mapping[str, Line]) -> tuple[list[str], list[list[list[str]]]]:
    """The peers: a header, and for each a row of cells, each of one or two lines."""
    counts = [_connections(count) for count in CONNECTIONS]
    many = f"{ASKED} a request, {MANY_CONNECTIONS} connections"
    rows = []
    for line in lines.values():
        cells = [_cell(line.cells[count]) if count in line.cells else [] for count in CONNECTIONS]
        if line.problem:
            cells[0] = [_reason(line.problem)]
        rows.append([[line.title], *cells, [] if line.many is None else _rows(line.many)])
    return ["one worker each", *counts, many], rows


def sentences(name: str, found: Any) -> Iterable[str]:
    """A measurement in words."""
    return _SENTENCES[name](found)


def _reason(problem: str) -> str:
    """The line that says most: the last that names an error, else the last."""
    lines = problem.splitlines()
    return next((line for line in reversed(lines) if "Error: " in line), lines[-1])


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


def _cell(cell: Cell) -> list[str]:
    first = f"{cell.rate:,.0f}/s  ×{cell.ratio:.3f}{_failed(cell)}"
    return [first, f"{cell.p50:.2f} / {cell.p99:.2f} ms, {cell.cpu:,.0f} µs"]


def _rows(cell: Cell) -> list[str]:
    return [f"{cell.rate * ASKED:,.0f} rows/s  ×{cell.ratio:.3f}{_failed(cell)}"]


def _failed(cell: Cell) -> str:
    return f"  {cell.failed} failed" if cell.failed else ""


def of_peers(lines: Mapping[str, Line]) -> Iterable[str]:
    """How the gateway stands to the ceiling and to everybody else."""
    for name in _OWN:
        if name in lines and lines[name].cells:
            yield from _of_gateway(lines[name], lines)


def _of_gateway(own: Line, lines: Mapping[str, Line]) -> Iterable[str]:
    yield f"{own.title}:"
    for count, cell in own.cells.items():
        said = f"  {_connections(count)}: {cell.ratio:.2f} of the ceiling ({ASKED_OF_THE_CEILING} asked)"
        others = {
            line.title: line.cells[count].ratio
            for name, line in lines.items()
            if name not in (*_OWN, "ceiling") and count in line.cells
        }
        if others:
            first = max(others, key=others.__getitem__)
            said += f"; the fastest peer is {first}, {others[first]:.2f} of the ceiling"
        yield said
    if own.many is not None:
        yield f"  {ASKED} observations a request: {own.many.ratio:.2f} of the ceiling's rows/s (0.5 asked)"


def of_bentoml(found: Sequence[Times]) -> Iterable[str]:
    """How the gateway stands to BentoML's own APIs."""
    for own in found:
        yield f"{own.title}, in turns with BentoML's own APIs, times the better one's requests/s:"
        for count, asked in ASKED_OF_BENTOML.items():
            each = ", ".join(f"{name} {times[count]:.1f}" for name, times in own.of.items())
            yield f"  {_connections(count)}: {own.lowest(count):.1f} times ({asked} asked; {each})"


def of_binary(cell: Cell) -> Iterable[str]:
    """Binary rows."""
    yield (
        f"{binary.ROWS} binary rows a request: {cell.rate * binary.ROWS:,.0f} rows/s, {cell.ratio:.2f} of the bare "
        f"app's (0.5 asked){_failed(cell)}"
    )


def of_decision(added: Added) -> Iterable[str]:
    """The decision path."""
    yield (
        f"In process, batch 1: session.run {added.graph_p50:.1f} µs (p99 {added.graph_p99:.1f}), the whole decision "
        f"path {added.path_p50:.1f} (p99 {added.path_p99:.1f}): it adds {added.added_p50:.1f} µs p50 "
        f"(12 asked where session.run takes {REFERENCE_RUN}), {added.added_p10:.1f} p10; in runs of the graph "
        f"{added.added_p50 / added.graph_p50:.1f} ({12 / REFERENCE_RUN:.1f} asked)"
    )


def of_slow(found: Slow) -> Iterable[str]:
    """The slow policy, and the fast one beside it."""
    yield (
        f"A policy of 10 ms + 0.1 ms a row that holds a lock, 64 connections: {found.unbatched:,.0f}/s a request at a "
        f"time, {found.batched:,.0f}/s batched: {found.ratio:.1f} times (35 asked); p99 {found.p99_batches:.1f} batch "
        f"times (3 asked); 1 connection: p50 {found.p50_batched:.1f} ms, unbatched {found.p50_unbatched:.1f}; "
        f"{found.failed} failed"
    )
    if found.mosec is not None:
        yield (f"  mosec, batches of up to 64, 5 ms: {found.mosec:,.0f}/s, {found.mosec / found.unbatched:.1f} times")
    for connections, fast in found.fast.items():
        yield (
            f"A fast policy beside it, {_connections(connections)}: p99 {fast.beside:.2f} ms, alone {fast.alone:.2f}: "
            f"{fast.beside / fast.alone:.1f} times (2 asked); on a gateway of its own beside the same load "
            f"{fast.apart:.2f}"
        )


def of_cores(best: Best) -> Iterable[str]:
    """The ceiling, the gateway and mosec."""
    yield "Both cores, 64 connections, each configuration alone:"
    for name, rate in best.configurations.items():
        yield f"  {name}: {rate:,.0f}/s"
    if best.beside is None:
        yield "  mosec is not installed: run with --install"
        return
    gateway, mosec = best.beside.gateway, best.beside.mosec
    yield (
        f"  best beside best, in turns: gateway {gateway.rate:,.0f}/s (p99 {gateway.p99:.1f} ms), mosec "
        f"{mosec.rate:,.0f}/s (p99 {mosec.p99:.1f} ms): {gateway.ratio:.2f} of mosec"
    )


def of_standing(found: Standing) -> Iterable[str]:
    """Start and weight."""
    starts = {
        "one package": found.single,
        "ten policies from the registry": found.fetching,
        "the same ten, on disk already": found.again,
    }
    for what, start in starts.items():
        yield (
            f"A gateway with {what}: ready {start.ready:.1f} s after its process starts (3 asked), answers for all of "
            f"them after {start.answering:.1f} s; a worker's RSS is {start.megabytes:.0f} MB (250 asked)"
        )


_SENTENCES: dict[str, Callable[[Any], Iterable[str]]] = {
    "peers": of_peers,
    "bentoml": of_bentoml,
    "binary": of_binary,
    "decision": of_decision,
    "slow": of_slow,
    "cores": of_cores,
    "standing": of_standing,
}
