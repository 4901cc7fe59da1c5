"""The follower: keeps each policy's route what the registry says, from what this gateway could load and verify."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bentos import logs
from bentos.assignment import Canary, parse
from bentos.faults import QUARANTINE
from bentos.package import PackageError, Policy, load
from bentos.quarantine import Mark, Suspect
from bentos.registry import ROUTABLE, Picture, Registry, RegistryDown
from bentos.routes import Route
from bentos.versions import Version, same_questions

_ENDED = ("rolled_back", "inconclusive")
_RETRY_SECONDS = 30.0
_REFRESH_POLLS = 5
_START_TIMEOUT = 1.5
_RETIRE_SECONDS = 60.0

BuildVersion = Callable[[str, str, Policy, str], Version]
Refused = Callable[[str, str, str, str], None]
Withdrawn = Callable[[str, str | None, Canary | None, dict[str, Version]], frozenset[str]]
Quarantined = Callable[[str], bool]


class Draining(msgspec.Struct, frozen=True):
    """A version that gets no new traffic but answers its running episodes until `until` (Unix seconds)."""

    package_sha256: str
    until: float


class LastGood(msgspec.Struct):
    """What a gateway keeps on disk to start without the registry."""

    pictures: list[Picture] = []
    draining: dict[str, dict[str, Draining]] = {}
    serving: dict[str, tuple[str, str]] = {}
    """The champion that answers, by policy: version and package digest."""


class Plan(msgspec.Struct, frozen=True):
    """What a picture asks of a gateway: versions to load, who is champion, the canary, and what is refused and why."""

    champion: str | None
    canary: Canary | None
    wanted: tuple[str, ...]
    refused: dict[str, str]
    problem: str | None


def plan(picture: Picture, quarantined: Quarantined = lambda digest: False) -> Plan:
    """Read a picture. An alias moved by hand cannot skip the gates: only approved and promoted versions are routed.

    `quarantined` says which packages (by digest) must not be loaded, unless they were promoted all the same: a
    champion is trusted with more than a newcomer.

    A version that ended its canary otherwise is still loaded when it is the newest there is, so that its spec's
    fallback can answer where there is no champion.
    """
    wanted: list[str] = []
    refused: dict[str, str] = {}
    problem: str | None = None
    canary: Canary | None = None
    if picture.canary:
        try:
            canary = parse(picture.canary)
        except (ValueError, msgspec.MsgspecError) as error:
            problem = f"the canary tag does not fit: {error}"
    named = [picture.champion, picture.previous, picture.challenger, canary.version if canary else None]
    for version in [*named, picture.newest]:
        if version is None or version in wanted or version in refused:
            continue
        tags = picture.versions.get(version, {})
        status = tags.get("validation_status", "none")
        if status != "promoted" and quarantined(_digest(picture, version)):
            refused[version] = QUARANTINE
        elif status in ROUTABLE or (status in _ENDED and version == picture.newest):
            wanted.append(version)
        elif version in named:
            refused[version] = f"validation_status is {status}; only {' and '.join(ROUTABLE)} versions are routed"
    champion = picture.champion
    if canary is not None and canary.champion != champion:
        problem = f"the canary was started against champion {canary.champion}, the champion now is {champion}"
        canary = None
    if canary is not None:
        status = picture.versions.get(canary.version, {}).get("validation_status", "none")
        if status not in ROUTABLE:
            problem = f"the canary's version {canary.version} is {status}"
            canary = None
        elif canary.version in refused:
            problem, canary = refused[canary.version], None
    return Plan(champion, canary, tuple(wanted), refused, problem)


class Follower:
    """Polls the registry, loads versions off the event loop, and swaps routes atomically."""

    def __init__(
        self,
        registry: Registry,
        directory: Path,
        *,
        build: BuildVersion,
        routed: Callable[[Route], None],
        dropped: Callable[[str], None],
        refused: Refused,
        withdrawn: Withdrawn,
        quarantined: Quarantined,
        mark: Callable[[Suspect], Mark | None],
        unmark: Callable[[Suspect], None],
    ) -> None:
        """`build` makes a Version from a verified package (in a thread); `routed` and `dropped` hear of routes.

        `refused` hears once of each version that is not routed; `withdrawn` names the versions that must not decide,
        `quarantined` says which packages must not even be loaded. What is not promoted is on probation: it is loaded,
        and decides, under its `mark`, until `unmark`.
        """
        self._registry = registry
        self._packages = directory / "packages"
        self._packages.mkdir(parents=True, exist_ok=True)
        self._file = directory / "state.json"
        self._build = build
        self._routed = routed
        self._dropped = dropped
        self._refuse = refused
        self._withdrawn = withdrawn
        self._quarantined = quarantined
        self._mark = mark
        self._unmark = unmark
        self._pictures: dict[str, Picture] = {}
        self._loaded: dict[str, dict[str, Version]] = {}
        self._draining: dict[str, dict[str, Draining]] = {}
        self._serving: dict[str, tuple[str, str]] = {}
        self._reasons: dict[tuple[str, str, str], tuple[str, float]] = {}
        self._loading: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._routes: dict[str, Route] = {}
        self._polls = 0
        self._written = b""
        self.seen_at: float | None = None
        self.ok = False

    async def start(self) -> None:
        """Serve what was served last, then what the registry says, if it answers soon."""
        last = self._recall()
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

    async def stop(self) -> None:
        """End loads under way and release what is loaded."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for versions in self._loaded.values():
            for version in versions.values():
                version.close()
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
        for policy in set(self._pictures) - {picture.policy for picture in pictures}:
            self._forget(policy)
        self._expire()
        self._remember()

    def reroute(self, policy: str) -> None:
        """Look at a policy's route again: a fault event or a breaker changed who may decide."""
        if policy in self._pictures:
            self._take(self._pictures[policy])

    def _take(self, picture: Picture) -> None:
        self._pictures[picture.policy] = picture
        asked = plan(picture, self._quarantined)
        for version in asked.wanted:
            self._want(picture, version)
        serving = self._serving.get(picture.policy)
        for version in {*self._draining.get(picture.policy, {}), *([serving[0]] if serving else [])}:
            if version not in asked.wanted:
                self._want(picture, version)
        for version, reason in asked.refused.items():
            if version not in self._loaded.get(picture.policy, {}):  # else it was routable, and is draining
                self._note_refusal(picture.policy, version, _digest(picture, version), reason)
        self._route(picture.policy)

    def _want(self, picture: Picture, version: str) -> None:
        policy = picture.policy
        tags = picture.versions.get(version, {})
        digest = tags.get("package_sha256") or self._digest_of_old(policy, version)
        have = self._loaded.get(policy, {}).get(version)
        if (have is not None and have.package_sha256 == digest) or (policy, version) in self._loading:
            return
        promoted = tags.get("validation_status") == "promoted"
        if self._quarantined(digest) and not promoted:
            return
        reason = self._reasons.get((policy, version, digest))
        if reason is not None and time.monotonic() - reason[1] < _RETRY_SECONDS:
            return
        mark = None if promoted else self._mark(Suspect(policy, version, digest))
        task = asyncio.create_task(self._load(policy, version, tags.get("package_uri", ""), digest, mark))
        self._loading[policy, version] = task

    def _digest_of_old(self, policy: str, version: str) -> str:
        draining = self._draining.get(policy, {}).get(version)
        name, digest = self._serving.get(policy, ("", ""))
        return draining.package_sha256 if draining else digest if name == version else ""

    async def _load(self, policy: str, version: str, uri: str, digest: str, mark: Mark | None) -> None:
        try:
            if not digest:
                raise PackageError("the version has no package_sha256 tag")
            directory = await self._registry.fetch_package(uri, digest, self._packages)
            built = await asyncio.to_thread(self._assemble, policy, version, directory, digest, mark)
        except PackageError as error:
            self._unmark(Suspect(policy, version, digest))
            self._note_refusal(policy, version, digest, str(error))
        except (RegistryDown, OSError) as error:
            self._unmark(Suspect(policy, version, digest))
            logs.warning("package not fetched", policy=policy, version=version, detail=str(error))
        else:
            replaced = self._loaded.setdefault(policy, {}).get(version)
            self._loaded[policy][version] = built
            self._reasons.pop((policy, version, digest), None)
            if replaced is not None:
                self._unload(policy, replaced)
            logs.info("version loaded", policy=policy, version=version, package_sha256=digest)
        finally:
            self._loading.pop((policy, version), None)
        if policy in self._pictures:
            self._route(policy)

    def _assemble(self, policy: str, version: str, directory: Path, digest: str, mark: Mark | None) -> Version:
        with mark or contextlib.nullcontext():
            package = load(directory, digest)
            if package.manifest.name != policy:
                raise PackageError(f"the package is of policy {package.manifest.name!r}, not of {policy!r}")
            built = self._build(policy, version, package, digest)
        built.infer.mark = mark
        return built

    def _note_refusal(self, policy: str, version: str, digest: str, reason: str) -> None:
        known = self._reasons.get((policy, version, digest))
        self._reasons[policy, version, digest] = (reason, time.monotonic())
        if known is None or known[0] != reason:
            logs.warning("version refused", policy=policy, version=version, package_sha256=digest, detail=reason)
            self._refuse(policy, version, digest, reason)

    def _route(self, policy: str) -> None:
        """Build the policy's route from its picture and what is loaded, and swap it in if anything changed."""
        picture = self._pictures[policy]
        asked = plan(picture, self._quarantined)
        loaded = self._loaded.get(policy, {})
        fitting = _fitting(picture, loaded)
        old = self._routes.get(policy)
        champion = self._champion(policy, asked, fitting, old)
        self._trust(picture, loaded, champion)
        self._drain(policy, asked, loaded, champion)
        canary, problem = asked.canary, asked.problem
        if canary is not None:
            challenger = fitting.get(canary.version)
            if challenger is None or (champion.name if champion else None) != canary.champion:
                canary = None
            elif champion is not None and not same_questions(champion.manifest, challenger.manifest):
                problem = f"version {canary.version} has other observation or action spaces than the champion"
                canary = None
        provider = loaded.get(asked.canary.version) if asked.canary else None
        if provider is None and loaded:
            provider = loaded[max(loaded, key=_number)]
        route = Route(
            policy,
            champion=champion,
            previous=picture.previous,
            canary=canary,
            versions=dict(loaded),
            withdrawn=self._withdrawn(policy, champion.name if champion else None, canary, loaded),
            provider=provider,
            shown=self._shown(picture, asked, problem),
        )
        if old is None or not _same(old, route):
            self._routes[policy] = route
            self._routed(route)
            logs.info(
                "route changed",
                policy=policy,
                champion=champion.name if champion else None,
                canary=canary.document() if canary else None,
                withdrawn=sorted(route.withdrawn),
                versions={name: one["status"] for name, one in route.shown.items()},
            )

    def _champion(self, policy: str, asked: Plan, fitting: dict[str, Version], old: Route | None) -> Version | None:
        """The champion to route: the registry's, or the last good one for as long as that cannot answer."""
        if asked.champion is None:
            self._serving.pop(policy, None)
            return None
        champion = None if asked.champion in asked.refused else fitting.get(asked.champion)
        if champion is None and old is not None:
            champion = old.champion
        if champion is None and policy in self._serving:
            champion = self._loaded.get(policy, {}).get(self._serving[policy][0])
        if champion is not None:
            self._serving[policy] = (champion.name, champion.package_sha256)
        return champion

    def _trust(self, picture: Picture, loaded: dict[str, Version], champion: Version | None) -> None:
        """End the probation of versions that were promoted: a worker that dies while they are at work is no news."""
        for name, version in loaded.items():
            promoted = picture.versions.get(name, {}).get("validation_status") == "promoted"
            if (promoted or version is champion) and version.infer.mark is not None:
                version.infer.mark = None
                self._unmark(Suspect(picture.policy, name, version.package_sha256))

    def _drain(self, policy: str, asked: Plan, loaded: dict[str, Version], champion: Version | None) -> None:
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
                version = self._loaded.get(policy, {}).pop(name, None)
                if policy in self._pictures:
                    self._route(policy)
                if version is not None:
                    self._unload(policy, version)
                    logs.info("version unloaded", policy=policy, version=name)

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
        for version in self._loaded.pop(policy, {}).values():
            self._unload(policy, version)
        self._dropped(policy)
        logs.info("policy gone", policy=policy)

    def _unload(self, policy: str, version: Version) -> None:
        """Close a version once the requests that already hold its route are surely done."""
        self._unmark(Suspect(policy, version.name, version.package_sha256))
        asyncio.get_running_loop().call_later(_RETIRE_SECONDS, version.close)

    def _shown(self, picture: Picture, asked: Plan, problem: str | None) -> dict[str, dict[str, Any]]:
        shown: dict[str, dict[str, Any]] = {}
        loaded = self._loaded.get(picture.policy, {})
        fitting = _fitting(picture, loaded)
        for name in sorted({*asked.wanted, *asked.refused, *loaded}, key=_number):
            digest = _digest(picture, name)
            reason = self._reasons.get((picture.policy, name, digest))
            entry: dict[str, Any] = {"status": "loading", "package_sha256": digest}
            if name in asked.refused and self._quarantined(digest):
                entry = {"status": "quarantined", "package_sha256": digest, "reason": asked.refused[name]}
            elif name in fitting and name not in asked.refused:
                entry = {"status": "ready", "package_sha256": loaded[name].package_sha256, **loaded[name].remarks}
            elif reason is not None:
                entry = {"status": "refused", "package_sha256": digest, "reason": reason[0]}
            entry["validation_status"] = picture.versions.get(name, {}).get("validation_status", "none")
            if problem and asked.canary and name == asked.canary.version:
                entry["reason"] = problem
            shown[name] = entry
        return shown

    async def _settle(self) -> None:
        while self._loading:
            await asyncio.wait(self._loading.values())

    def _recall(self) -> LastGood:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=LastGood)
        except FileNotFoundError:
            return LastGood()
        except (OSError, msgspec.MsgspecError) as error:
            logs.warning("last good state not readable", detail=str(error))
            return LastGood()

    def _remember(self) -> None:
        state = msgspec.json.encode(LastGood(list(self._pictures.values()), self._draining, self._serving))
        if state == self._written:
            return
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            draft.write_bytes(state)
            draft.replace(self._file)
        except OSError as error:
            logs.warning("last good state not written", detail=str(error))
        else:
            self._written = state


def _digest(picture: Picture, version: str) -> str:
    return picture.versions.get(version, {}).get("package_sha256", "")


def _fitting(picture: Picture, loaded: dict[str, Version]) -> dict[str, Version]:
    """The loaded versions whose package is the one that the registry names now (drained ones it no longer tells of)."""
    return {
        name: version
        for name, version in loaded.items()
        if name not in picture.versions or version.package_sha256 == _digest(picture, name)
    }


def _number(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (-1, version)


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
