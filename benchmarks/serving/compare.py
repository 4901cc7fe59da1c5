"""The comparison: every peer beside the ceiling at 1, 16 and 64 connections, one observation a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.serving import virtualenvs
from benchmarks.serving.paired_rounds import Cell, Run, in_turns, of_runs, warm_up
from benchmarks.serving.peers.peer import Peer
from benchmarks.serving.peers.table import CEILING
from benchmarks.serving.policy import Policy
from benchmarks.serving.server import NotServing
from benchmarks.serving.start_peer import serve

CONNECTIONS = (1, 16, 64)
MANY_CONNECTIONS = 16


class Line(msgspec.Struct):
    """What a peer reached, by number of connections, and with many observations a request; `problem` says why not."""

    title: str
    cells: dict[int, Cell] = {}
    many: Cell | None = None
    problem: str | None = None


def compare(
    peers: Sequence[Peer], policy: Policy, scratch: Path, seconds: float, rounds: int, say: Callable[[Line], None]
) -> dict[str, Line]:
    """Measure the peers one after the other; `say` hears of each when it is done."""
    found: dict[str, Line] = {}
    runs: dict[int, list[Run]] = {connections: [] for connections in CONNECTIONS}
    many: list[Run] = []
    with serve(CEILING, policy, scratch) as ceiling:
        beside = ceiling.one()
        warm_up(beside)
        for peer in peers:
            line = found[peer.name] = Line(peer.title)
            if peer.name == CEILING.name:
                continue
            python = virtualenvs.python(peer)
            if python is None:
                line.problem = "not installed: run with --install"
                continue
            try:
                with serve(peer, policy, scratch, python) as serving:
                    target = serving.one()
                    warm_up(target)
                    for connections in CONNECTIONS:
                        cell, around = in_turns(beside, target, connections, seconds, rounds)
                        line.cells[connections] = cell
                        runs[connections] += around
                    if peer.many_path is not None:
                        together = serving.many()
                        line.many, around = in_turns(ceiling.many(), together, MANY_CONNECTIONS, seconds, rounds)
                        many += around
            except NotServing as error:
                line.problem = str(error)
            say(line)
        if CEILING.name in found:
            found[CEILING.name].many = of_runs(many, [1.0]) if many else None
            found[CEILING.name].cells = {
                connections: of_runs(around, [1.0]) for connections, around in runs.items() if around
            }
    return found
