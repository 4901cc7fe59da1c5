"""What a person is asked before the canary, and what their answer does."""

from __future__ import annotations

from typing import Any

from bentos import home
from tasks.errors import Misconfigured
from tasks.promote import ControlPlane
from tasks.register import version_of
from tasks.runs import Release


def question(release: Release) -> tuple[str, str]:
    """Subject and Markdown body of the approval: the checklist in short and where to review the candidate."""
    version = _version(release)
    checklist = release.get_json("checklist/pre_deployment.json") or {"verdict": "missing", "checks": []}
    lines = [f"| {check['id']} | {check['status']} | {check['reason']} |" for check in checklist["checks"]]
    body = "\n".join(
        [
            f"Pre-deployment checklist: **{checklist['verdict']}**",
            "",
            "| check | status | what was seen |",
            "|---|---|---|",
            *lines,
            "",
            f"[Model version in MLflow]({home.mlflow_url()}/#/models/{release.policy}/versions/{version})",
        ]
    )
    return f"Release {release.policy} version {version} to a canary?", body


def approve(release: Release, who: str, reason: str) -> dict[str, Any]:
    """Mark the candidate approved: gateways may route it from now on."""
    version = _version(release)
    ControlPlane(who).approve(release.policy, version)
    return {"version": version, "approved_by": who, "reason": reason}


def reject(release: Release, who: str, reason: str) -> dict[str, Any]:
    """Mark the candidate rejected; the champion stays."""
    version = _version(release)
    ControlPlane(who).reject(release.policy, version, reason)
    return {"version": version, "rejected_by": who, "reason": reason}


def _version(release: Release) -> str:
    version = version_of(release)
    if version is None:
        raise Misconfigured(f"the release {release.dag_run_id} has registered no model version")
    return version
