"""What a canary is judged by, written down before it starts, and the ramp of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tasks.analysis.judge.anchor import Anchor
from tasks.analysis.sequential.decision import Objective


@dataclass(frozen=True)
class CanaryPlan:
    """The plan of one canary. Returns, `margin` and `threshold` are in return units, `alpha` is per side.

    `champion` is the version it is compared with; null on a first release, which is judged against `threshold` alone.
    `bounds` are those of the analysed return (null: unbounded, asymptotic test); `clipped` says that returns are
    clipped to them, which makes the clipped mean the estimand. `steps` are the weights of each arm, after
    `shadow_requests` decisions in shadow. `anchor` is the champion's, as recorded when it was promoted (null: itself).
    """

    policy: str
    version: str
    champion: str | None
    generation: str
    steps: tuple[float, ...]
    units_per_step: int
    objective: Objective
    margin: float
    alpha: float
    bounds: tuple[float, float] | None
    clipped: bool
    abandoned_return: float | None
    threshold: float
    max_units_per_arm: int
    max_hours: float
    latency_slo_ms: float
    shadow_requests: int = 0
    anchor: Anchor | None = None

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def to_json(self) -> str:
        """One JSON document; `from_json` gives the same plan."""
        return json.dumps(self.document(), sort_keys=True)

    @staticmethod
    def from_json(plan: str | dict[str, Any]) -> CanaryPlan:
        """Read what `to_json` or `document` wrote."""
        document: dict[str, Any] = json.loads(plan) if isinstance(plan, str) else dict(plan)
        document["steps"] = tuple(document["steps"])
        if document["bounds"] is not None:
            low, high = document["bounds"]
            document["bounds"] = (low, high)
        if document.get("anchor") is not None:
            document["anchor"] = Anchor.from_json(document["anchor"])
        return CanaryPlan(**document)


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
