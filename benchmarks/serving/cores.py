"""Both cores, 64 connections: the gateway with two workers beside mosec, in whichever configuration is its best."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.serving import environments
from benchmarks.serving.peers.gateway import Gateway
from benchmarks.serving.peers.mosec import Mosec
from benchmarks.serving.policy import Policy
from benchmarks.serving.rounds import Cell, in_turns, of_runs, run, warm_up
from benchmarks.serving.serving import Serving, serve

CONNECTIONS = 64
GATEWAY_WORKERS = (1, 2)


class Configuration(NamedTuple):
    """mosec's: Python workers, the largest batch, and how long it waits for one, in ms."""

    workers: int
    batch: int
    wait_ms: int


MOSEC = (Configuration(1, 64, 5), Configuration(1, 32, 2), Configuration(2, 32, 5), Configuration(2, 16, 2))


class Best(msgspec.Struct, frozen=True):
    """Each configuration's rate, and the gateway's best beside mosec's best: `ratio` is of runs in turns."""

    configurations: dict[str, float]
    gateway: Cell
    mosec: Cell


def cores(policy: Policy, scratch: Path, seconds: float, rounds: int) -> Best | None:
    """Find each one's best configuration, then run the two in turns. None where mosec is not installed."""
    python = environments.python(Mosec())
    if python is None:
        return None

    def mosec(one: Configuration) -> AbstractContextManager[Serving]:
        return serve(Mosec(one.batch, one.wait_ms), policy, scratch, python, one.workers)

    def gateway(workers: int) -> AbstractContextManager[Serving]:
        return serve(Gateway(), policy, scratch, workers=workers)

    peers = {one: _rate(mosec(one), seconds) for one in MOSEC}
    gateways = {workers: _rate(gateway(workers), seconds) for workers in GATEWAY_WORKERS}
    with mosec(max(peers, key=peers.__getitem__)) as best, gateway(max(gateways, key=gateways.__getitem__)) as ours:
        ceiling, target = best.one(), ours.one()
        for one in (ceiling, target):
            warm_up(one, CONNECTIONS)
        cell, beside = in_turns(ceiling, target, CONNECTIONS, seconds, rounds)
    named = {f"mosec, {one.workers} x {one.batch}, {one.wait_ms} ms": rate for one, rate in peers.items()}
    named |= {f"gateway, workers: {workers}": rate for workers, rate in gateways.items()}
    return Best(named, cell, of_runs(beside, [1.0]))


def _rate(serving: AbstractContextManager[Serving], seconds: float) -> float:
    with serving as one:
        target = one.one()
        warm_up(target, CONNECTIONS)
        return run(target, CONNECTIONS, seconds).load.rate
