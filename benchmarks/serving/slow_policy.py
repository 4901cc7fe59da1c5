"""A policy of 10 ms + 0.1 ms a row that answers one call at a time, and a fast policy on the same gateway."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from benchmarks.serving import policy as policies
from benchmarks.serving import virtualenvs, wrk
from benchmarks.serving.apps.slow_session import CALL_SECONDS, ROW_SECONDS
from benchmarks.serving.paired_rounds import WARM_UP_SECONDS, run, warm_up
from benchmarks.serving.peers.gateway import Gateway, command
from benchmarks.serving.peers.mosec import Mosec, MosecBatched
from benchmarks.serving.peers.peer import JSON, Peer, Site, post
from benchmarks.serving.policy import Policy
from benchmarks.serving.server import Launch
from benchmarks.serving.start_peer import Serving, serve
from benchmarks.serving.wrk import Posts

BATCH, CONNECTIONS, FAST_CONNECTIONS = 64, 64, (1, 16)
BATCH_MS = (CALL_SECONDS + ROW_SECONDS * BATCH) * 1e3
DEADLINE_MS = 30_000.0
ROUNDS = 3


class Fast(msgspec.Struct, frozen=True):
    """p99 of the fast policy, in ms: with the gateway to itself, and with the slow policy loaded to its limit.

    `apart` is what the same load does to it on a gateway of its own: that much is the machine's, on whose cores the
    load is made, too. Each is the median of as many runs as `ROUNDS` says, in turns.
    """

    alone: float
    beside: float
    apart: float


class Slow(msgspec.Struct, frozen=True):
    """Requests/s of the slow policy a request at a time and in batches, at 64 connections, and their ratio.

    `p99_batches` is the batched p99 in times of a full batch; `p50_unbatched` and `p50_batched` are at one connection,
    in ms, where a batch of one takes 10.1. `fast` is by the fast policy's number of connections.

    `mosec` is mosec's requests/s, None where it is not among the peers.
    """

    unbatched: float
    batched: float
    ratio: float
    p99_batches: float
    p50_unbatched: float
    p50_batched: float
    failed: int
    fast: dict[int, Fast]
    mosec: float | None


class TwoPolicies(Gateway):
    """The gateway with the slow policy beside the fast one."""

    name = "slow-gateway"

    def __init__(self, package: Path) -> None:
        self._package = package

    def launch(self, site: Site) -> Launch:
        """The benchmark's own service module."""
        whole = super().launch(site)
        served = command(site, "benchmarks.serving.apps.slow_gateway:Gateway")
        return Launch(served, {**whole.environment, "BENCHMARK_SLOW_PACKAGE": str(self._package)})


class SlowMosec(MosecBatched):
    """mosec with the same graph, in batches as large and waited for as long as its documentation has them."""

    name = "slow-mosec"
    many_path = None

    def launch(self, site: Site) -> Launch:
        """Its worker opens the graph that takes its time."""
        whole = super().launch(site)
        return Launch(whole.command, {**whole.environment, "BENCHMARK_SLOW": "1"})


def slow(policy: Policy, scratch: Path, seconds: float, peers: Sequence[Peer] = ()) -> Slow:
    """Measure, mosec too where it is one of the `peers`. Raises NotServing."""
    with _gateway(policy, scratch, 1) as (_, posts):
        unbatched = wrk.run(posts, CONNECTIONS, seconds)
        single = wrk.run(posts, 1, seconds)
    with _gateway(policy, scratch, BATCH) as (serving, posts):
        batched = wrk.run(posts, CONNECTIONS, seconds)
        batch_of_one = wrk.run(posts, 1, seconds)
        aside = scratch / "aside"
        aside.mkdir()
        with serve(Gateway(), policy, aside) as own:
            targets = serving.one().posts, own.one().posts
            fast = {count: _fast(*targets, posts, count, seconds) for count in FAST_CONNECTIONS}
    return Slow(
        unbatched=unbatched.rate,
        batched=batched.rate,
        ratio=batched.rate / unbatched.rate,
        p99_batches=batched.p99 / BATCH_MS,
        p50_unbatched=single.p50,
        p50_batched=batch_of_one.p50,
        failed=sum(load.failed for load in (unbatched, single, batched, batch_of_one)),
        fast=fast,
        mosec=_mosec(policy, scratch, seconds) if any(isinstance(peer, Mosec) for peer in peers) else None,
    )


def _mosec(policy: Policy, scratch: Path, seconds: float) -> float | None:
    """Its requests/s; None where it is not installed."""
    python = virtualenvs.python(SlowMosec())
    if python is None:
        return None
    with serve(SlowMosec(), policy, scratch, python) as serving:
        warm_up(serving.one(), CONNECTIONS)
        return run(serving.one(), CONNECTIONS, seconds).load.rate


@contextmanager
def _gateway(policy: Policy, scratch: Path, batch_size: int) -> Iterator[tuple[Serving, Posts]]:
    package = scratch / f"slow-{batch_size}"
    policies.copy(policy.package, package, "slow", batch_size=batch_size, deadline_ms=DEADLINE_MS)
    with serve(TwoPolicies(package), policy, scratch) as serving:
        fast = serving.one().posts
        posts = Posts(f"{serving.site.url}/v1/policies/slow/act", fast.bodies, JSON)
        serving.server.wait(lambda: _answers(posts))
        wrk.run(posts, CONNECTIONS, WARM_UP_SECONDS)
        yield serving, posts


def _answers(posts: Posts) -> bool:
    try:
        answer = post(posts.url, b'{"observation": [0, 0, 0, 0, 0, 0, 0, 0]}')
    except httpx.HTTPError:
        return False
    return bool(answer["source"] == "policy")


def _fast(posts: Posts, apart: Posts, slow_posts: Posts, connections: int, seconds: float) -> Fast:
    rounds = [
        Fast(
            alone=wrk.run(posts, connections, seconds).p99,
            beside=_beside(slow_posts, posts, connections, seconds),
            apart=_beside(slow_posts, apart, connections, seconds),
        )
        for _ in range(ROUNDS)
    ]
    return Fast(*(statistics.median(column) for column in zip(*map(msgspec.structs.astuple, rounds), strict=True)))


def _beside(slow_posts: Posts, posts: Posts, connections: int, seconds: float) -> float:
    """p99 in ms, while the slow policy is loaded, which begins before and ends after."""
    with ThreadPoolExecutor(1) as executor:
        loading = executor.submit(wrk.run, slow_posts, CONNECTIONS, seconds + 2)
        time.sleep(1.0)
        p99 = wrk.run(posts, connections, seconds).p99
        loading.result()
    return p99
