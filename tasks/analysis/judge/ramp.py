"""The ramp: from shadow, where the challenger decides and nobody acts on it, to growing shares of traffic."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.analysis.judge.plan import CanaryPlan

SHADOW = -1
"""The step before the first weight."""


def first_step(plan: CanaryPlan) -> int:
    """Where the canary begins: in shadow, if the plan asks for shadow requests."""
    return SHADOW if plan.shadow_requests else 0


def weight(plan: CanaryPlan, step: int) -> float:
    """The weight of each arm at a step: 0 in shadow, else the plan's."""
    return 0.0 if step == SHADOW else plan.steps[step]


def may_advance(plan: CanaryPlan, step: int, finished: Mapping[str, int], shadowed: int) -> bool:
    """Whether the next step may begin; there is none after the last, and its weight is never smaller.

    Shadow ends with its requests (`shadowed` decisions of the challenger that went well); a later step once every
    compared arm has its finished units for this step, counted from the start of the canary.
    """
    if step + 1 >= len(plan.steps) or weight(plan, step + 1) < weight(plan, step):
        return False
    if step == SHADOW:
        return shadowed >= plan.shadow_requests
    arms = ("challenger",) if plan.champion is None else ("control", "challenger")
    return min(finished[arm] for arm in arms) >= plan.units_per_step * (step + 1)
