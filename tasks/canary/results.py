"""`airlock results`: the A/B test of a policy, running or ended, in the numbers people ask for."""

from __future__ import annotations

import math
from typing import Any

from tasks.analysis.judge.plan import CanaryPlan
from tasks.analysis.judge.units import Units, within_budget
from tasks.analysis.judge.verdict import decide
from tasks.analysis.sequential.decision import Bounds
from tasks.canary.evidence import units
from tasks.canary.lifecycle import PLAN
from tasks.errors import Misconfigured
from tasks.tracking.registry import Registry, Version


def results(policy: str) -> dict[str, Any]:
    """The running canary of a policy, or else its last one.

    Per arm the analysed units' count, mean, standard deviation and total return; `difference` challenger minus control
    with one-sided 1-alpha bounds that hold at every moment; `winner` "challenger" or "champion" only when a bound
    excludes 0, else "none"; `improvement` the same in percent of the control mean (taken as known). On a first
    release there is no control: `difference` and `improvement` are null, and `against_minimum` compares the
    challenger's mean with the spec's minimum. Raises Misconfigured when there was no canary yet.
    """
    with Registry() as registry:
        last = last_tried(registry, policy)
        if last is None:
            raise Misconfigured(f"{policy} has had no A/B test yet: release it first")
        plan = plan_of(registry, policy, last)
    return summary(plan, last)


def last_tried(registry: Registry, policy: str) -> Version | None:
    """The newest version that has or had a canary."""
    versions = registry.versions(policy) if registry.model(policy) else []
    return next((found for found in reversed(versions) if found.tags.get("generation")), None)


def plan_of(registry: Registry, policy: str, version: Version) -> CanaryPlan:
    """The plan of a version's canary. Raises Misconfigured where it is gone."""
    stored = registry.artifact(version.run_id, PLAN)
    if stored is None:
        raise Misconfigured(f"the plan of the canary of {policy} version {version.version} is gone from its MLflow run")
    return CanaryPlan.from_json(stored)


def summary(plan: CanaryPlan, version: Version) -> dict[str, Any]:
    """The results of one canary, from its plan, its version's tags and the stored units."""
    found = units(plan)
    budgeted = found.first(within_budget(found.challenger, plan.max_units_per_arm))
    decision = decide(budgeted, plan)
    counted = budgeted.first(decision.units)
    verdict = version.tags.get("verdict")
    first = plan.champion is None
    arms = {"challenger": arm_summary(counted, challenger=True)}
    if not first:
        arms["control"] = arm_summary(counted, challenger=False)
    return {
        "policy": plan.policy,
        "version": plan.version,
        "champion": plan.champion,
        "generation": plan.generation,
        "status": "ended" if verdict or version.tags.get("validation_status") != "approved" else "running",
        "verdict": verdict,
        "reason": version.tags.get("reason"),
        "objective": plan.objective,
        "margin": plan.margin,
        "confidence": 1.0 - plan.alpha,
        "arms": arms,
        "difference": None if first else decision.bounds.to_json(),
        "winner": "none" if first else winner(decision.bounds),
        "improvement": None if first else improvement(decision.bounds, arms["control"]["mean"]),
        "against_minimum": {**decision.bounds.to_json(), "minimum": plan.threshold} if first else None,
        "waiting": found.waiting,
    }


def arm_summary(found: Units, challenger: bool) -> dict[str, Any]:
    """Count, mean, standard deviation (n-1) and total of an arm's returns; null where there are too few."""
    returns = found.returns[found.challenger == challenger]
    count = len(returns)
    return {
        "count": count,
        "mean": float(returns.mean()) if count else None,
        "standard_deviation": float(returns.std(ddof=1)) if count > 1 else None,
        "total": float(returns.sum()),
        "abandoned": int(found.abandoned[found.challenger == challenger].sum()),
    }


def winner(difference: Bounds) -> str:
    """Who won: nobody, unless a bound excludes 0."""
    if difference.lower is not None and difference.lower > 0:
        return "challenger"
    if difference.upper is not None and difference.upper < 0:
        return "champion"
    return "none"


def improvement(difference: Bounds, control_mean: float | None) -> dict[str, float | None] | None:
    """The difference in percent of the size of the control mean; null where there is none to speak of."""
    if control_mean is None or math.isclose(control_mean, 0.0, abs_tol=1e-12):
        return None

    def percent(value: float | None) -> float | None:
        return None if value is None else 100.0 * value / abs(control_mean)

    return {
        "estimate": percent(difference.estimate),
        "lower": percent(difference.lower),
        "upper": percent(difference.upper),
    }
