"""Rounds: the ceiling before and after every run of a peer, so that each ratio is of neighbours in time."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from benchmarks.serving import wrk
from benchmarks.serving.server import Server
from benchmarks.serving.wrk import Load, Posts

WARM_UP_SECONDS = 1.0


class Target(NamedTuple):
    """A server and what is posted to it."""

    server: Server
    posts: Posts


class Run(NamedTuple):
    """What a run saw from outside, and the CPU time that the server spent on each request, in µs."""

    load: Load
    cpu: float


class Cell(msgspec.Struct, frozen=True):
    """Medians over rounds at one number of connections: requests/s, latencies in ms, and the ratio to the ceiling.

    `cpu` is the server's CPU time a request in µs: what a busy machine moves least. `failed` is the number of requests,
    of all rounds, that were not answered with 2xx.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    ratio: float
    failed: int
    ratios: list[float]


def of_runs(runs: Sequence[Run], ratios: Sequence[float]) -> Cell:
    """The medians of runs."""
    return Cell(
        rate=statistics.median(run.load.rate for run in runs),
        p50=statistics.median(run.load.p50 for run in runs),
        p99=statistics.median(run.load.p99 for run in runs),
        cpu=statistics.median(run.cpu for run in runs),
        ratio=statistics.median(ratios),
        failed=sum(run.load.failed for run in runs),
        ratios=[round(ratio, 4) for ratio in ratios],
    )


def in_turns(ceiling: Target, peer: Target, connections: int, seconds: float, rounds: int) -> tuple[Cell, list[Run]]:
    """Load the ceiling and a peer in turns; the peer's cell, and the ceiling's runs beside it."""
    beside = [run(ceiling, connections, seconds)]
    runs: list[Run] = []
    for _ in range(rounds):
        runs.append(run(peer, connections, seconds))
        beside.append(run(ceiling, connections, seconds))
    neighbours = [(before.load.rate + after.load.rate) / 2 for before, after in itertools.pairwise(beside)]
    ratios = [one.load.rate / around for one, around in zip(runs, neighbours, strict=True)]
    return of_runs(runs, ratios), beside


def run(target: Target, connections: int, seconds: float) -> Run:
    """Load one server once."""
    before = target.server.cpu_seconds()
    load = wrk.run(target.posts, connections, seconds)
    spent = target.server.cpu_seconds() - before
    return Run(load, spent * 1e6 / max(load.answered, 1))


def warm_up(target: Target, connections: int = 16) -> None:
    """A server's first second is not measured."""
    wrk.run(target.posts, connections, WARM_UP_SECONDS)
