"""The monitor: the post-deployment checklist on the champion, again and again, and what follows from it.

A run reads what the champion served since the stretch before was judged, makes the checks that need no load of its own
and no drill, holds the alert rules against the same numbers, and acts by the spec: alerts, a rollback to `previous`, or
a release of its own. `tasks/monitoring/hysteresis.py` says when.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from tasks.alerts import notify, rules
from tasks.alerts.readings import Reading, readings
from tasks.checklist.render import as_text
from tasks.checklist.types import Checklist, plain
from tasks.control import audit, manual_moves
from tasks.control.plane import ControlPlane
from tasks.monitoring import actions
from tasks.monitoring.checks import Evidence, checks, drift, gather
from tasks.monitoring.hysteresis import Standing, after
from tasks.monitoring.reports import WHO, Memory, keep, memory
from tasks.monitoring.sources import Since, source
from tasks.spec.files import load
from tasks.spec.sections import PolicySpec
from tasks.tracking.registry import Registry

log = logging.getLogger(__name__)
BREACH, SHIFT = "breach", "shift"
"""What is followed from run to run beside each alert: enforced checks that fail; drift, or returns that decay."""


@dataclass(frozen=True)
class Found:
    """What one run concluded. `breached` and `shifted` are null where it could not tell."""

    checklist: Checklist
    verdict: str
    breached: bool | None
    shifted: bool | None
    evidence: Evidence
    readings: dict[str, Reading]


def monitor(policy: str, run_id: str) -> dict[str, Any]:
    """Look at the champion once: {"policy", "version", "verdict", "alerts": [firing], "action": {"what", "why"}}.

    `run_id` names the run; a run that was stored is not made again. Raises PrometheusSilent, RegistryUnavailable or
    LeaseHeld where another try may do.
    """
    spec, who = load(policy), f"{WHO} {run_id}"
    engine = tables.connect(settings.database_url())
    control = ControlPlane(who)
    control.reconcile(policy)  # what a killed drill or promotion left is no champion to judge
    manual_moves.notice(policy, who)
    state = control.state(policy)
    champion = state["champion"]
    if champion is None:
        return _result(policy, None, "skip", [], {"what": "none", "why": "there is no champion to look at"})
    before = memory(engine, policy, champion)
    if before.run == run_id:
        log.info("this run has been stored before; nothing is done twice")
        return dict(before.report["result"])
    at = time.time()
    found = look(spec, champion, engine, before, at, who)
    log.info("\n%s", as_text(found.checklist))
    standings = _standings(spec, before, found, at)
    shown = _alerts(spec, before, found, standings)
    action = actions.choose(spec, state, found.breached, found.shifted, standings, before.acted_at, at)
    action = actions.take(control, policy, champion, action, _why(found))
    _tell(engine, spec, who, champion, before, shown, found, at)
    if action["what"] != "none":
        audit.record(engine, policy, who, action["what"], action["why"], version=champion)
    result = _result(policy, champion, found.verdict, [item["name"] for item in shown if item["firing"]], action)
    acted_at = at if action["what"] != "none" else before.acted_at
    report = found.checklist.to_json() | {
        "verdict": found.verdict,
        "alerts": shown,
        "action": action,
        "drift": drift(found.evidence),
        "source": found.evidence.seen.source,
        "run": run_id,
        "result": result,
        "memory": _remember(before, found, standings, acted_at, at),
    }
    keep(engine, policy, champion, at, found.verdict, plain(report))
    return result


def look(
    spec: PolicySpec, champion: str, engine: sa.Engine, before: Memory, at: float, who: str, url: str | None = None
) -> Found:
    """What is to be seen of the champion now. `url` is that of Prometheus (by default `$PROMETHEUS_URL`)."""
    with Registry() as registry:
        version = registry.version(spec.name, champion)
        manifest = registry.artifact(version.run_id, "package/policy.json") if version else None
        model = registry.model(spec.name)
    reader = source(engine, url if url is not None else os.environ.get("PROMETHEUS_URL"))
    baselines = (manifest or {}).get("baselines", {})
    evidence = gather(engine, spec, champion, baselines, reader, before, at)
    checklist = Checklist(spec.name, champion, "post_deployment", "pass", who, at, checks(spec, evidence))
    enforced = [check for check in checklist.checks if check.mode == "enforce"]
    failed = [check for check in enforced if check.status == "fail"]
    told = [check for check in enforced if check.status == "pass"]
    breached = True if failed else False if told else None
    decayed = any(check.id == "reward_trend" for check in failed)
    shifted = True if decayed or _drifted(evidence) else False if told or evidence.seen.figures else None
    unsure = any(check.status == "inconclusive" for check in enforced)
    verdict = "fail" if failed else "inconclusive" if unsure else "pass"
    checklist = replace(checklist, verdict="fail" if failed else "pass")
    numbers = readings(evidence.seen.counters, evidence.baseline_return, evidence.seen.figures)
    numbers["gateway_up"] = Reading(evidence.seen.gateway_up, 1)
    numbers["canary_hours"] = Reading(actions.canary_hours(spec.name, model, at), 1)
    return Found(checklist, verdict, breached, shifted, evidence, numbers)


def _standings(spec: PolicySpec, before: Memory, found: Found, at: float) -> dict[str, Standing]:
    """Where everything stands after this run. An alert is raised by one run; an action needs `breach_runs` of them."""
    followed: dict[str, tuple[bool | None, int]] = {
        BREACH: (found.breached, spec.monitor.breach_runs),
        SHIFT: (found.shifted, spec.monitor.breach_runs),
    }
    for rule in rules.rules(spec):
        reading = found.readings.get(rule.metric)
        told = reading is not None and reading.samples >= rule.minimum_samples
        followed[_key(rule)] = (rule.breached(reading) if reading is not None and told else None, 1)
    return {
        name: after(before.standing(name), breached, at, runs, spec.monitor.clear_runs)
        for name, (breached, runs) in followed.items()
    }


def _key(rule: rules.Rule) -> str:
    return f"{rule.alert} {rule.metric}"


def _alerts(spec: PolicySpec, before: Memory, found: Found, standings: Mapping[str, Standing]) -> list[dict[str, Any]]:
    shown = []
    for rule in rules.rules(spec):
        standing, reading = standings[_key(rule)], found.readings.get(rule.metric)
        shown.append(
            {
                "name": rule.alert,
                "metric": rule.metric,
                "firing": standing.raised,
                "value": None if reading is None else reading.value,
                "threshold": rule.threshold,
                "unit": rule.unit,
                "severity": rule.severity,
                "summary": rule.summary,
                "samples": 0 if reading is None else reading.samples,
                "since": standing.since,
            }
        )
    return shown


def _tell(
    engine: sa.Engine,
    spec: PolicySpec,
    who: str,
    version: str,
    before: Memory,
    shown: list[dict[str, Any]],
    found: Found,
    at: float,
) -> None:
    """Tell whom the spec names of alerts that were raised or cleared by this run, and write both down."""
    changed = []
    held = {_shown_key(item) for item in before.report.get("alerts", []) if item["firing"]}
    for item in shown:
        if item["firing"] == (_shown_key(item) in held):
            continue
        value = float("nan") if item["value"] is None else float(item["value"])
        status: Literal["firing", "resolved"] = "firing" if item["firing"] else "resolved"
        summary = f"{item['summary']}: {value:.4g} {item['unit']}, threshold {item['threshold']:g}"
        what = "alert_raised" if item["firing"] else "alert_cleared"
        detail = plain({"metric": item["metric"], "value": value, "threshold": item["threshold"], "version": version})
        audit.record(engine, spec.name, who, what, f"{item['name']}: {summary}", **detail)
        changed.append(
            rules.Alert(
                item["name"],
                spec.name,
                version,
                item["severity"],
                summary,
                item["metric"],
                value,
                item["threshold"],
                item["unit"],
                item["samples"],
                at,
                status,
            )
        )
    failed = [sent for sent in notify.deliver(changed, spec.alerts.notify) if not sent.delivered]
    for sent in failed:
        words = f"{sent.to}: {sent.error}"
        audit.record(engine, spec.name, who, "alert_undelivered", words, attempts=sent.attempts)


def _shown_key(item: Mapping[str, Any]) -> str:
    return f"{item['name']} {item['metric']}"


def _why(found: Found) -> str:
    failed = [
        f"{check.id}: {check.reason}" for check in found.checklist.checks if check.blocks and check.status == "fail"
    ]
    drifted = [f"{name}: {value:.3g} times the alarm" for name, value in _drifted(found.evidence).items()]
    return "; ".join([*failed, *drifted])


def _drifted(evidence: Evidence) -> dict[str, float]:
    """Sequential evidence of drift that is past its alarm, by metric."""
    told = evidence.seen.figures.items()
    return {name: value for name, value in told if name.endswith("_drift") and value >= rules.DRIFT_ALARM}


def _remember(
    before: Memory, found: Found, standings: Mapping[str, Standing], acted_at: float | None, at: float
) -> dict[str, Any]:
    """What the next run goes on from: the stretch begins anew once it was long enough to tell something."""
    begin = Since(at, found.evidence.total) if found.evidence.told else before.since
    return {
        "since": asdict(begin) if begin else None,
        "outcome_seq": found.evidence.outcome_seq,
        "standings": {name: asdict(standing) for name, standing in standings.items()},
        "acted_at": acted_at,
    }


def _result(
    policy: str, version: str | None, verdict: str, firing: list[str], action: dict[str, str]
) -> dict[str, Any]:
    return {"policy": policy, "version": version, "verdict": verdict, "alerts": firing, "action": action}
