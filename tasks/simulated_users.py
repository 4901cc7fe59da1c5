"""Simulated users of a release: they play the policy's environment through the gateway while its canary runs."""

from __future__ import annotations

from typing import Any

from bentos import home
from tasks.runs import Release

TRAFFIC = "canary/traffic.json"


def simulate(release: Release) -> dict[str, Any]:
    """Play until the canary ended, if the release asks for simulated users. Counts and latencies go to the run.

    Runs beside the canary, never inside a trigger; a release with real users asks for none and gets `{"users": 0}`.
    """
    users = release.params.simulate_users
    if users == 0:
        return {"users": 0}
    from tasks.traffic import play

    result = play(
        release.policy, home.gateway_url(), concurrency=users, until_canary_ends=True, seed=release.spec.train.seed
    )
    release.put_json(TRAFFIC, result)
    return {"users": users, **{key: result[key] for key in ("requests", "decisions", "failures") if key in result}}
