"""The running canary of a policy, or else its last one, as people look at it: words, numbers and its picture."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasks.analysis.judge.plan import SHADOW, CanaryPlan, weight
from tasks.analysis.judge.verdict import judge
from tasks.cache import Fresh
from tasks.canary import lifecycle
from tasks.canary.evidence import gather, units
from tasks.canary.results import last_tried, plan_of, summary
from tasks.reporting import canary_plot
from tasks.tracking.registry import Registry, Version

FRESH_SECONDS = 1.5
REST = 10.0
"""A running canary is drawn again only after that many times what its last picture took."""


@dataclass(frozen=True)
class CanarySeen:
    """A canary at one look.

    `verdict` is "continue" while it runs; `judgement` is what `canary.look` says (at its end, what it was ended by),
    `results` what `airlock results` says. `weight` is each arm's now, `position` where it stands in words; `paused`
    says that a person has paused it.
    """

    plan: CanaryPlan
    running: bool
    verdict: str
    reason: str
    weight: float
    position: str
    judgement: dict[str, Any]
    results: dict[str, Any]
    paused: bool = False

    @property
    def rows(self) -> tuple[object, ...]:
        """What its picture depends on: the same rows give the same picture."""
        return self.plan, self.judgement["units"], self.verdict, self.reason


def latest(policy: str) -> CanarySeen | None:
    """The canary as it stands; None where there was none yet.

    Raises RegistryUnavailable, RegistryRefused, and Misconfigured where its plan is gone.
    """
    with Registry() as registry:
        version = last_tried(registry, policy)
        if version is None:
            return None
        plan = plan_of(registry, policy, version)
        kept = registry.artifact(version.run_id, lifecycle.VERDICT) if version.tags.get("verdict") else None
    return _seen(plan, version, kept)


def _seen(plan: CanaryPlan, version: Version, kept: dict[str, Any] | None) -> CanarySeen:
    found = summary(plan, version)
    evidence = gather(plan)
    judgement = judge(evidence, plan).to_json() if kept is None else kept
    running = found["status"] == "running" and evidence.stopped is None
    verdict = str(found["verdict"] or ("continue" if running else version.tags.get("validation_status", "ended")))
    reason = str(judgement["reason"] if running or kept else found["reason"] or judgement["reason"])
    step = evidence.step
    return CanarySeen(
        plan,
        running,
        verdict,
        reason,
        weight(plan, step) if running else 0.0,
        position(plan, step, evidence.shadowed) if running else "ended",
        judgement,
        found,
        evidence.paused if running else False,
    )


def position(plan: CanaryPlan, step: int, shadowed: int) -> str:
    """Where a running canary stands on its ramp."""
    if step == SHADOW:
        return f"in shadow, {shadowed} of {plan.shadow_requests} decisions that nobody acts on went well"
    last = len(plan.steps)
    return f"step {step + 1} of {last}: {100 * plan.steps[step]:g} % of units to each arm"


class Pictures:
    """The last picture of each policy's canary, drawn again when its rows changed: one at a time, with rests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[tuple[object, ...], bytes, float]] = {}

    def svg(self, seen: CanarySeen) -> bytes:
        """The canary as an SVG document; while it runs, perhaps a few seconds old."""
        plan = seen.plan
        with self._lock:
            rows, picture, until = self._kept.get(plan.policy, ((), b"", 0.0))
            begun = self._clock()
            same = bool(rows) and rows[0] == plan and seen.running
            if rows == seen.rows or (same and begun < until):
                return picture
            # The reason of a running canary changes with every unit, and the page says it beside the picture.
            reason = "" if seen.running else seen.reason
            drawn = canary_plot.svg(units(plan), plan, seen.verdict, reason)
            now = self._clock()
            self._kept[plan.policy] = seen.rows, drawn, now + REST * (now - begun)
            return drawn


_recent = Fresh(latest, FRESH_SECONDS)
_pictures = Pictures()


def recent(policy: str) -> CanarySeen | None:
    """What `latest` said, at most a second and a half ago."""
    return _recent(policy)


def recent_again() -> None:
    """Look anew at the next call of `recent`."""
    _recent.clear()


def picture(policy: str) -> bytes | None:
    """The SVG of the policy's canary; None where there was none yet."""
    seen = recent(policy)
    return None if seen is None else _pictures.svg(seen)
