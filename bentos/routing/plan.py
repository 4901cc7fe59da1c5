"""The plan: what the registry's picture of a policy asks of a gateway."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bentos.canary import Canary, parse
from bentos.routing.faults import QUARANTINE
from bentos.routing.registry import ROUTABLE, Picture

_ENDED = ("rolled_back", "inconclusive")

Quarantined = Callable[[str], bool]
"""Whether a package, by its digest, must not be loaded."""


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
        if status in ROUTABLE or (status in _ENDED and version == picture.newest):
            if status != "promoted" and quarantined(digest_of(picture, version)):
                refused[version] = QUARANTINE
            else:
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


def digest_of(picture: Picture, version: str) -> str:
    """The digest that the registry names for a version; empty where it names none."""
    return picture.versions.get(version, {}).get("package_sha256", "")
