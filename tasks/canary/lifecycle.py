"""The canary of a release: planned, started, looked at, taken up its ramp, and ended by its verdict.

Looking only reads. What acts (`start`, `advance`, `finish`, `abort`) may be called again after a kill at any point.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, cast

from tasks.analysis.judge import anchor
from tasks.analysis.judge.anchor import Anchor
from tasks.analysis.judge.plan import CanaryPlan, first_step, weight
from tasks.analysis.judge.verdict import Judgement, judge, settle
from tasks.analysis.sequential.decision import Bounds
from tasks.canary import record
from tasks.canary.evidence import gather
from tasks.canary.readiness import GatewayNotReady, VersionRefused, await_gateway, await_version
from tasks.control.plane import ANCHOR, ControlPlane
from tasks.control.writes import CanaryMoved, CanaryPaused
from tasks.errors import Misconfigured, Rejected
from tasks.tracking.registry import Registry
from tasks.tracking.release import TAG_VERSION, Release

PLAN = "canary/plan.json"
VERDICT = "canary/verdict.json"
READY_SECONDS = 180.0
"""How long a gateway may be away, or MLflow and its artifact store from it, before a canary is given up."""


def plan(release: Release) -> CanaryPlan:
    """The release's canary plan, as stored in `canary/plan.json`; written down at the first call.

    Raises Misconfigured when the release has no model version yet, or can never pass its own plan.
    """
    stored = release.get_json(PLAN)
    if stored is not None:
        return CanaryPlan.from_json(stored)
    with Registry() as registry:
        model = registry.model(release.policy)
    return _write_plan(release, model.aliases.get("champion") if model else None)


def start(release: Release, ready_seconds: float = READY_SECONDS) -> dict[str, Any]:
    """Begin the canary, in shadow if the plan asks for it, once the gateway has loaded the version; returns the canary.

    Called again, it takes up the same canary; after its end it returns {"verdict": ...} and changes nothing. When the
    gateway is down or refuses the version, the canary is withdrawn, the version marked aborted, the champion
    untouched, and Misconfigured (gateway down) or Rejected (version refused) is raised.
    """
    agreed = plan(release)
    control = _control(release)
    control.reconcile(release.policy)
    before = control.state(release.policy)
    ended = before["versions"].get(agreed.version, {}).get("verdict")
    if ended:
        return {"verdict": ended, "generation": agreed.generation, "version": agreed.version}
    if not before["canary"]:
        _await(release, control, agreed, lambda: await_gateway(ready_seconds))
    step = first_step(agreed)
    document = control.start_canary(release.policy, agreed.version, agreed.generation, weight(agreed, step), step=step)
    if document["champion"] != agreed.champion:
        _write_plan(release, document["champion"])
    _await(release, control, agreed, lambda: await_version(release.policy, agreed.version, ready_seconds))
    return document


def look(policy: str, generation: str, plan_json: str | dict[str, Any]) -> dict[str, Any]:
    """The judgement on the running canary, from stored rows alone; changes nothing. See `Judgement.to_json`.

    Raises RegistryUnavailable while MLflow does not answer: nothing could be done about a verdict then.
    """
    agreed = CanaryPlan.from_json(plan_json)
    if (agreed.policy, agreed.generation) != (policy, generation):
        raise ValueError(f"the plan is that of {agreed.policy} {agreed.generation}, asked was {policy} {generation}")
    return judge(gather(agreed), agreed).to_json()


def advance(release: Release) -> dict[str, Any]:
    """Take the canary to its next step if its units allow it; returns the running canary.

    One that was ended from outside is left for the next look to say so: {"stopped": reason}.
    """
    agreed = plan(release)
    control = _control(release)
    control.reconcile(release.policy)
    evidence = gather(agreed)
    if evidence.stopped:
        return {"stopped": evidence.stopped}
    step = evidence.step + judge(evidence, agreed).advance
    try:
        return control.set_weight(release.policy, agreed.generation, weight(agreed, step), step)
    except CanaryMoved as error:
        return {"stopped": str(error)}


def finish(release: Release, judgement: dict[str, Any] | None = None) -> dict[str, Any]:
    """Judge once more from the stored rows, act on it, and keep `canary/verdict.json`; returns that document.

    A promotion needs the rows to say so now. `judgement`, what a look saw, can only stop: if it asked for roll_back
    or inconclusive, that is done even where a guardrail has calmed down since. If nothing ends the canary, the
    document says "continue" and nothing was done; so it does where a person paused the canary since the look.
    Called again, it completes and returns what was decided. `canary/judged.json` keeps what that was reached from.
    """
    agreed = plan(release)
    control = _control(release)
    control.reconcile(release.policy)
    tags = control.state(release.policy)["versions"].get(agreed.version, {})
    ended = tags.get("verdict")
    kept = release.get_json(record.ARTIFACT) if ended else None
    evidence = record.evidence(kept)[0] if kept else gather(agreed)
    found = judge(evidence, agreed)
    verdict, reason = (ended, tags.get("reason", "")) if ended else settle(found, judgement, evidence.paused)
    if verdict != "continue" and not kept:
        release.put_json(record.ARTIFACT, record.document(evidence, judgement))
    if verdict != "continue" and not ended:
        verdict, reason = _act(control, agreed, verdict, reason, found.difference)
    document = _document(agreed, found, verdict, reason)
    if verdict != "continue":
        _record(release, document, found.difference)
    return document


def abort(release: Release, reason: str) -> None:
    """End the release's canary, if it has one, and mark its version aborted; one that has its verdict keeps it."""
    version = release.tracked().tags.get(TAG_VERSION)
    if not version:
        return
    control = _control(release)
    control.reconcile(release.policy)
    status = control.state(release.policy)["versions"].get(version, {}).get("validation_status")
    if status in ("candidate", "approved"):
        control.abort(release.policy, version, reason)


def _write_plan(release: Release, champion: str | None) -> CanaryPlan:
    version = release.tracked().tags.get(TAG_VERSION)
    if not version:
        raise Misconfigured(f"the release {release.dag_run_id} has registered no model version to try")
    spec, canary = release.spec, release.spec.canary
    threshold, bounds = spec.evaluate.minimum_mean_return, canary.bounds
    if champion is None and bounds and not bounds[0] <= threshold < bounds[1]:
        raise Misconfigured(
            f"a first release is judged against evaluate.minimum_mean_return, {threshold:g}, which must lie within "
            f"the bounds of the return, [{bounds[0]:g}, {bounds[1]:g})"
        )
    abandoned = canary.abandoned_return
    made = CanaryPlan(
        policy=release.policy,
        version=version,
        champion=champion,
        generation=f"{version}-{hashlib.blake2b(release.dag_run_id.encode(), digest_size=8).hexdigest()}",
        steps=tuple(canary.steps),
        units_per_step=canary.units_per_step,
        objective=canary.objective,
        margin=canary.margin,
        alpha=canary.alpha,
        bounds=bounds,
        clipped=canary.return_clip is not None,
        abandoned_return=bounds[0] if abandoned is None and bounds else abandoned,
        threshold=threshold,
        max_units_per_arm=canary.max_units_per_arm,
        max_hours=canary.max_hours,
        latency_slo_ms=spec.serve.latency_slo_ms,
        shadow_requests=canary.shadow_requests,
        anchor=_anchor(release.policy, champion),
    )
    release.put_json(PLAN, made.document())
    return made


def _anchor(policy: str, champion: str | None) -> Anchor | None:
    """What the champion's promotion recorded; None for one that was promoted without (it is its own anchor)."""
    if champion is None:
        return None
    with Registry() as registry:
        found = registry.version(policy, champion)
    kept = found.tags.get(ANCHOR) if found else None
    if kept is None:
        return None
    try:
        return Anchor.from_json(json.loads(kept))
    except (ValueError, KeyError, TypeError) as error:
        raise Misconfigured(
            f"the tag {ANCHOR} of {policy} version {champion} cannot be read ({kept!r}): mend it, or remove it"
        ) from error


def _await(release: Release, control: ControlPlane, agreed: CanaryPlan, wait: Callable[[], None]) -> None:
    """Wait for the gateway; if in vain, withdraw the canary and mark the version aborted."""
    try:
        wait()
    except VersionRefused as error:
        control.abort(release.policy, agreed.version, str(error))
        raise Rejected(f"{error}. The canary was withdrawn; the champion is untouched") from error
    except GatewayNotReady as error:
        control.abort(release.policy, agreed.version, str(error))
        raise Misconfigured(
            f"{error}. The canary was withdrawn; the champion is untouched. See to the gateway and release again"
        ) from error


def _control(release: Release) -> ControlPlane:
    return ControlPlane(f"release {release.dag_run_id}")


def _act(control: ControlPlane, agreed: CanaryPlan, verdict: str, reason: str, difference: Bounds) -> tuple[str, str]:
    if verdict == "promote":
        kept = anchor.after(agreed.anchor, version=agreed.version, champion=agreed.champion, lower=difference.lower)
        try:
            control.promote(agreed.policy, agreed.generation, reason, kept)
        except CanaryPaused as error:
            return "continue", str(error)
        except CanaryMoved as error:
            verdict, reason = "inconclusive", str(error)
        else:
            return verdict, reason
    control.end_canary(agreed.policy, agreed.generation, cast(Any, verdict), reason)
    return verdict, reason


def _document(agreed: CanaryPlan, found: Judgement, verdict: str, reason: str) -> dict[str, Any]:
    return {
        **found.to_json(),
        "verdict": verdict,
        "reason": reason,
        "policy": agreed.policy,
        "version": agreed.version,
        "champion": agreed.champion,
        "generation": agreed.generation,
        "objective": agreed.objective,
        "alpha": agreed.alpha,
    }


def _record(release: Release, document: dict[str, Any], difference: Bounds) -> None:
    numbers = {
        "canary.difference": difference.estimate,
        "canary.lower": difference.lower,
        "canary.upper": difference.upper,
        **{f"canary.units.{arm}": float(count) for arm, count in document["units"].items()},
    }
    release.log_model_metrics({name: value for name, value in numbers.items() if value is not None})
    release.tag(verdict=document["verdict"], reason=document["reason"][:500])
    release.put_json(VERDICT, document)
