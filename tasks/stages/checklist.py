"""The stages `pre_deployment` and `post_deployment`: run a checklist, act on its gate, and keep the evidence."""

from __future__ import annotations

import logging
from typing import Any

from bentos.package.loader import load
from tasks.build.packaging.bento import assemble
from tasks.checklist.post_deployment import checks as post_deployment_checks
from tasks.checklist.pre_deployment import Servers
from tasks.checklist.pre_deployment import checks as pre_deployment_checks
from tasks.checklist.render import as_text
from tasks.checklist.run import run_all
from tasks.checklist.types import Checklist
from tasks.control.plane import ControlPlane
from tasks.errors import Misconfigured, Rejected
from tasks.reporting import card
from tasks.tracking.release import Release, version_of

log = logging.getLogger(__name__)


def pre_deployment(release: Release) -> dict[str, Any]:
    """Run the checklist and act on its gate: {"verdict", "reasons"}.

    A pass approves the version, unless a person must do that. Raises Rejected on a fail, with every reason; the
    version is rejected then, and the champion untouched.
    """
    version = version_of(release)
    if version is None:
        raise Misconfigured(f"the release {release.dag_run_id} has registered no version to check")
    who = f"release {release.dag_run_id}"
    control = ControlPlane(who)
    with release.scratch() as scratch:
        package = load(release.fetch("package", scratch))
        bento = assemble(release, version, package, scratch / "context")
        with Servers(package, bento, scratch) as ask:
            checks = pre_deployment_checks(release, package, ask, control.state(release.policy)["champion"])
            checklist, decision = run_all(release.policy, version, "pre_deployment", checks, release.spec.mode, who)
    record(release, control, checklist)
    if decision.verdict == "fail":
        reason = f"pre-deployment checklist: {'; '.join(decision.reasons)}"
        control.reject(release.policy, version, reason)
        show(release, checklist)
        raise Rejected(reason)
    if release.spec.approval == "none":
        control.approve(release.policy, version)
    show(release, checklist)
    return {"verdict": decision.verdict, "reasons": list(decision.reasons)}


def post_deployment(release: Release) -> dict[str, Any]:
    """Run the checklist and act on its gate: {"verdict", "reasons"}.

    Raises Rejected on a fail, with every reason; the champion before is champion again then.
    """
    version = version_of(release)
    if version is None:
        raise Misconfigured(f"the release {release.dag_run_id} has registered no version to check")
    who = f"release {release.dag_run_id}"
    control = ControlPlane(who)
    control.reconcile(release.policy)  # a drill that was killed half-way left the champion elsewhere
    with release.scratch() as scratch:
        package = load(release.fetch("package", scratch))
        checks = post_deployment_checks(release, control, package, version, package.baseline().inputs)
        checklist, decision = run_all(release.policy, version, "post_deployment", checks, release.spec.mode, who)
    record(release, control, checklist)
    if decision.verdict == "fail":
        reason = f"post-deployment checklist: {'; '.join(decision.reasons)}"
        control.restore_previous(release.policy, version, reason)
        show(release, checklist)
        raise Rejected(reason)
    show(release, checklist)
    return {"verdict": decision.verdict, "reasons": list(decision.reasons)}


def record(release: Release, control: ControlPlane, checklist: Checklist) -> None:
    """Keep the checklist as an artifact, as `check.<id>` tags of the version and in the task's log."""
    release.put_json(f"checklist/{checklist.phase}.json", checklist.to_json())
    tags: dict[str, str] = {f"check.{check.id}": check.status for check in checklist.checks}
    control.annotate(release.policy, checklist.version, tags)
    release.tag(stage=checklist.phase)
    log.info("\n%s", as_text(checklist))


def show(release: Release, checklist: Checklist) -> None:
    """Write the card again, now that the gate has been acted on."""
    card.update(release, checklist.version)
