"""The checks of a champion in production that need no load of their own: from what real traffic left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from bentos import settings
from bentos.store.tables import outcomes
from tasks.alerts.readings import counters
from tasks.checklist import live
from tasks.checklist.resources import Sampler
from tasks.checklist.run import run_check
from tasks.checklist.types import Check, Finding
from tasks.monitoring.decay import Baseline, Decay, decay
from tasks.monitoring.reports import Memory
from tasks.monitoring.sources import Seen, Since, Source
from tasks.spec.sections import PolicySpec

LOOK_BACK_SECONDS = 3600.0
"""How far a Prometheus is asked back when a version is looked at for the first time."""

DECAY_WINDOWS = 10
"""Decay is looked for in so many windows of returns: what is over for longer is no alarm any more."""

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Evidence:
    """What a run looks at. `seen` is of this stretch, `total` all the version's counters at its end.

    `returns` are the latest ones, oldest first, `fresh` of them not judged before; `outcome_seq` is the last one's
    number. `told` says that there was enough to judge, so that the next stretch begins here.
    """

    seen: Seen
    total: dict[str, Any]
    returns: tuple[float, ...]
    fresh: int
    outcome_seq: int
    baseline_return: float | None
    decay: Decay | None
    actions: dict[str, Any]
    told: bool = False


def gather(
    engine: sa.Engine,
    spec: PolicySpec,
    version: str,
    baselines: dict[str, Any],
    source: Source,
    before: Memory,
    at: float,
) -> Evidence:
    """Read what the version served since the stretch before, and its latest returns."""
    total = counters(engine, spec.name, version)
    seen = source.seen(spec.name, version, before.since or Since(at - LOOK_BACK_SECONDS), at)
    latest, last = _returns(engine, spec, version)
    fresh = sum(1 for seq, _ in latest if seq > before.outcome_seq)
    returns = tuple(value for _, value in latest)
    measured = baselines.get("returns") or {}
    mean = float(measured["mean"]) if measured.get("mean") is not None else None
    fallen = None
    if mean is not None:
        baseline = Baseline(mean, float(measured.get("std", 0.0)), int(measured.get("count", 1)))
        window = spec.monitor.baseline_window
        drop = spec.monitor.max_return_drop
        fallen = decay(returns, baseline, max_return_drop=drop, bounds=spec.canary.bounds, window=window)
    found = Evidence(seen, total, returns, fresh, last, mean, fallen, baselines.get("actions") or {})
    # what the counters tell, whatever gates: a stretch is judged once
    told = [check(spec, found).status for check in _COUNTED.values()]
    judged = "fail" in told or "inconclusive" not in told
    keep = fresh >= live.MINIMUM_RETURNS
    return Evidence(**{**vars(found), "told": judged, "outcome_seq": last if keep else before.outcome_seq})


def _returns(engine: sa.Engine, spec: PolicySpec, version: str) -> tuple[list[tuple[int, float]], int]:
    """The latest reported returns with their numbers, oldest first, and the last number.

    Episodes that end early are reported first, so none counts that came within an episode's time to live of the
    version's first: by then the longest could have ended (see `tasks/monitoring/decay.py`).
    """
    table = outcomes.c
    ours = (table.policy == spec.name, table.version == version, table.kind == "reported")
    with engine.connect() as connection:
        # not the least of all times: that would read every outcome of the version
        earliest = sa.select(table.recorded_at).where(*ours).order_by(table.outcome_seq).limit(1)
        first = connection.execute(earliest).scalar()
        if first is None:
            return [], 0
        settled = table.recorded_at >= first + spec.canary.episode_ttl_seconds
        query = (
            sa.select(table.outcome_seq, table.episode_return)
            .where(*ours, settled)
            .order_by(table.outcome_seq.desc())
            .limit(DECAY_WINDOWS * spec.monitor.baseline_window)
        )
        rows = [(int(row.outcome_seq), float(row.episode_return)) for row in connection.execute(query)][::-1]
    return rows, rows[-1][0] if rows else 0


def checks(spec: PolicySpec, evidence: Evidence) -> tuple[Check, ...]:
    """The observable checks, in the checklist's order. What raises is a failed check, as in the checklist."""
    made: dict[str, Callable[[PolicySpec, Evidence], Finding]] = {
        "latency_sla": _latency,
        "finite_outputs": _finite,
        "action_distribution": _actions,
        "reward_trend": _rewards,
        "error_rate": _errors,
        "resource_usage": _resources,
    }
    return tuple(
        run_check(name, "post_deployment", spec.mode(name), lambda check=check: check(spec, evidence))  # type: ignore[misc]
        for name, check in made.items()
    )


def drift(evidence: Evidence) -> dict[str, Any]:
    """Drift and decay with their evidence, for the report."""
    return {"figures": evidence.seen.figures, "decay": asdict(evidence.decay) if evidence.decay else None}


def _latency(spec: PolicySpec, evidence: Evidence) -> Finding:
    return live.latency_sla(evidence.seen.counters, spec)


def _finite(spec: PolicySpec, evidence: Evidence) -> Finding:
    return live.finite_outputs(evidence.seen.counters)


def _actions(spec: PolicySpec, evidence: Evidence) -> Finding:
    if not evidence.actions:
        return Finding("skip", "the package was not measured in its environment: there are no actions to compare with")
    return live.action_distribution(evidence.seen.counters, evidence.actions, spec)


def _rewards(spec: PolicySpec, evidence: Evidence) -> Finding:
    if evidence.baseline_return is None or evidence.decay is None:
        return Finding("skip", "the package was not measured in its environment: there is no return to compare with")
    recent = evidence.returns[-spec.monitor.baseline_window :]
    if evidence.fresh < live.MINIMUM_RETURNS:
        return Finding(
            "inconclusive",
            f"{evidence.fresh} returns that were not judged before are too few; {live.MINIMUM_RETURNS} are needed",
            observed=evidence.fresh,
            threshold=live.MINIMUM_RETURNS,
            unit="returns",
            sample_size=evidence.fresh,
        )
    found = live.reward_trend(recent, evidence.baseline_return, spec)
    shown = {**found.evidence, "decay": asdict(evidence.decay)}
    if found.status == "inconclusive" and evidence.decay.decayed:
        return Finding(**{**vars(found), "status": "fail", "reason": evidence.decay.reason, "evidence": shown})
    return Finding(**{**vars(found), "evidence": shown})


def _errors(spec: PolicySpec, evidence: Evidence) -> Finding:
    return live.error_rate(evidence.seen.counters, 0, [])


def _resources(spec: PolicySpec, evidence: Evidence) -> Finding:
    with Sampler(settings.gateway_url()) as sampler:
        sampler.wait(SAMPLE_SECONDS)
    if not sampler.samples:
        return Finding("skip", f"the gateway at {settings.gateway_url()} tells nothing of its workers")
    return live.resource_usage(sampler.samples, int(evidence.seen.counters["decisions"]))


_COUNTED: dict[str, Callable[[PolicySpec, Evidence], Finding]] = {
    "latency_sla": _latency,
    "finite_outputs": _finite,
    "action_distribution": _actions,
    "error_rate": _errors,
}
