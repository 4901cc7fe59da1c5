"""The judge: one pure function from evidence and plan to what happens to a canary, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.analysis.judge import anchor, guardrails
from tasks.analysis.judge.guardrails import ArmStats, Guardrail
from tasks.analysis.judge.plan import SHADOW, CanaryPlan, may_advance
from tasks.analysis.judge.units import Units, within_budget
from tasks.analysis.sequential import asymptotic, mean_difference, one_sample
from tasks.analysis.sequential.decision import Bools, Bounds, Decision, floor_of

Verdict = Literal["promote", "roll_back", "inconclusive", "continue"]


_NOTHING = ArmStats()


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict may depend on, as stored.

    `events` are the fault events of the challenger's version since the canary began; `stopped` says why the canary no
    longer runs, where something else ended it (a champion moved by hand); `hours` is its age; `shadow` is what the
    challenger did in shadow, where nobody acts on it; `paused` says that a person has paused it.
    """

    units: Units
    control: ArmStats = _NOTHING
    challenger: ArmStats = _NOTHING
    events: tuple[str, ...] = ()
    stopped: str | None = None
    hours: float = 0.0
    step: int = 0
    shadow: ArmStats = _NOTHING
    paused: bool = False

    @property
    def shadowed(self) -> int:
        """Decisions in shadow that went well."""
        return self.shadow.decisions - self.shadow.fallbacks


@dataclass(frozen=True)
class Judgement:
    """What the judge says. `units` and `difference` are those analysed at the verdict (or so far); `reason` is for
    people; `advance` says that the next ramp step may begin.
    """

    verdict: Verdict
    reason: str
    advance: bool
    units: dict[str, int]
    waiting: int
    abandoned: dict[str, int]
    difference: Bounds
    guardrails: tuple[Guardrail, ...]
    step: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON: what `look` answers and `canary/verdict.json` keeps."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "advance": self.advance,
            "units": self.units,
            "waiting": self.waiting,
            "abandoned": self.abandoned,
            "difference": self.difference.to_json(),
            "guardrails": [guardrail.to_json() for guardrail in self.guardrails],
            "step": self.step,
        }


def judge(evidence: Evidence, plan: CanaryPlan) -> Judgement:
    """The verdict on a canary.

    In order: something else ended it (inconclusive); a tripwire, or the test of a rate or of the lower tail, fired
    (roll_back); the split is broken (inconclusive); a return lies outside the stated range, so the exact test does not
    hold (inconclusive); the primary test decided (roll_back, promote); the budget of units or hours is spent
    (inconclusive); else continue. Tests of units see none after the one at which the first of them decided or
    the budget was spent, so a replay ends at the same unit. How often all of it errs is at most what
    `guardrails.budget` says.

    While it is paused only guardrails (and what else ended it) decide, and theirs see every unit, since no verdict of
    the primary test is acted on. All tests hold at every moment at once, so neither when a person pauses nor for how
    long can raise an error rate; once resumed, the verdict is the one of the unit at which it was reached.
    """
    units = evidence.units
    used = units.first(within_budget(units.challenger, plan.max_units_per_arm))
    decision = decide(used, plan)
    seen = len(used.challenger) if evidence.paused else decision.units
    counted = used.first(seen)
    over = bool(decision.verdict) or len(used.challenger) < len(units.challenger)
    assigned = units.assigned[:seen] if over and not evidence.paused else units.assigned
    rails = _guardrails(evidence, counted, assigned, plan)
    earlier = min((rail.at for rail in rails if rail.at is not None), default=seen)
    if earlier < seen:
        counted = used.first(earlier)
        decision, rails = decide(counted, plan), _guardrails(evidence, counted, assigned[:earlier], plan)
    verdict, reason = _verdict(evidence, counted, plan, rails, decision)
    lost = counted.challenger[counted.abandoned]
    return Judgement(
        verdict,
        reason,
        verdict == "continue"
        and not evidence.paused
        and may_advance(plan, evidence.step, units.finished, evidence.shadowed),
        counted.first(decision.units).count(),
        units.waiting,
        {"control": int((~lost).sum()), "challenger": int(lost.sum())},
        decision.bounds,
        rails,
        evidence.step,
    )


def settle(found: Judgement, seen: dict[str, Any] | None, paused: bool = False) -> tuple[str, str]:
    """The verdict to act on and its reason, from what the rows say now and what a look saw earlier.

    `seen` is that look's `Judgement.to_json`. What was seen can only stop: a promotion needs the rows to say so now.
    """
    if found.verdict != "continue" or seen is None:
        return found.verdict, found.reason
    asked = str(seen.get("verdict", "continue"))
    if asked in ("roll_back", "inconclusive"):
        return asked, str(seen.get("reason", ""))
    if asked == "promote" and not paused:
        return "inconclusive", "a look saw a promotion that the stored rows do not bear out"
    return "continue", found.reason


def decide(units: Units, plan: CanaryPlan) -> Decision:
    """The primary test of the plan on analysed units: two arms, or one against the threshold on a first release."""
    if plan.champion is None:
        if plan.bounds is None:
            return asymptotic.decide_threshold(
                units.returns, threshold=plan.threshold, margin=plan.margin, alpha=plan.alpha
            )
        return one_sample.decide(units.returns, bounds=plan.bounds, threshold=plan.threshold, alpha=plan.alpha)
    floor = anchor.floor(plan.objective, plan.margin, plan.anchor)
    if plan.bounds is None:
        return asymptotic.decide(
            units.challenger,
            units.returns,
            margin=plan.margin,
            alpha=plan.alpha,
            objective=plan.objective,
            floor=floor,
            covariate=units.covariate,
        )
    return mean_difference.decide(
        units.challenger,
        units.returns.clip(*plan.bounds),
        bounds=plan.bounds,
        margin=plan.margin,
        alpha=plan.alpha,
        objective=plan.objective,
        floor=floor,
        covariate=units.covariate,
    )


def _guardrails(evidence: Evidence, counted: Units, assigned: Bools, plan: CanaryPlan) -> tuple[Guardrail, ...]:
    control, challenger = evidence.control, evidence.challenger.beside(evidence.shadow)
    alone = (
        guardrails.non_finite(challenger),
        guardrails.exceptions(challenger),
        guardrails.breaker(challenger, evidence.events),
        guardrails.fallback_rate(control, challenger),
        guardrails.latency(control, challenger, plan.latency_slo_ms / 1e3),
    )
    if plan.champion is None:
        return alone
    befallen = (
        guardrails.befallen(kind, counted.challenger, counted.events[kind])
        for kind in guardrails.RATES
        if kind in counted.events
    )
    return (
        *alone,
        guardrails.abandonment(counted.challenger, counted.abandoned),
        *befallen,
        guardrails.tail(counted.challenger, counted.returns),
        guardrails.ratio(assigned),
    )


def _verdict(
    evidence: Evidence, counted: Units, plan: CanaryPlan, rails: tuple[Guardrail, ...], decision: Decision
) -> tuple[Verdict, str]:
    if evidence.stopped:
        return "inconclusive", evidence.stopped
    for demand in ("roll_back", "inconclusive"):
        fired = [rail for rail in rails if rail.fired == demand]
        if fired:
            reasons = "; ".join(f"{rail.id}: {rail.reason}" for rail in fired)
            return ("roll_back" if demand == "roll_back" else "inconclusive"), f"guardrail {reasons}"
    if evidence.paused:
        analysed = counted.first(decision.units).count()
        return "continue", f"paused, so guardrails alone decide; {describe(decision, plan, analysed)}"
    outside = _outside(counted, plan)
    if outside is not None:
        low, high = plan.bounds or (0.0, 0.0)
        return "inconclusive", f"a return of {outside:g} lies outside the stated range [{low:g}, {high:g}]"
    said = describe(decision, plan, counted.count())
    if evidence.step == SHADOW:
        said = f"in shadow: {evidence.shadowed} of {plan.shadow_requests} decisions that nobody acts on went well"
    if decision.verdict:
        return decision.verdict, said
    if len(counted.challenger) and max(counted.count().values()) >= plan.max_units_per_arm:
        return "inconclusive", f"the budget of {plan.max_units_per_arm} units an arm is spent: {said}"
    if evidence.hours >= plan.max_hours:
        return "inconclusive", f"the budget of {plan.max_hours:g} hours is spent: {said}"
    return "continue", said


def _outside(counted: Units, plan: CanaryPlan) -> float | None:
    if plan.bounds is None or not len(counted.returns):
        return None
    wrong = (counted.returns < plan.bounds[0]) | (counted.returns > plan.bounds[1])
    return float(counted.returns[int(np.argmax(wrong))]) if wrong.any() else None


def describe(decision: Decision, plan: CanaryPlan, units: dict[str, int]) -> str:
    """The state of the primary test in words, with its numbers."""
    found = decision.bounds
    if found.estimate is None or found.lower is None or found.upper is None:
        counted = ", ".join(f"{count} {arm}" for arm, count in units.items())
        return f"nothing can be said yet ({counted} units)"
    confidence = f"{100 * (1 - plan.alpha):g} %" if plan.bounds else f"asymptotic {100 * (1 - plan.alpha):g} %"
    mean = "mean return"
    if plan.clipped and plan.bounds:
        mean += f", each clipped to [{plan.bounds[0]:g}, {plan.bounds[1]:g}],"
    if plan.champion is None:
        what = f"{mean} {found.estimate:.4g} over {units['challenger']} units"
        goal, name = plan.threshold, "the minimum"
    else:
        what = f"{mean} {found.estimate:+.4g} against control over {units['challenger']} and {units['control']} units"
        goal = anchor.floor(plan.objective, plan.margin, plan.anchor)
        name = "a gain" if goal == 0.0 else "the margin"
        if plan.anchor and goal > floor_of(plan.objective, plan.margin):
            name = f"what is left of the margin since version {plan.anchor.version}"
    ceiling = plan.threshold if plan.champion is None else 0.0
    lower, upper = f"its {confidence} lower bound {found.lower:.4g}", f"its {confidence} upper bound {found.upper:.4g}"
    if decision.verdict == "promote":
        above = "just above" if f"{found.lower:.4g}" == f"{goal:.4g}" else "above"
        return f"{what}: {lower} is {above} {goal:g}, {name}"
    if decision.verdict == "roll_back":
        below = "just below" if f"{found.upper:.4g}" == f"{ceiling:.4g}" else "below"
        return f"{what}: {upper} is {below} {ceiling:g}"
    return f"{what}: {lower} has not passed {goal:g} ({name}), nor {upper} fallen below {ceiling:g}"
