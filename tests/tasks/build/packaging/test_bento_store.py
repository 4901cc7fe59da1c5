"""Built Bentos: bounded, and never without what the registry may still need."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType

import pytest
import yaml

from bentos.routing.package_cache import REST_SECONDS
from tasks.build.packaging import bento_store
from tasks.tracking.client import RegistryUnavailable
from tests.tasks.registry_double import RegistryDouble

HOURS = 3600.0


class Shared(RegistryDouble):
    """A registry that may be opened and closed, and may be away."""

    away = False

    def __enter__(self) -> Shared:
        if self.away:
            raise RegistryUnavailable("away")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shared:
    """Knows cartpole with ten versions, of which 2 is champion and 1 previous; nothing may stay that need not."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv("AIRLOCK_CACHE_MB", "0")
    double = Shared()
    monkeypatch.setattr(bento_store, "Registry", lambda: double)
    double.create("cartpole")
    for _ in range(10):
        double.set_version_tag("cartpole", double.create_version("cartpole"), "validation_status", "inconclusive")
    double.set_alias("cartpole", "champion", "2")
    double.set_alias("cartpole", "previous", "1")
    return double


def built(version: str, hours_ago: float = 100.0, policy: str = "cartpole", **labels: str) -> None:
    """A Bento of 1,000 bytes and its description."""
    path = bento_store.bento_path(policy, version)
    (path / "src").mkdir(parents=True)
    (path / "src" / "policy.onnx").write_bytes(b"0" * 1000)
    (path / "bento.yaml").write_text(yaml.safe_dump({"labels": labels or bento_store.POLICY}))
    at = time.time() - hours_ago * HOURS
    os.utime(path, (at, at))


def left(policy: str = "cartpole") -> set[str]:
    return {path.name for path in (bento_store.bentoml_home() / "bentos" / policy).iterdir() if path.is_dir()}


def test_what_the_registry_needs_or_has_not_decided_stays(registry: Shared) -> None:
    for number in range(1, 8):
        built(f"{number}")
    canary = {"generation": "g", "champion": "2", "version": "3", "weight": 0.5, "salt": "0a", "started_at": 1.0}
    registry.set_model_tag("cartpole", "canary", json.dumps(canary))
    registry.set_version_tag("cartpole", "4", "validation_status", "candidate")
    registry.set_version_tag("cartpole", "5", "validation_status", "approved")
    assert bento_store.evict() == ["cartpole:6", "cartpole:7"]
    assert left() == {"1", "2", "3", "4", "5"}


def test_the_oldest_go_first_until_the_rest_fits(registry: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_CACHE_MB", "0.0025")
    for version, hours in (("5", 9), ("4", 8), ("7", 7), ("6", 6)):
        built(version, hours)
    assert bento_store.evict() == ["cartpole:5", "cartpole:4"]
    assert left() == {"6", "7"}
    assert bento_store.evict() == []


def test_what_is_young_what_was_built_last_and_what_is_not_ours_stays(registry: Shared) -> None:
    built("5", 0.5 * REST_SECONDS / HOURS)
    built("6")
    (bento_store.bentoml_home() / "bentos" / "cartpole" / "latest").write_text("6")
    built("7", policy="somebody", owner="else")
    built("8", policy="unknown")
    assert bento_store.evict() == []
    assert (left(), left("somebody"), left("unknown")) == ({"5", "6"}, {"7"}, {"8"})


def test_without_the_registry_all_stay(registry: Shared) -> None:
    built("5")
    registry.away = True
    assert bento_store.evict() == []
    registry.away = False
    assert bento_store.evict() == ["cartpole:5"]
