"""Production in one process: a real package, explored by the real gateway's core, its episodes in the real tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from bentos.gateway.engine import Core
from bentos.gateway.episodes import Reports
from bentos.gateway.schemas import ActRequest, EpisodesRequest, Reward
from bentos.package.digests import write_manifest
from bentos.package.loader import load
from bentos.package.manifest import Manifest, Serve
from bentos.server.single import Package, route
from bentos.store import tables
from bentos.store.journal import Journal
from bentos.store.overrides import Overrides
from bentos.store.writer import Writer
from bentos.tokens import Signer
from tasks.build.packaging.delivery import Order, deliver
from tasks.build.training.environments import make
from tasks.sandbox import Limits
from tasks.spec.sections import PolicySpec

Report = Callable[[float], float]
"""What a client says of a reward: itself, if it is honest."""


def exploring_package(zip_path: Path, directory: Path, spec: PolicySpec) -> Manifest:
    """A package of an SB3 zip that is served as the spec says, exploring."""
    order = Order(
        zip_path,
        directory,
        algorithm=spec.train.algorithm,
        environment=spec.environment.id,
        name=spec.name,
        limits=Limits(seconds=3_600, memory_mb=8_000),
    )
    deliver(order, lambda line: None)
    manifest = load(directory).manifest
    serve = Serve(explore=True, deadline_ms=60_000, fallback=dict(spec.serve.fallback))
    # the graph that is served otherwise is cut to the best action: drawing needs the whole one
    manifest = msgspec.structs.replace(manifest, serve=serve, served={})
    write_manifest(directory, manifest)
    return manifest


class Production:
    """One gateway with one version, and clients that tell it of every step."""

    def __init__(self, package: Path, database: str, version: str = "1") -> None:
        tables.connect(database)
        self._journal = Journal()
        self._writer = Writer(database, self._journal.events)
        self._core = Core(Signer("benchmark"), self._writer, Overrides(), self._journal)
        self._core.route(route(self._core, Package(package, version)))
        self._reports = Reports(self._core)
        (self._policy,) = self._core.routes

    def play(self, spec: PolicySpec, seeds: range, say: Report = lambda reward: reward) -> npt.NDArray[np.float64]:
        """Play an episode a seed, all at once, and log them; the true returns, float64 [seeds]."""
        return asyncio.run(self._play(spec, seeds, say))

    def close(self) -> None:
        """Write what waits, and stop."""
        self._writer.close()

    async def _play(self, spec: PolicySpec, seeds: range, say: Report) -> npt.NDArray[np.float64]:
        environments = [make(spec.environment) for _ in seeds]
        observed: list[Any] = [one.reset(seed=seed)[0] for one, seed in zip(environments, seeds, strict=True)]
        started = await self._reports.start_episodes(self._policy, EpisodesRequest(user_ids=[None] * len(seeds)))
        ids = [one.episode_id for one in started]
        returns = np.zeros(len(seeds))
        running, step = list(range(len(seeds))), 0
        while running:
            request = ActRequest(
                observations=[observed[one].tolist() for one in running], episode_ids=[ids[one] for one in running]
            )
            answer: Any = await self._core.act(self._policy, request)
            told, following = [], []
            for one, action in zip(running, answer.actions, strict=True):
                space = environments[one].action_space
                taken = np.asarray(action, dtype=space.dtype).reshape(space.shape)
                observed[one], reward, terminated, truncated, _ = environments[one].step(taken)
                returns[one] += reward
                told.append(Reward(ids[one], step, say(float(reward)), terminated, truncated, observed[one].tolist()))
                if not (terminated or truncated):
                    following.append(one)
            await self._reports.rewards(self._policy, told)
            running, step = following, step + 1
        while len(self._journal.log):
            await self._writer.call(self._journal.log.write, later=True)
            self._journal.log.written()
        for environment in environments:
            environment.close()
        return returns
