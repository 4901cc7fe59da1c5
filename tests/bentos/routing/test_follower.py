"""The follower by itself, on a registry that answers at once: what stays loaded, and what must not be loaded at all."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from bentos.gateway.assign import Assign
from bentos.package.manifest import Outcomes
from bentos.package.session import Policy
from bentos.routing import follower, peers
from bentos.routing.fault_reports import FaultReports
from bentos.routing.faults import Event, Faults
from bentos.routing.follower import Follower
from bentos.routing.loader import Loader
from bentos.routing.package_cache import PackageCache
from bentos.routing.peers import Peers
from bentos.routing.registry import Picture
from bentos.routing.route import Route
from bentos.routing.state import Kept
from bentos.routing.version import Version
from bentos.rows import Rows
from bentos.runners import settled
from bentos.runners.crash_marks import Mark, Marks, Suspect, living
from bentos.store.overrides import Overrides
from bentos.telemetry.counters import Stats
from tests.bentos.policy_packages import constant_graph, write_package

TTL = Outcomes(return_range=(0, 500), abandoned_return=0, episode_ttl_seconds=0.01)


class Registry:
    """Says what it is told to say; its packages are on this disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.picture = Picture("p", None, None, None, None, None, {})

    def say(self, statuses: dict[str, str], **about: Any) -> None:
        """The versions by status, packages made as needed, and the aliases."""
        versions = {}
        for version, status in statuses.items():
            package = self.directory / version
            digest = write_package(package, name="p", graph=constant_graph(1), outcomes=TTL)
            versions[version] = {"validation_status": status, "package_sha256": digest, "package_uri": str(package)}
        told = {"champion": None, "previous": None, "challenger": None, "canary": None, **about}
        self.picture = Picture("p", newest=max(statuses), versions=versions, **told)

    async def pictures(self, refresh: bool) -> list[Picture]:
        return [self.picture]

    async def fetch_package(self, uri: str, package_sha256: str, cache: Path) -> Path:
        return Path(uri) if uri else self.directory / "1"

    async def close(self) -> None:
        pass


class Gateway:
    """What a worker keeps around its follower."""

    def __init__(self, directory: Path, registry: Registry, faults: Faults | None = None) -> None:
        self.routes: dict[str, Route] = {}
        self.faults = faults or Faults()
        worker = f"w{os.urandom(4).hex()}"
        self.marks = Marks(directory / "marks", worker)
        self.loaded: list[str] = []
        self.marked: dict[str, Mark | None] = {}
        peers = Peers(directory / "peers", worker, lambda: living(directory / "marks"), grace=0)
        packages = PackageCache(directory / "packages")
        loader = Loader(registry, packages, peers, self.marks, self, mock.Mock(spec=FaultReports))  # type: ignore[arg-type]
        self.follower = Follower(
            registry,  # type: ignore[arg-type]
            Kept(directory / "state.json"),
            peers,
            loader,
            self.faults,
            self,
        )

    def route(self, route: Route) -> None:
        self.routes[route.policy] = route

    def drop(self, policy: str) -> None:
        self.routes.pop(policy, None)

    def build(self, policy: str, version: str, package: Policy, digest: str) -> Version:
        self.loaded.append(version)
        built = Version(
            version,
            package,
            digest,
            stats=Stats(),
            overrides=Overrides(),
            champion=lambda: self.routes["p"].champion,
            opened=lambda broken, reason: None,
        )
        self.marked[version] = self.marks._marks.get(Suspect(policy, version, digest))
        return built

    async def polled(self, times: int = 2) -> Route:
        """The route after some polls."""
        for _ in range(times):
            await self.follower.poll()
            await self.follower._settle()
        return self.routes["p"]


@pytest.fixture
def world(tmp_path: Path) -> tuple[Registry, Callable[..., Gateway]]:
    registry = Registry(tmp_path / "packages")
    return registry, lambda faults=None: Gateway(tmp_path / "gateway", registry, faults)


async def answer(route: Route) -> tuple[list[int], list[str], list[str | None]]:
    rows = Rows(feeds={"observation": np.zeros((1, 4), np.float32)}, size=1)
    assign = Assign(route)
    decision = await settled(assign.decide(rows, assign.seats(rows, None)))
    return decision.action.tolist(), decision.sources, decision.versions


def canary(version: str, champion: str | None = "1", started_at: float = 0.0) -> str:
    about = {"generation": "g", "champion": champion, "version": version, "weight": 0.5, "salt": "00"}
    return json.dumps({**about, "started_at": started_at})


World = tuple[Registry, Callable[..., Gateway]]


def test_without_a_champion_the_last_version_that_has_a_fallback_is_never_unloaded(world: World) -> None:
    """Not after its episodes' time, not by a newer one that was rejected, and not by a restart."""
    registry, start = world

    async def scenario() -> None:
        registry.say({"1": "inconclusive"})
        gateway = start()
        await gateway.polled()
        registry.say({"2": "rejected"})
        await gateway.polled()
        await asyncio.sleep(0.05)
        assert await answer(await gateway.polled()) == ([0], ["fallback"], [None])
        gateway.marks.close()
        again = start()
        await again.follower.start()
        assert await answer(await again.polled()) == ([0], ["fallback"], [None])
        registry.say({"2": "rejected", "3": "promoted"}, champion="3")
        route = await again.polled(3)
        assert await answer(route) == ([1], ["policy"], ["3"])
        assert set(route.versions) == {"3"}, "with a champion nobody needs it"

    asyncio.run(scenario())


def test_nobody_gets_an_episode_of_a_version_before_all_workers_have_it(world: World) -> None:
    """Be it a canary's or a new champion's; one that starts does not go back, one that is gone is not waited for."""
    registry, start = world

    async def settled_on(gateway: Gateway, champion: str, challenger: str | None) -> None:
        route = gateway.routes["p"]
        while (route.champion.name, route.canary and route.canary.version) != (champion, challenger):
            await asyncio.sleep(0.01)
            route = gateway.routes["p"]

    async def scenario() -> None:
        registry.say({"1": "promoted"}, champion="1")
        one, other = start(), start()
        await one.follower.start()
        await other.follower.start()
        registry.say({"1": "promoted", "2": "approved"}, champion="1", canary=canary("2"))
        route = await one.polled()
        assert ("2" in route.versions, route.canary) == (True, None)
        route = await other.polled()
        assert route.canary is not None
        await settled_on(one, "1", "2")

        registry.say({"1": "promoted", "2": "inconclusive", "3": "promoted"}, champion="3", previous="1")
        route = await one.polled()
        assert ("3" in route.versions, route.champion.name) == (True, "1")
        starting = start()
        await starting.follower.start()
        assert starting.routes["p"].champion.name == "1"
        await other.polled()
        for gateway in (one, other, starting):
            await settled_on(gateway, "3", None)

        registry.say({"3": "promoted", "4": "promoted"}, champion="4", previous="3")
        for gateway in (other, starting):
            gateway.marks.close()
        route = await one.polled()
        assert route.champion is not None
        assert route.champion.name == "4"

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_a_worker_that_never_loads_a_version_is_not_waited_for_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, start = world

    async def scenario() -> None:
        registry.say({"1": "promoted"}, champion="1")
        one, stuck = start(), start()
        await one.follower.start()
        await stuck.follower.start()
        registry.say({"1": "promoted", "2": "promoted"}, champion="2", previous="1")
        assert (await one.polled()).champion.name == "1"  # type: ignore[union-attr]
        monkeypatch.setattr(peers, "PATIENCE_SECONDS", 0.0)
        one.follower.reroute("p")
        assert one.routes["p"].champion.name == "2"  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_newcomers_are_loaded_and_decide_under_a_mark_until_they_are_promoted(world: World) -> None:
    registry, start = world

    async def scenario() -> None:
        registry.say({"1": "promoted", "2": "approved"}, champion="1", canary=canary("2"))
        gateway = start()
        route = await gateway.polled()
        assert [version for version, mark in gateway.marked.items() if mark is not None] == ["2"]
        assert route.versions["1"].infer.mark is None
        assert route.versions["2"].infer.mark is gateway.marked["2"]
        registry.say({"1": "promoted", "2": "promoted"}, champion="2", previous="1")
        route = await gateway.polled()
        assert route.versions["2"].infer.mark is None

    asyncio.run(scenario())


def test_a_quarantined_package_leaves_its_running_episodes_to_the_champion_and_is_never_loaded_again(
    world: World,
) -> None:
    registry, start = world

    async def scenario() -> None:
        registry.say({"1": "promoted", "2": "approved"}, champion="1", canary=canary("2"))
        gateway = start()
        route = await gateway.polled()
        digest = route.versions["2"].package_sha256
        for worker in ("w1", "w2"):
            gateway.faults.note(Event("p", "2", digest, "killed_worker", 1.0, worker))
        gateway.follower.reroute("p")
        route = gateway.routes["p"]
        assert (route.canary, route.withdrawn) == (None, {"2"})
        assert (route.shown["2"]["status"], "quarantined" in route.shown["2"]["reason"]) == ("quarantined", True)
        gateway.marks.close()
        again = start(gateway.faults)
        await again.follower.start()
        route = await again.polled()
        assert again.loaded == ["1"]
        assert route.shown["2"]["status"] == "quarantined"

    asyncio.run(scenario())


def test_the_first_release_that_is_quarantined_still_lends_its_fallback_unopened(world: World) -> None:
    registry, start = world

    async def scenario() -> None:
        registry.say({"1": "approved"}, canary=canary("1", champion=None))
        digest = registry.picture.versions["1"]["package_sha256"]
        gateway = start()
        for worker in ("w1", "w2"):
            gateway.faults.note(Event("p", "1", digest, "killed_worker", 1.0, worker))
        route = await gateway.polled()
        assert (route.shown["1"]["status"], route.withdrawn) == ("quarantined", {"1"})
        assert route.versions["1"].unopened
        assert await answer(route) == ([0], ["fallback"], [None])
        registry.say({"1": "promoted"}, champion="1")
        route = await gateway.polled()
        assert not route.versions["1"].unopened, "a person trusts it"
        assert await answer(route) == ([1], ["policy"], ["1"])

    asyncio.run(scenario())


def test_the_last_good_state_is_whole_at_every_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed while writing it leaves the one before, and no draft is ever taken for it."""
    registry, start = world

    async def scenario() -> None:
        registry.say({"1": "promoted"}, champion="1")
        gateway = start()
        await gateway.polled()
        registry.say({"1": "promoted", "2": "promoted"}, champion="2", previous="1")

        def killed(draft: Path, target: Path) -> None:
            draft.write_bytes(draft.read_bytes()[:20])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                await gateway.polled()
        registry.picture = registry.picture.__class__("q", None, None, None, None, None, {})
        gateway.marks.close()
        again = start()
        monkeypatch.setattr(follower.Follower, "poll", lambda self: asyncio.sleep(0))
        await again.follower.start()
        champion = again.routes["p"].champion
        assert champion is not None
        assert champion.name == "1"

    asyncio.run(scenario())
