"""A gateway's inner parts in the test's own process: a champion and a challenger in a canary, over a real store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bentos.canary import Canary
from bentos.gateway.engine import Core
from bentos.gateway.episodes import Reports
from bentos.gateway.schemas import ActRequest, EpisodesRequest, Outcome, Started
from bentos.package.loader import load
from bentos.routing.route import Route
from bentos.store.journal import Journal
from bentos.store.overrides import Overrides
from bentos.store.writer import Writer
from bentos.tokens import Signer
from tests.bentos.policy_packages import discrete_graph, write_package

GENERATION = "g1"
BREAKS = [10.0, 0.0, 0.0, 0.0]
"""An observation for which the challenger's output is not finite."""

FINE = [0.0, 0.0, 0.0, 0.1]


class Desk:
    """Champion `1` and challenger `2`, each with half of all episodes; the challenger fails on `BREAKS`."""

    def __init__(self, directory: Path, database: str, **package: Any) -> None:
        self.journal = Journal()
        self.writer = Writer(database, self.journal.events)
        self.core = Core(Signer("key"), self.writer, Overrides(), self.journal)
        self.reports = Reports(self.core)
        overflowing = discrete_graph([[3e38, 0], [0, 0], [-1, 1], [-1, 1]], [0, 0])
        versions = {}
        for name, graph in (("1", None), ("2", overflowing)):
            digest = write_package(directory / name, graph=graph, **package)
            versions[name] = self.core.build("cartpole", name, load(directory / name), digest)
        route = Route(
            "cartpole",
            champion=versions["1"],
            previous=None,
            canary=Canary(GENERATION, "1", "2", 0.5, "00" * 8),
            versions=versions,
            withdrawn=frozenset(),
            provider=None,
            shown={},
        )
        self.core.route(route)

    async def start(self, count: int, **request: Any) -> list[Started]:
        """Start episodes of no user."""
        return await self.reports.start_episodes("cartpole", EpisodesRequest(user_ids=[None] * count, **request))

    async def act(self, episode: Started, observation: list[float], **request: Any) -> Any:
        """One decision of an episode."""
        asked = ActRequest(observation=observation, episode_id=episode.episode_id, **request)
        return await self.core.act("cartpole", asked)

    async def end(self, episode: Started, value: float = 1.0) -> dict[str, int]:
        """Report an episode's return."""
        return await self.reports.outcomes("cartpole", [Outcome(episode.episode_id, value, 1)])

    async def write(self) -> None:
        """Bring the journal to the store, as the gateway's loop does every second."""
        await self.writer.flush_events()
        while len(self.journal.log):
            await self.writer.call(self.journal.log.write, later=True)
            self.journal.log.written()

    async def run(self, work: Callable[[Desk], Awaitable[Any]]) -> Any:
        """What `work` answers; the store is closed afterwards."""
        try:
            return await work(self)
        finally:
            self.writer.close()
