"""The decision path in process: `python -m benchmarks.serving.apps.decision_path PACKAGE CALLS` prints JSON.

The worker is the gateway's own, with its loops running; each call of it stands between two calls of the graph alone.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from time import perf_counter_ns

import msgspec
import numpy as np

from bentos.gateway.gateway import Gateway
from bentos.gateway.schemas import ActRequest
from bentos.package.loader import load
from bentos.server.single import Package
from bentos.server.worker import Worker

WARM_UP = 500


async def measure(package: Path, calls: int) -> dict[str, list[float]]:
    """Microseconds of every call, by what was called."""
    async with Worker().running(Package(package, "1")) as gateway:
        return await _measure(gateway, package, calls)


async def _measure(gateway: Gateway, package: Path, calls: int) -> dict[str, list[float]]:
    policy = load(package)
    name, act, run = policy.manifest.name, gateway.core.act, policy.session.run
    observations = np.random.default_rng(0).normal(size=(64, *policy.manifest.inputs[0].shape)).astype(np.float32)
    requests = [ActRequest(observation=row.tolist()) for row in observations]
    feeds = [{"observation": row[np.newaxis]} for row in observations]
    wanted = ["action", "finite"]
    taken: dict[str, list[float]] = {"session.run": [], "Core.act": []}
    for turn in range(WARM_UP + calls):
        one, feed = requests[turn % 64], feeds[turn % 64]
        start = perf_counter_ns()
        run(wanted, feed)
        between = perf_counter_ns()
        await act(name, one)
        end = perf_counter_ns()
        if turn >= WARM_UP:
            taken["session.run"].append((between - start) / 1e3)
            taken["Core.act"].append((end - between) / 1e3)
    return taken


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(measure(Path(sys.argv[1]), int(sys.argv[2])))))
