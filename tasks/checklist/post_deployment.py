"""The post-deployment checklist: eight checks of the promoted version on the live gateway."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from bentos import settings
from bentos.package.manifest import Manifest
from bentos.package.session import Policy
from bentos.store import tables
from tasks.alerts import readings
from tasks.canary.champion_returns import LATEST
from tasks.checklist import live
from tasks.checklist.alert_drill import alerts_working
from tasks.checklist.load import Load
from tasks.checklist.resources import Sampler
from tasks.checklist.rollback_drill import rollback_tested
from tasks.checklist.types import Finding
from tasks.control.plane import ControlPlane
from tasks.inputs import Inputs
from tasks.tracking.release import Release

PROBE_SECONDS, PATIENCE_SECONDS, PROBE_ROWS, FLUSH_SECONDS = 2.5, 20.0, 16, 4.0
RETURN_SECONDS, SETTLED_SECONDS = 30.0, 3.0
"""How long the next return is waited for while there are too few to tell, and once there are enough."""


@dataclass(frozen=True)
class Observed:
    """What a few seconds of probe load on the live gateway showed, beside all it counted of the version before."""

    counters: dict[str, Any]
    returns: list[float]
    usage: list[live.Usage]
    probes: int
    probe_decisions: int
    failures: list[str]


def checks(
    release: Release, control: ControlPlane, package: Policy, version: str, given: Inputs
) -> dict[str, Callable[[], Finding]]:
    """The checks by id, in order; `given` are inputs that the live gateway is asked with."""
    spec, manifest, url = release.spec, package.manifest, settings.gateway_url()
    look = _once(partial(observe, url, release.policy, version, given))

    def alarm() -> Finding:
        evidence = readings.readings(look().counters)
        return alerts_working(spec, version, evidence, time.time())

    return {
        "latency_sla": lambda: live.latency_sla(look().counters, spec),
        "finite_outputs": lambda: live.finite_outputs(look().counters),
        "action_distribution": lambda: live.action_distribution(look().counters, manifest.baselines["actions"], spec),
        "reward_trend": lambda: live.reward_trend(look().returns, _evaluated_mean(manifest), spec),
        "error_rate": lambda: live.error_rate(look().counters, look().probes, look().failures),
        "resource_usage": lambda: live.resource_usage(look().usage, look().probe_decisions),
        "alerts_working": alarm,
        "rollback_tested": partial(rollback_tested, control, url, release.policy, version, given),
    }


def observe(url: str, policy: str, version: str, given: Inputs) -> Observed:
    """Probe the live gateway for a few seconds, wait for its counters, and read them and the version's returns.

    On a machine too busy for it the probe goes on until there are requests enough to tell, within its patience.
    """
    engine = tables.connect(settings.database_url())
    before = readings.counters(engine, policy, version)["decisions"]
    with Sampler(url) as sampler, Load(url, policy, given, rows=PROBE_ROWS) as probe:
        began = time.monotonic()
        time.sleep(PROBE_SECONDS)
        while len(probe.answers) < 2 * live.MINIMUM_REQUESTS and time.monotonic() - began < PATIENCE_SECONDS:
            time.sleep(0.1)
    answered = sum(answer.decisions for answer in probe.answers if answer.version == version)
    deadline = time.monotonic() + FLUSH_SECONDS
    counters = readings.counters(engine, policy, version)
    while counters["decisions"] < before + answered and time.monotonic() < deadline:
        time.sleep(0.1)
        counters = readings.counters(engine, policy, version)
    failures = [answer.error for answer in probe.failures]
    returns = _returns(engine, policy, version)
    return Observed(counters, returns, sampler.samples, len(probe.answers), probe.decisions, failures)


def _returns(engine: sa.Engine, policy: str, version: str) -> list[float]:
    """The version's returns; where they are too few to tell, those that come soon, too.

    A canary may end after a handful of units, and its version is champion before its first episodes have ended. Those
    that end first are the short ones, so it is not the first few that are waited for.
    """
    returns = reported_returns(engine, policy, version)
    if len(returns) >= live.MINIMUM_RETURNS:
        return returns
    newest = time.monotonic()
    while len(returns) < 3 * live.MINIMUM_RETURNS:
        patience = RETURN_SECONDS if len(returns) < live.MINIMUM_RETURNS else SETTLED_SECONDS
        if time.monotonic() - newest > patience:
            break
        time.sleep(0.2)
        came = reported_returns(engine, policy, version)
        if len(came) > len(returns):
            newest = time.monotonic()
        returns = came
    return returns


def reported_returns(engine: sa.Engine, policy: str, version: str) -> list[float]:
    """The latest returns that clients reported for episodes of a version, oldest first."""
    table = tables.outcomes.c
    query = (
        sa.select(table.episode_return)
        .where(table.policy == policy, table.version == version, table.kind == "reported")
        .order_by(table.outcome_seq.desc())
        .limit(LATEST)
    )
    with engine.connect() as connection:
        return [float(row.episode_return) for row in connection.execute(query)][::-1]


def _evaluated_mean(manifest: Manifest) -> float | None:
    mean = manifest.baselines["returns"].get("mean")
    return None if mean is None else float(mean)


def _once(make: Callable[[], Observed]) -> Callable[[], Observed]:
    """Make the evidence at its first use, so that its cost and its failure belong to the check that asks first."""
    kept: list[Observed] = []

    def get() -> Observed:
        if not kept:
            kept.append(make())
        return kept[0]

    return get
