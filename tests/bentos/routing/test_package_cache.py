"""The package cache: bounded, and never without what is routed or may have to be."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

import pytest

from bentos.routing.package_cache import REST_SECONDS, PackageCache
from bentos.routing.registry import Picture
from tests.bentos.policy_packages import constant_graph, write_package
from tests.bentos.routing.test_follower import TTL, Gateway, Registry

HOUR = 3600.0


def package(cache: PackageCache, name: str, hours_ago: float, size: int = 100) -> Path:
    """A package of so many bytes that was last used then."""
    directory = cache.directory / name
    directory.mkdir()
    (directory / "policy.onnx").write_bytes(b"0" * size)
    at = time.time() - hours_ago * HOUR
    os.utime(directory, (at, at))
    return directory


def test_what_was_used_longest_ago_goes_first_until_the_rest_fits(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "packages", most_bytes=250)
    for name, hours in (("b", 9), ("a", 8), ("d", 7), ("c", 6)):
        package(cache, name, hours)
    cache.used(tmp_path / "packages" / "b")
    assert cache.evict(()) == ["a", "d"]
    assert {entry.name for entry in cache.directory.iterdir()} == {"b", "c"}
    assert cache.evict(()) == [], "what fits stays, however old"


def test_what_is_needed_or_was_used_a_moment_ago_stays_even_where_it_is_too_much(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "packages", most_bytes=0)
    for name, hours in (("champion", 99), ("old", 98), ("young", 0.5 * REST_SECONDS / HOUR)):
        package(cache, name, hours)
    assert cache.evict({"champion"}) == ["old"]
    assert {entry.name for entry in cache.directory.iterdir()} == {"champion", "young"}


def test_downloads_that_were_killed_leave_nothing(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "packages")
    package(cache, ".half", 2)
    package(cache, ".running", 0)
    assert cache.evict(()) == []
    assert {entry.name for entry in cache.directory.iterdir()} == {".running"}


class Source(Registry):
    """A registry whose packages are copied into the cache, as downloads are."""

    def promoted(self, champion: str, previous: str | None) -> None:
        """Say who is champion and who was before; each version has a package of its own."""
        versions = {}
        for version in filter(None, (previous, champion)):
            package = self.directory / version
            digest = write_package(package, name="p", graph=constant_graph(int(version)), outcomes=TTL)
            versions[version] = {"validation_status": "promoted", "package_sha256": digest, "package_uri": str(package)}
        self.picture = Picture("p", champion, previous, None, champion, None, versions)

    async def fetch_package(self, uri: str, package_sha256: str, cache: Path) -> Path:
        return Path(shutil.copytree(uri, cache / package_sha256, dirs_exist_ok=True))


def test_a_gateway_keeps_what_the_registry_names_and_what_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_CACHE_MB", "0")
    monkeypatch.setattr("bentos.routing.package_cache.REST_SECONDS", -1.0)
    registry = Source(tmp_path / "source")
    gateway = Gateway(tmp_path, registry)
    named: dict[str, str] = {}

    async def release() -> list[set[str]]:
        found = []
        for champion, previous in (("1", None), ("2", "1"), ("3", "2")):
            registry.promoted(champion, previous)
            named.update({tags["package_sha256"]: name for name, tags in registry.picture.versions.items()})
            await gateway.polled(times=3)
            found.append({named[entry.name] for entry in (tmp_path / "packages").iterdir()})
        await asyncio.sleep(2 * TTL.episode_ttl_seconds)
        await gateway.polled()  # version 1 has drained
        await gateway.follower.stop()
        return found

    first, second, third = asyncio.run(release())
    assert (first, second) == ({"1"}, {"1", "2"})
    assert third == {"1", "2", "3"}, "version 1 still answers while the next is loaded"
    cache = PackageCache(tmp_path / "packages")
    needed = gateway.follower._needed()
    assert {named[digest] for digest in cache.evict(needed)} == {"1"}
    assert {named[entry.name] for entry in cache.directory.iterdir()} == {"2", "3"}
