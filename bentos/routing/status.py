"""What a gateway shows of a policy's versions: which are loaded, refused or quarantined, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bentos.routing.plan import Plan, Quarantined, digest_of
from bentos.routing.registry import Picture
from bentos.routing.version import Version

Reason = Callable[[str, str, str], str | None]
"""Why a version (policy, version, package digest) is refused, if it is."""


def shown(
    picture: Picture,
    asked: Plan,
    loaded: Mapping[str, Version],
    quarantined: Quarantined,
    reason: Reason,
    problem: str | None,
) -> dict[str, dict[str, Any]]:
    """The state of each version for people; `problem` is the canary's."""
    found: dict[str, dict[str, Any]] = {}
    fits = fitting(picture, loaded)
    for name in sorted({*asked.wanted, *asked.refused, *loaded}, key=number):
        digest = digest_of(picture, name)
        why = reason(picture.policy, name, digest)
        entry: dict[str, Any] = {"status": "loading", "package_sha256": digest}
        if name in asked.refused and quarantined(digest):
            entry = {"status": "quarantined", "package_sha256": digest, "reason": asked.refused[name]}
        elif name in fits and name not in asked.refused:
            entry = {"status": "ready", "package_sha256": loaded[name].package_sha256, **loaded[name].remarks}
        elif why is not None:
            entry = {"status": "refused", "package_sha256": digest, "reason": why}
        entry["validation_status"] = picture.versions.get(name, {}).get("validation_status", "none")
        if problem and asked.canary and name == asked.canary.version:
            entry["reason"] = problem
        found[name] = entry
    return found


def fitting(picture: Picture, loaded: Mapping[str, Version]) -> dict[str, Version]:
    """The loaded versions whose package is the one that the registry names now (drained ones it no longer tells of)."""
    return {
        name: version
        for name, version in loaded.items()
        if name not in picture.versions or version.package_sha256 == digest_of(picture, name)
    }


def number(version: str) -> tuple[int, str]:
    """Sorts the registry's numbers as numbers, anything else before them."""
    return (int(version), "") if version.isdecimal() else (-1, version)
