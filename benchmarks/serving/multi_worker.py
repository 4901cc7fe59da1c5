"""Both cores, 64 connections: the ceiling and the gateway with one worker and with two, and mosec at its best."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.serving import virtualenvs
from benchmarks.serving.paired_rounds import Cell, in_turns, of_runs, run, warm_up
from benchmarks.serving.peers.ceiling import Ceiling
from benchmarks.serving.peers.gateway import Gateway
from benchmarks.serving.peers.mosec import Mosec
from benchmarks.serving.peers.peer import Peer
from benchmarks.serving.policy import Policy
from benchmarks.serving.start_peer import Serving, serve

CONNECTIONS = 64
WORKERS = (1, 2)


class Configuration(NamedTuple):
    """mosec's: Python workers, the largest batch, and how long it waits for one, in ms."""

    workers: int
    batch: int
    wait_ms: int


MOSEC = (Configuration(1, 64, 5), Configuration(1, 32, 2), Configuration(2, 32, 5), Configuration(2, 16, 2))


class Beside(msgspec.Struct, frozen=True):
    """The best of each, run in turns: the gateway's `ratio` is of mosec's rate."""

    gateway: Cell
    mosec: Cell


class Best(msgspec.Struct, frozen=True):
    """Each configuration's requests/s, and the best beside the best: None where mosec is not installed."""

    configurations: dict[str, float]
    beside: Beside | None


def cores(policy: Policy, scratch: Path, seconds: float, rounds: int) -> Best:
    """Run each configuration alone, then the best of the gateway's and the best of mosec's in turns."""
    python = virtualenvs.python(Mosec())

    def ours(peer: Peer, workers: int) -> AbstractContextManager[Serving]:
        return serve(peer, policy, scratch, workers=workers)

    def theirs(one: Configuration) -> AbstractContextManager[Serving]:
        return serve(Mosec(one.batch, one.wait_ms), policy, scratch, python or "", one.workers)

    ceilings = {workers: _rate(ours(Ceiling(), workers), seconds) for workers in WORKERS}
    gateways = {workers: _rate(ours(Gateway(), workers), seconds) for workers in WORKERS}
    peers = {one: _rate(theirs(one), seconds) for one in MOSEC} if python else {}
    named = {f"the ceiling, workers: {workers}": rate for workers, rate in ceilings.items()}
    named |= {f"gateway, workers: {workers}": rate for workers, rate in gateways.items()}
    named |= {f"mosec, {one.workers} x {one.batch}, {one.wait_ms} ms": rate for one, rate in peers.items()}
    if not peers:
        return Best(named, None)
    with (
        theirs(max(peers, key=peers.__getitem__)) as best,
        ours(Gateway(), max(gateways, key=gateways.__getitem__)) as gateway,
    ):
        target, beside = gateway.one(), best.one()
        for one in (target, beside):
            warm_up(one, CONNECTIONS)
        cell, runs = in_turns(beside, target, CONNECTIONS, seconds, rounds)
    return Best(named, Beside(cell, of_runs(runs, [1.0])))


def _rate(serving: AbstractContextManager[Serving], seconds: float) -> float:
    with serving as one:
        target = one.one()
        warm_up(target, CONNECTIONS)
        return run(target, CONNECTIONS, seconds).load.rate
