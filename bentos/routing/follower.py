"""The follower: keeps each policy's route what the registry says, from what this gateway could load and verify."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from bentos import logs
from bentos.routing.faults import QUARANTINE, Faults
from bentos.routing.loader import Loader, Wanted
from bentos.routing.peers import Peers
from bentos.routing.plan import Plan, digest_of, plan
from bentos.routing.registry import Picture, Registry, RegistryDown
from bentos.routing.route import Route
from bentos.routing.state import Draining, Kept, LastGood
from bentos.routing.status import fitting, number, shown
from bentos.routing.version import Version, same_questions

_REFRESH_POLLS = 5
_START_TIMEOUT = 1.5
_LOOK_SECONDS = 0.1
"""How soon it is looked again whether the other workers have loaded what is to be routed."""


class Routing(Protocol):
    """What decides by the routes that are followed."""

    def route(self, route: Route) -> None:
        """Take over a policy's new route."""
        ...

    def drop(self, policy: str) -> None:
        """Forget a policy that the registry no longer has."""
        ...


class Follower:
    """Polls the registry, has versions loaded off the event loop, and swaps routes atomically."""

    def __init__(
        self, registry: Registry, last_good: Kept, peers: Peers, loader: Loader, faults: Faults, routing: Routing
    ) -> None:
        """`peers` are the other workers: a version gets no new episodes before they are done loading it.

        `faults` says which packages must not even be loaded, and which versions must not decide.
        """
        self._registry = registry
        self._kept = last_good
        self._peers = peers
        self._loader = loader
        self._faults = faults
        self._routing = routing
        self._pictures: dict[str, Picture] = {}
        self._draining: dict[str, dict[str, Draining]] = {}
        self._serving: dict[str, tuple[str, str]] = {}
        self._loading: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._first: list[asyncio.Task[None]] = []
        self._routes: dict[str, Route] = {}
        self._looks: dict[str, asyncio.TimerHandle] = {}
        self._polls = 0
        self.seen_at: float | None = None
        self.ok = False

    async def start(self) -> None:
        """Serve what was served last, then what the registry says, if it answers soon."""
        last = self._kept.read()
        self._draining, self._serving = last.draining, last.serving
        for picture in last.pictures:
            self._take(picture)
        await self._settle()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await self.poll()
                await self._settle()
        except TimeoutError:
            logs.warning("registry slow", detail=f"no answer within {_START_TIMEOUT} s; starting with what was known")
        self._peers.started()

    async def stop(self) -> None:
        """End loads under way and release what is loaded."""
        for look in self._looks.values():
            look.cancel()
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        self._loader.close()
        self._peers.close()
        await self._registry.close()

    async def poll(self) -> None:
        """Look at the registry once. With it down everything stays as it is."""
        try:
            pictures = await self._registry.pictures(refresh=self._polls % _REFRESH_POLLS == 0)
        except RegistryDown as error:
            if self.ok or self.seen_at is None:
                logs.warning("registry down", detail=str(error))
            self.ok = False
            self.seen_at = self.seen_at or 0.0
            self._expire()
            return
        self._polls += 1
        if not self.ok:
            logs.info("registry answers", policies=len(pictures))
        self.ok, self.seen_at = True, time.time()
        for picture in pictures:
            self._take(picture)
        if self._polls == 1:
            self._first = list(self._loading.values())
        for policy in set(self._pictures) - {picture.policy for picture in pictures}:
            self._forget(policy)
        self._expire()
        self._kept.write(LastGood(list(self._pictures.values()), self._draining, self._serving))

    @property
    def beginning(self) -> bool:
        """Whether what the registry's first answer asked for still is being loaded."""
        return any(not load.done() for load in self._first)

    def reroute(self, policy: str) -> None:
        """Look at a policy's route again: a fault event or a breaker changed who may decide."""
        if policy in self._pictures:
            self._take(self._pictures[policy])

    def _take(self, picture: Picture) -> None:
        policy = picture.policy
        self._pictures[policy] = picture
        asked = plan(picture, self._faults.quarantined)
        for version in asked.wanted:
            self._want(picture, version)
        serving = self._serving.get(policy)
        for version in {*self._draining.get(policy, {}), *([serving[0]] if serving else [])}:
            if version not in asked.wanted:
                self._want(picture, version)
        if asked.champion is None and picture.newest and asked.refused.get(picture.newest) == QUARANTINE:
            self._want(picture, picture.newest)  # at least its fallback
        for version, reason in asked.refused.items():
            if version not in self._loader.loaded(policy):  # else it was routable, and is draining
                self._loader.refuse(policy, version, digest_of(picture, version), reason)
        self._route(policy)

    def _want(self, picture: Picture, version: str) -> None:
        policy = picture.policy
        tags = picture.versions.get(version, {})
        digest = tags.get("package_sha256") or self._digest_of_old(policy, version)
        promoted = tags.get("validation_status") == "promoted"
        quarantined = self._faults.quarantined(digest) and not promoted
        wanted = Wanted(policy, version, tags.get("package_uri", ""), digest, promoted, quarantined)
        if (policy, version) in self._loading or (quarantined and picture.champion is not None):
            return
        if self._loader.needs(wanted):
            self._loading[policy, version] = asyncio.create_task(self._load(wanted))

    def _digest_of_old(self, policy: str, version: str) -> str:
        draining = self._draining.get(policy, {}).get(version)
        name, digest = self._serving.get(policy, ("", ""))
        return draining.package_sha256 if draining else digest if name == version else ""

    async def _load(self, wanted: Wanted) -> None:
        try:
            await self._loader.load(wanted)
        finally:
            self._loading.pop((wanted.policy, wanted.version), None)
        if wanted.policy in self._pictures:
            self._route(wanted.policy)
        await self._loader.evict(self._needed())

    def _needed(self) -> set[str]:
        """The digests of packages that would be loaded after a start, with the registry or without."""
        needed = {one.package_sha256 for draining in self._draining.values() for one in draining.values()}
        needed |= {digest for _, digest in self._serving.values()}
        return needed | {digest_of(seen, version) for seen in self._pictures.values() for version in seen.versions}

    def _route(self, policy: str) -> None:
        """Build the policy's route from its picture and what is loaded, and swap it in if anything changed."""
        picture = self._pictures[policy]
        asked = plan(picture, self._faults.quarantined)
        loaded = self._loader.loaded(policy)
        fits = fitting(picture, loaded)
        old = self._routes.get(policy)
        champion = self._champion(policy, asked, fits, old)
        self._trust(picture, loaded, champion)
        self._drain(policy, asked, loaded, champion)
        canary, problem = asked.canary, asked.problem
        if canary is not None:
            challenger = fits.get(canary.version)
            if challenger is None or (champion.name if champion else None) != canary.champion:
                canary = None
            elif champion is not None and not same_questions(champion.manifest, challenger.manifest):
                problem = f"version {canary.version} has other observation or action spaces than the champion"
                canary = None
            elif not self._everywhere(policy, challenger, elsewhere=True):
                canary = None
        provider = loaded.get(asked.canary.version) if asked.canary else None
        if provider is None and loaded:
            provider = loaded[max(loaded, key=number)]
        route = Route(
            policy,
            champion=champion,
            previous=picture.previous,
            canary=canary,
            versions=dict(loaded),
            withdrawn=self._faults.withdrawn(policy, champion.name if champion else None, canary, loaded),
            provider=provider,
            shown=shown(picture, asked, loaded, self._faults.quarantined, self._loader.refusal, problem),
        )
        if old is None or not _same(old, route):
            self._routes[policy] = route
            self._routing.route(route)
            logs.info(
                "route changed",
                policy=policy,
                champion=champion.name if champion else None,
                canary=canary.document() if canary else None,
                withdrawn=sorted(route.withdrawn),
                versions={name: one["status"] for name, one in route.shown.items()},
            )

    def _champion(self, policy: str, asked: Plan, fits: dict[str, Version], old: Route | None) -> Version | None:
        """The champion to route: the registry's, or the last good one for as long as that cannot answer."""
        if asked.champion is None:
            self._serving.pop(policy, None)
            return None
        champion = None if asked.champion in asked.refused else fits.get(asked.champion)
        last = old.champion if old is not None else None
        if last is None and policy in self._serving:
            last = self._loader.loaded(policy).get(self._serving[policy][0])
        if champion is None or (champion is not last and not self._everywhere(policy, champion, elsewhere=False)):
            champion = last
        if champion is not None:
            self._serving[policy] = (champion.name, champion.package_sha256)
        return champion

    def _everywhere(self, policy: str, version: Version, elsewhere: bool) -> bool:
        """Whether all workers can answer for a version; as long as not, the policy is looked at again soon."""
        if self._loader.everywhere(policy, version, elsewhere):
            return True
        if policy not in self._looks:
            self._looks[policy] = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_again, policy)
        return False

    def _look_again(self, policy: str) -> None:
        del self._looks[policy]
        self.reroute(policy)

    def _trust(self, picture: Picture, loaded: Mapping[str, Version], champion: Version | None) -> None:
        """End the probation of versions that were promoted."""
        for name, version in loaded.items():
            promoted = picture.versions.get(name, {}).get("validation_status") == "promoted"
            if promoted or version is champion:
                self._loader.trust(picture.policy, version)

    def _drain(self, policy: str, asked: Plan, loaded: Mapping[str, Version], champion: Version | None) -> None:
        draining = self._draining.setdefault(policy, {})
        for name, version in loaded.items():
            if name in asked.wanted or version is champion:
                draining.pop(name, None)
            elif name not in draining:
                until = time.time() + version.manifest.outcomes.episode_ttl_seconds
                draining[name] = Draining(version.package_sha256, until)

    def _expire(self) -> None:
        """Unload drained versions whose last episode's time is over."""
        now = time.time()
        for policy, draining in self._draining.items():
            for name in [name for name, one in draining.items() if one.until <= now]:
                if self._is_last_resort(policy, name):
                    continue
                del draining[name]
                self._loader.unload(policy, name)
                if policy in self._pictures:
                    self._route(policy)

    def _is_last_resort(self, policy: str, name: str) -> bool:
        """Whether, without a champion, the version's fallback is what answers: then it stays, whatever its age."""
        route = self._routes.get(policy)
        if route is None or route.champion is not None:
            return False
        return route.provider is None or route.provider.name == name

    def _forget(self, policy: str) -> None:
        del self._pictures[policy]
        self._routes.pop(policy, None)
        self._draining.pop(policy, None)
        self._serving.pop(policy, None)
        self._loader.forget(policy)
        self._routing.drop(policy)
        logs.info("policy gone", policy=policy)

    async def _settle(self) -> None:
        while self._loading:
            await asyncio.wait(self._loading.values())


def _same(old: Route, new: Route) -> bool:
    return (
        old.champion is new.champion
        and old.previous == new.previous
        and old.canary == new.canary
        and old.versions == new.versions
        and old.withdrawn == new.withdrawn
        and old.provider is new.provider
        and old.shown == new.shown
    )
