"""The Bentos that were built on this machine: bounded as gateways' packages are, those built longest ago go first."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from bentos import settings
from bentos.routing.package_cache import REST_SECONDS, configured_bytes
from tasks.control.writes import canary_of
from tasks.tracking.client import RegistryUnavailable
from tasks.tracking.registry import Registry

log = logging.getLogger(__name__)

POLICY = {"airlock": "policy"}
"""The label of a Bento that Airlock built: no other is ever removed."""

_LATEST = "latest"
"""The file in which BentoML keeps the last built version of a name."""

_UNDECIDED = ("candidate", "approved")


class Built(NamedTuple):
    """A Bento in the store: when it was built or found again (Unix seconds), and its size in bytes."""

    at: float
    policy: str
    version: str
    size: int


def bentoml_home() -> Path:
    """Where Bentos are kept: `$BENTOML_HOME`, by default `bentoml/` under Airlock's home."""
    configured = os.environ.get("BENTOML_HOME")
    return Path(configured) if configured else settings.home() / "bentoml"


def bento_path(policy: str, version: str) -> Path:
    """The directory of the built Bento `<policy>:<version>`."""
    return bentoml_home() / "bentos" / policy / version


def label(path: Path, name: str) -> str | None:
    """A label of a built Bento, or None when there is no whole Bento at `path`."""
    try:
        document = yaml.safe_load((path / "bento.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return None
    found = (document or {}).get("labels", {}).get(name)
    return None if found is None else str(found)


def evict(now: float | None = None) -> list[str]:
    """Remove built Bentos, oldest first, until the rest fits into `$AIRLOCK_CACHE_MB`; the tags of those that went.

    What the registry names (aliases, the running canary), what is not decided yet, what was built last of a policy or
    within the hour stays, whatever it takes. Where the registry does not answer, everything stays.
    """
    rested = (time.time() if now is None else now) - REST_SECONDS
    built = sorted(_built())
    total = sum(one.size for one in built)
    gone: list[str] = []
    needed: dict[str, set[str] | None] = {}
    try:
        with Registry() as registry:
            for one in built:
                if total <= configured_bytes():
                    break
                if one.policy not in needed:
                    needed[one.policy] = _needed(registry, one.policy)
                keep = needed[one.policy]
                if keep is None or one.version in keep or one.at >= rested:
                    continue
                shutil.rmtree(bento_path(one.policy, one.version), ignore_errors=True)
                total -= one.size
                gone.append(f"{one.policy}:{one.version}")
    except RegistryUnavailable as error:
        log.warning("built Bentos stay: the registry does not say which are needed (%s)", error)
    return gone


def _built() -> Iterator[Built]:
    for bento in (bentoml_home() / "bentos").glob("*/*/bento.yaml"):
        path = bento.parent
        if label(path, "airlock") == POLICY["airlock"]:
            with contextlib.suppress(OSError):  # another task builds or removes it meanwhile
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                yield Built(path.stat().st_mtime, path.parent.name, path.name, size)


def _needed(registry: Registry, policy: str) -> set[str] | None:
    """The versions whose Bentos stay; None where the registry does not know the policy, so nobody can say."""
    model = registry.model(policy)
    if model is None:
        return None
    keep = {version for version in model.aliases.values() if version}
    keep |= {one.version for one in registry.versions(policy) if one.tags.get("validation_status") in _UNDECIDED}
    canary = canary_of(policy, model)
    if canary is not None:
        keep.add(canary.version)
    latest = bentoml_home() / "bentos" / policy / _LATEST
    return keep | ({latest.read_text().strip()} if latest.is_file() else set())
