"""Simulated users of a release: they play the policy's environment through the gateway while its canary runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from bentos import settings
from tasks.tracking.release import Release

TRAFFIC = "canary/traffic.json"
PROGRESS_SECONDS = 5.0

log = logging.getLogger(__name__)


def simulate(release: Release) -> dict[str, Any]:
    """Play until the canary ended, if the release asks for simulated users. Counts and latencies go to the run.

    Runs beside the canary, never inside a trigger; a release with real users asks for none and gets `{"users": 0}`.
    """
    users = release.params.simulate_users
    if users == 0:
        return {"users": 0}
    from tasks.canary.traffic import play

    spoken = time.monotonic()

    def progress(seen: Mapping[str, Any]) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= PROGRESS_SECONDS:
            spoken = time.monotonic()
            log.info("%d episodes, %d decisions, %d failures", seen["episodes"], seen["decisions"], seen["failures"])

    result = play(
        release.policy,
        settings.gateway_url(),
        concurrency=users,
        until_canary_ends=True,
        seed=release.spec.train.seed,
        on_progress=progress,
    )
    release.put_json(TRAFFIC, result)
    return {"users": users, **{key: result[key] for key in ("requests", "decisions", "failures") if key in result}}
