"""Aliases that somebody moved by hand in MLflow: found by comparing the registry with what Airlock last wrote.

Gateways follow such a move within their poll, and it may be what a person wanted: nothing is moved back. It is noticed
once: an event in the audit log, a tag of the version, and the end of a canary whose champion is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tasks.control.lease import LeaseHeld
from tasks.control.plane import ControlPlane
from tasks.tracking.client import RegistryRefused, RegistryUnavailable

log = logging.getLogger(__name__)


def notice_all(policies: Iterable[str], who: str) -> dict[str, list[str]]:
    """What `notice` says of each policy, where it says anything. Nothing is said of those that MLflow does not tell."""
    found = {}
    for policy in policies:
        try:
            found[policy] = notice(policy, who)
        except (RegistryUnavailable, RegistryRefused) as error:
            log.warning("aliases of %s could not be compared: %s", policy, error)
    return {policy: moves for policy, moves in found.items() if moves}


def notice(policy: str, who: str = "monitor") -> list[str]:
    """Take note of the moves of `champion` and `previous` since the last time; a sentence each, [] where there is none.

    Somebody who changes the policy right now (a release, a drill) is left alone: the next call will see. Raises
    RegistryUnavailable and RegistryRefused.
    """
    control = ControlPlane(who, wait=0.0)
    try:
        moves = control.notice_moves(policy)
    except LeaseHeld as busy:
        log.info("aliases of %s were not compared: %s", policy, busy)
        return []
    for sentence in moves:
        log.warning("%s: %s", policy, sentence)
    return moves
