"""What so many decisions a second need: `python -m benchmarks.capacity`, from measured costs, by simulation.

Events are simulated one by one, since what hurts is the tail: requests queue for the gateway's workers, outcomes for a
group commit. `--measure` measures here what an outcome costs, in CPU time, which a busy machine tells as well as an
idle one. The simulation is held against theory, and against what was measured, in `tests/benchmarks/test_capacity.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from bentos.store.writer import Writer

Floats = npt.NDArray[np.float64]
Service = Callable[[np.random.Generator, int], Floats]

RATES = (10.0, 1_000.0, 100_000.0)
"""Decisions a second."""

UTILISATION = 0.6
"""How busy workers may be: the rest is for bursts, and for those that are away."""

SIMULATED = 100_000
DAY = 86_400


@dataclass(frozen=True)
class Costs:
    """What one thing costs, in CPU seconds but for `commit` (seconds that a transaction takes, however many rows)."""

    request: float = 229e-6
    row: float = 9.2e-6
    outcome: float = 60e-6
    commit: float = 3e-3
    decisions_per_episode: float = 200.0
    bytes_per_outcome: float = 700.0


COSTS = Costs()
"""As measured on 2 shared cores: see docs/scale.md."""


def constant(seconds: float) -> Service:
    """Every request takes as long."""
    return lambda _random, count: np.full(count, seconds)


def exponential(mean: float) -> Service:
    """A memoryless service."""
    return lambda random, count: random.exponential(mean, count)


def open_queue(
    rate: float, service: Service, workers: int, count: int = SIMULATED, seed: int = 0, burst: int = 1
) -> Floats:
    """Latencies in seconds [count] of requests that come at random (Poisson, `rate` a second, `burst` at a time).

    They wait in one line for the first of `workers` that is free, as connections in a listening socket do.
    """
    random = np.random.default_rng(seed)
    gaps = random.exponential(burst / rate, math.ceil(count / burst))
    arrivals = np.repeat(np.cumsum(gaps), burst)[:count]
    lasting = service(random, count)
    free = [0.0] * workers
    latency = np.empty(count)
    for place in range(count):
        begun = max(arrivals[place], heapq.heappop(free))
        heapq.heappush(free, begun + lasting[place])
        latency[place] = begun + lasting[place] - arrivals[place]
    return latency


def closed_queue(
    connections: int, service: Service, workers: int, count: int = SIMULATED, seed: int = 0
) -> tuple[float, Floats]:
    """Requests a second, and latencies in seconds [count], of connections that each ask again once answered."""
    random = np.random.default_rng(seed)
    lasting = service(random, count)
    asked = [0.0] * connections
    free = [0.0] * workers
    latency = np.empty(count)
    for place in range(count):
        arrival = heapq.heappop(asked)
        ended = max(arrival, heapq.heappop(free)) + lasting[place]
        heapq.heappush(free, ended)
        heapq.heappush(asked, ended)
        latency[place] = ended - arrival
    return count / max(free), latency


def group_commit(rate: float, commit: float, row: float, most: int, count: int = SIMULATED, seed: int = 0) -> Floats:
    """Latencies in seconds [count] of rows that a single writer commits, each time all that wait (at most `most`)."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, count))
    latency = np.empty(count)
    done, clock = 0, 0.0
    while done < count:
        clock = max(clock, arrivals[done])
        upto = min(int(np.searchsorted(arrivals, clock, side="right")), done + most)
        clock += commit + row * (upto - done)
        latency[done:upto] = clock - arrivals[done:upto]
        done = upto
    return latency


@dataclass(frozen=True)
class Need:
    """What a rate needs. Latencies are p99 in ms; `bytes_a_day` of outcomes with their episodes."""

    rate: float
    rows_per_request: int
    workers: int
    latency_ms: float
    latency_one_away_ms: float
    outcomes: float
    commit_ms: float
    bytes_a_day: float


def need(rate: float, rows_per_request: int, costs: Costs = COSTS) -> Need:
    """Workers for `rate` decisions a second, asked so many at a time, and what becomes of the tail."""
    each = costs.request + costs.row * (rows_per_request - 1)
    requests = rate / rows_per_request
    workers = max(2, math.ceil(requests * each / UTILISATION))
    service = constant(each)
    outcomes = rate / costs.decisions_per_episode
    writers = max(1, math.ceil(workers / 4))
    stored = group_commit(outcomes / writers, costs.commit, costs.outcome, 1000, count=min(SIMULATED, 20_000))
    return Need(
        rate,
        rows_per_request,
        workers,
        1000 * float(np.quantile(open_queue(requests, service, workers), 0.99)),
        1000 * float(np.quantile(open_queue(requests, service, workers - 1), 0.99)),
        outcomes,
        1000 * float(np.quantile(stored, 0.99)),
        outcomes * costs.bytes_per_outcome * DAY,
    )


def measure(url: str, rows: int = 4000, company: int = 256) -> tuple[float, float]:
    """CPU seconds an outcome, `company` requests at a time, and the seconds that a lone outcome waits (median)."""

    def outcome(name: str) -> dict[str, object]:
        told = {"episode": name, "policy": "p", "generation": "", "arm": "champion", "version": "1", "length": 200}
        return {**told, "episode_return": 1.0, "kind": "reported", "recorded_at": time.time()}

    async def store() -> tuple[float, float]:
        writer = Writer(url)
        try:
            lone = []
            for number in range(30):
                began = time.perf_counter()
                await writer.outcomes([outcome(f"lone-{number}")])
                lone.append(time.perf_counter() - began)
            spent = time.process_time()
            for first in range(0, rows, company):
                names = [f"{first}-{number}" for number in range(company)]
                await asyncio.gather(*(writer.outcomes([outcome(name)]) for name in names))
            return (time.process_time() - spent) / (math.ceil(rows / company) * company), float(np.median(lone))
        finally:
            writer.close()

    return asyncio.run(store())


def main() -> None:
    """Print the plan, or the costs of this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="the costs of an outcome here, instead of the plan")
    parser.add_argument("--database", help="its URL (SQLite in a temporary directory by default)")
    given = parser.parse_args()
    out = Console(width=120)
    if given.measure:
        with tempfile.TemporaryDirectory() as directory:
            cpu, lone = measure(given.database or f"sqlite:///{Path(directory) / 'airlock.db'}")
        out.print(
            f"{1e6 * cpu:.0f} µs of the gateway's CPU an outcome in company; a lone one waits {1e3 * lone:.1f} ms"
        )
        return
    table = Table(title=f"workers at most {UTILISATION:.0%} busy; p99 in ms")
    names = ("decisions/s", "a request", "workers", "p99", "one away", "outcomes/s", "p99 to commit", "GB a day")
    for name in names:
        table.add_column(name, justify="right")
    for rate in RATES:
        for rows in (1, 64) if rate >= 1000 else (1,):
            one = need(rate, rows)
            figures = (one.latency_ms, one.latency_one_away_ms)
            table.add_row(
                f"{rate:,.0f}",
                f"{rows}",
                f"{one.workers:,}",
                *(f"{figure:.2f}" for figure in figures),
                f"{one.outcomes:g}",
                f"{one.commit_ms:.1f}",
                f"{one.bytes_a_day / 1e9:.2f}",
            )
    out.print(table)


if __name__ == "__main__":
    main()
