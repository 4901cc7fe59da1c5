"""What a canary is judged by, read from Airlock's database and the registry: nothing here writes or decides."""

from __future__ import annotations

import time

import sqlalchemy as sa

from bentos import settings
from bentos.canary import Canary, parse
from bentos.routing.faults import KILLED_WORKER
from bentos.store import tables
from bentos.telemetry import counters as stats
from tasks.analysis.judge.guardrails import ArmStats
from tasks.analysis.judge.plan import CanaryPlan
from tasks.analysis.judge.units import Units, analyse
from tasks.analysis.judge.verdict import Evidence
from tasks.canary.units import kept
from tasks.tracking.registry import Registry


def units(plan: CanaryPlan) -> Units:
    """The canary's units as stored: first experiment episodes in order of start, with their outcomes."""
    arms = ("challenger",) if plan.champion is None else ("control", "challenger")
    url = settings.database_url()
    with tables.connect(url).connect() as connection:
        starts = kept(url, plan.policy, plan.generation).read(connection)
    return analyse(
        (start for start in starts if start.arm in arms),
        abandoned_return=plan.abandoned_return,
        clip=plan.bounds if plan.clipped else None,
    )


def gather(plan: CanaryPlan) -> Evidence:
    """Everything the judge may look at, as stored now. Raises RegistryUnavailable while MLflow does not answer."""
    with Registry() as registry:
        model = registry.model(plan.policy)
    tag, champion = (model.tags.get("canary"), model.aliases.get("champion")) if model else (None, None)
    canary, stopped = _running(tag, champion, plan.generation)
    since = canary.started_at if canary else 0.0
    with tables.connect(settings.database_url()).connect() as connection:
        faults = tables.fault_events
        events = connection.execute(
            sa.select(faults.c.kind, faults.c.detail)
            .where(faults.c.policy == plan.policy, faults.c.version == plan.version, faults.c.at >= since)
            # one death may be anybody's doing; the second quarantines, which is an event of its own
            .where(faults.c.kind != KILLED_WORKER)
            .order_by(faults.c.id)
        ).all()
        counters = tables.arm_stats
        counted = connection.execute(
            sa.select(counters.c.arm, counters.c.stats).where(
                counters.c.policy == plan.policy, counters.c.generation == plan.generation
            )
        ).all()
    arms = {
        arm: ArmStats.of(stats.total(row.stats for row in counted if row.arm == arm))
        for arm in ("control", "challenger", stats.SHADOW)
    }
    return Evidence(
        units=units(plan),
        control=arms["control"],
        challenger=arms["challenger"],
        events=tuple(f"{event.kind}: {event.detail}" for event in events),
        stopped=stopped,
        hours=canary.age(time.time()) / 3600 if canary else 0.0,
        step=canary.step if canary else 0,
        paused=bool(canary and canary.paused_at),
        shadow=arms[stats.SHADOW],
    )


def _running(tag: str | None, champion: str | None, generation: str) -> tuple[Canary | None, str | None]:
    """The canary if it runs as it was started, else why it does not."""
    if tag is None:
        return None, "the canary was ended from outside: its tag is gone"
    try:
        canary = parse(tag)
    except ValueError as error:
        return None, f"the canary was ended from outside: its tag was changed to something else ({error})"
    if canary.generation != generation:
        return None, f"the canary was ended from outside: {canary.generation} runs in its place"
    if canary.champion != champion:
        return None, f"the champion was moved by hand, from version {canary.champion} to {champion}"
    return canary, None
