"""What the monitor does about what it found: nothing, a rollback to `previous`, or asking for a release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.control.plane import ControlPlane
from tasks.control.status import ROUTABLE
from tasks.control.writes import canary_of
from tasks.errors import Misconfigured
from tasks.monitoring.hysteresis import Standing, may_act
from tasks.spec.sections import PolicySpec
from tasks.tracking.registry import Model

Action = dict[str, str]
NONE, ROLL_BACK, RETRAIN = "none", "monitor_rollback", "retraining"


def choose(
    spec: PolicySpec,
    state: Mapping[str, Any],
    breached: bool | None,
    shifted: bool | None,
    standings: Mapping[str, Standing],
    acted_at: float | None,
    at: float,
) -> Action:
    """What to do: {"what", "why"}. `state` is `ControlPlane.state`; `standings` has "breach" and "shift".

    A rollback comes first, and only to a version that gateways route: never to one that was rolled back. Where there is
    none, or the spec does not ask for it, drift and decay may ask for a release, once until they are over: what has
    changed for good would ask for one after the other.
    """
    cooldown = 60.0 * spec.monitor.cooldown_minutes
    words = ["nothing that asks for an action stands"]
    raised = [standing for standing in standings.values() if standing.raised]
    if raised:
        words = ["alerts only, as the spec says"]
    if spec.monitor.on_breach == "roll_back" and standings["breach"].raised:
        previous = state["previous"]
        status = state["versions"].get(previous, {}).get("validation_status") if previous else None
        if previous is None or previous == state["champion"]:
            words = ["no rollback: there is no previous version"]
        elif status not in ROUTABLE:
            words = [f"no rollback: the previous version {previous} is {status}"]
        elif may_act(standings["breach"], breached, acted_at, at, cooldown):
            return {"what": ROLL_BACK, "why": f"back to version {previous}"}
        else:
            words = [_still(breached, acted_at, at, cooldown)]
    since = standings["shift"].since
    if spec.retrain.on_drift and since is not None:
        if acted_at is not None and acted_at >= since:
            words.append("what was to be done about this drift or decay has been done")
        elif may_act(standings["shift"], shifted, acted_at, at, cooldown):
            return {"what": RETRAIN, "why": "a release was asked for"}
        else:
            words.append(_still(shifted, acted_at, at, cooldown))
    return {"what": NONE, "why": "; ".join(dict.fromkeys(words))}


def _still(breached: bool | None, acted_at: float | None, at: float, cooldown: float) -> str:
    if breached is not True:
        return "raised before, not found in this run"
    rested = 0.0 if acted_at is None else at - acted_at
    return f"in its cool-down: the last action was {rested / 60:.0f} of {cooldown / 60:.0f} minutes ago"


def take(control: ControlPlane, policy: str, champion: str, action: Action, why: str) -> Action:
    """Do it; the action as it was done, with its reason. A rollback that the registry's state forbids is not done."""
    if action["what"] == NONE:
        return action
    reason = f"{action['why']}: {why}"
    if action["what"] == ROLL_BACK:
        try:
            control.restore_previous(policy, champion, f"the monitor went {reason}")
        except Misconfigured as error:
            return {"what": NONE, "why": f"no rollback: {error}"}
    return {**action, "why": reason}


def canary_hours(policy: str, model: Model | None, at: float) -> float:
    """Age of the running canary in hours without its pauses, 0 where none runs. A tag that is no canary is none."""
    try:
        canary = canary_of(policy, model) if model else None
    except Misconfigured:
        return 0.0
    return canary.age(at) / 3600 if canary else 0.0
