"""The loader: fetches, verifies and builds the versions that the registry names, and remembers which it refused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from bentos import logs
from bentos.package.digests import read_manifest
from bentos.package.loader import Unopened, load
from bentos.package.manifest import PackageError
from bentos.package.session import Policy
from bentos.routing import faults
from bentos.routing.fault_reports import FaultReports
from bentos.routing.package_cache import PackageCache
from bentos.routing.peers import Peers
from bentos.routing.registry import Registry, RegistryDown
from bentos.routing.version import Version
from bentos.runners.crash_marks import Mark, Marks, Suspect

_RETRY_SECONDS = 30.0
_RETIRE_SECONDS = 60.0


class Builder(Protocol):
    """Makes a version of a policy from its verified package."""

    def build(self, policy: str, version: str, package: Policy, digest: str) -> Version:
        """Called in a thread. Raises PackageError for a package that must not be served."""
        ...


class Wanted(NamedTuple):
    """A version to be loaded: where its package is and what it must be (SHA-256).

    `promoted`: it is trusted. What is not promoted is on probation: it is loaded, and decides, under a crash mark.
    `quarantined`: its graph must not be opened; only the fallback of its spec is of use.
    """

    policy: str
    version: str
    uri: str
    package_sha256: str
    promoted: bool
    quarantined: bool


class Loader:
    """The loaded versions of all policies. The follower decides what is loaded, routed and unloaded."""

    def __init__(
        self,
        registry: Registry,
        packages: PackageCache,
        peers: Peers,
        marks: Marks,
        builder: Builder,
        reports: FaultReports,
    ) -> None:
        """`peers` are told of each version that was loaded or refused; `reports` of each refusal, once."""
        self._registry = registry
        self._packages = packages
        self._peers = peers
        self._marks = marks
        self._builder = builder
        self._reports = reports
        self._loaded: dict[str, dict[str, Version]] = {}
        self._refusals: dict[str, tuple[str, float]] = {}

    def loaded(self, policy: str) -> Mapping[str, Version]:
        """The loaded versions of a policy, by name."""
        return self._loaded.get(policy, {})

    def needs(self, wanted: Wanted) -> bool:
        """Whether a version is to be loaded now: it is not loaded as it is wanted, and was not refused a moment ago."""
        have = self.loaded(wanted.policy).get(wanted.version)
        fits = have is not None and have.package_sha256 == wanted.package_sha256
        if have is not None and fits and (wanted.quarantined or not have.unopened):
            return False
        refusal = self._refusals.get(_key(wanted.policy, wanted.version, wanted.package_sha256))
        return refusal is None or time.monotonic() - refusal[1] >= _RETRY_SECONDS

    async def load(self, wanted: Wanted) -> None:
        """Load a version, or remember why not; with the registry down neither."""
        policy, version, digest = wanted.policy, wanted.version, wanted.package_sha256
        suspect = Suspect(policy, version, digest)
        mark = None if wanted.promoted or wanted.quarantined else self._marks.of(suspect)
        try:
            if not digest:
                raise PackageError("the version has no package_sha256 tag")
            directory = await self._registry.fetch_package(wanted.uri, digest, self._packages.directory)
            self._packages.used(directory)
            built = await asyncio.to_thread(self._build, wanted, mark, directory)
        except PackageError as error:
            self._marks.release(suspect)
            self.refuse(policy, version, digest, str(error))
        except (RegistryDown, OSError) as error:
            self._marks.release(suspect)
            logs.warning("package not fetched", policy=policy, version=version, detail=str(error))
        else:
            replaced = self._loaded.setdefault(policy, {}).get(version)
            self._loaded[policy][version] = built
            self._refusals.pop(_key(policy, version, digest), None)
            if replaced is not None:
                self._retire(policy, replaced)
            self._peers.done(_key(policy, version, digest))
            logs.info("version loaded", policy=policy, version=version, package_sha256=digest)

    def _build(self, wanted: Wanted, mark: Mark | None, directory: Path) -> Version:
        """A version from its package's directory, made under its mark; a quarantined one for its fallback alone."""
        digest = wanted.package_sha256
        with mark or contextlib.nullcontext():
            package = (
                Unopened(directory, read_manifest(directory, digest))
                if wanted.quarantined
                else load(directory, digest, provider=None)
            )
            if package.manifest.name != wanted.policy:
                raise PackageError(f"the package is of policy {package.manifest.name!r}, not of {wanted.policy!r}")
            built = self._builder.build(wanted.policy, wanted.version, package, digest)
        built.infer.mark = mark
        return built

    def refuse(self, policy: str, version: str, digest: str, reason: str) -> None:
        """Remember why a version is not routed. A new reason is logged and reported."""
        key = _key(policy, version, digest)
        known = self._refusals.get(key)
        self._refusals[key] = (reason, time.monotonic())
        self._peers.done(key)
        if known is None or known[0] != reason:
            logs.warning("version refused", policy=policy, version=version, package_sha256=digest, detail=reason)
            self._reports.report(policy, version, digest, faults.REFUSED, reason)

    def refusal(self, policy: str, version: str, digest: str) -> str | None:
        """Why a version is refused, if it is."""
        refusal = self._refusals.get(_key(policy, version, digest))
        return None if refusal is None else refusal[0]

    def everywhere(self, policy: str, version: Version, elsewhere: bool) -> bool:
        """Whether all workers have loaded or refused a version; `elsewhere`: those of other gateways, too."""
        return self._peers.everywhere(_key(policy, version.name, version.package_sha256), elsewhere)

    def trust(self, policy: str, version: Version) -> None:
        """End a version's probation: a worker that dies while it is at work is not its fault any more."""
        if version.infer.mark is not None:
            version.infer.mark = None
            self._marks.release(Suspect(policy, version.name, version.package_sha256))

    def unload(self, policy: str, version: str) -> None:
        """Forget a version, and close it once the requests that hold its route are surely done."""
        gone = self._loaded.get(policy, {}).pop(version, None)
        if gone is not None:
            self._retire(policy, gone)
            logs.info("version unloaded", policy=policy, version=version)

    def forget(self, policy: str) -> None:
        """Unload all versions of a policy that the registry no longer has."""
        for version in self._loaded.pop(policy, {}).values():
            self._retire(policy, version)

    def close(self) -> None:
        """Close all versions."""
        for versions in self._loaded.values():
            for version in versions.values():
                version.close()

    async def evict(self, needed: set[str]) -> None:
        """Remove packages from a disk cache that is too large, but for those of loaded versions and `needed`."""
        keep = needed | {version.package_sha256 for loaded in self._loaded.values() for version in loaded.values()}
        for gone in await asyncio.to_thread(self._packages.evict, keep):
            logs.info("package evicted", package_sha256=gone)

    def _retire(self, policy: str, version: Version) -> None:
        self._marks.release(Suspect(policy, version.name, version.package_sha256))
        self._peers.forget(_key(policy, version.name, version.package_sha256))
        asyncio.get_running_loop().call_later(_RETIRE_SECONDS, version.close)


def _key(policy: str, version: str, digest: str) -> str:
    """What a version is called among the workers."""
    return f"{policy}/{version}/{digest}"
