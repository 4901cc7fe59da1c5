"""The end of every release: how it ended and why, whatever happened before; nothing of it is left running."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bentos import settings
from tasks.canary import lifecycle
from tasks.control import manual_moves
from tasks.control.plane import ControlPlane
from tasks.reporting import card
from tasks.reporting.bundle import contents
from tasks.tracking.release import Release, version_of

Outcome = Literal["promoted", "rolled_back", "inconclusive", "rejected", "aborted", "failed"]
ENDED_WELL: tuple[Outcome, ...] = ("promoted", "rolled_back", "inconclusive")
REPORT = "report.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Ending:
    """How a release ended, in a word and a sentence."""

    outcome: Outcome
    reason: str


def report(release: Release | None, policy: str, dag_run_id: str, states: Mapping[str, str]) -> dict[str, Any]:
    """Say how the release ended, from the registry and the `states` of the DAG run's tasks; end what it left running.

    A release that died with a candidate, or with a canary of its own, has its canary ended and its version aborted;
    the champion stays. One that died between promotion and a passed checklist is rolled back.
    Aliases that were moved by hand meanwhile are noticed. Writes report.json, the card and the evidence bundle, and
    closes the MLflow run. Returns the report.
    """
    if release is None:
        ending = Ending("failed", f"the release never began; {_failed(states) or 'no task failed'}")
        return _document(policy, dag_run_id, ending, states)
    version = version_of(release)
    if version is not None:
        _end_what_is_left(release, version, states)
    manual_moves.notice(policy, f"release {dag_run_id}")
    tags = ControlPlane(f"release {dag_run_id}").state(policy)["versions"].get(version, {}) if version else {}
    ending = ending_of(tags, states, _offline_rejection(release))
    started = release.tracked().started
    document = _document(policy, dag_run_id, ending, states) | {
        "version": version,
        "run_id": release.run_id,
        "verdict": tags.get("verdict"),
        "seconds": round(time.time() - started, 1),
        "checklists": _checklists(release),
        "links": _links(release, version),
    }
    release.put_json(REPORT, document)
    release.tag(stage="reported", outcome=ending.outcome, reason=ending.reason[:500])
    if version is not None:
        card.update(release, version, contents.path_of(release, version))
    contents.publish(release, document)
    release.end("FINISHED" if ending.outcome in ENDED_WELL else "FAILED")
    return document


def ending_of(tags: Mapping[str, str], states: Mapping[str, str], rejection: str | None) -> Ending:
    """The ending, from the version's tags (empty: none was registered) and the tasks' states.

    `rejection` is the reason of an offline gate that said no before a version was registered, if one did.
    """
    status, failed = tags.get("validation_status"), _failed(states)
    reason = tags.get("reason") or tags.get("verdict") or ""
    if not status:
        return Ending("rejected", rejection) if rejection else Ending("failed", failed or "no version was registered")
    if status == "promoted" and failed:
        return Ending("failed", f"promoted and serving, but {failed}")
    if status in ("promoted", "rolled_back", "inconclusive", "rejected", "aborted"):
        return Ending(status, reason or status)  # type: ignore[arg-type]
    return Ending("aborted", failed or f"the release ended while its version was {status}")


def _failed(states: Mapping[str, str]) -> str:
    names = sorted(name for name, state in states.items() if state == "failed")
    return f"{', '.join(names)} failed" if names else ""


def _end_what_is_left(release: Release, version: str, states: Mapping[str, str]) -> None:
    """Abort the version, and its canary, unless it came to an end of its own.

    A champion whose post-deployment checklist was never passed gives way to the previous one.
    """
    why = _failed(states) or "its tasks ended without a verdict"
    lifecycle.abort(release, f"the release ended early: {why}")
    control = ControlPlane(f"release {release.dag_run_id}")
    checklist = release.get_json("checklist/post_deployment.json") or {}
    if control.state(release.policy)["champion"] == version and checklist.get("verdict") != "pass":
        control.restore_previous(release.policy, version, f"the post-deployment checklist was not passed: {why}")


def _offline_rejection(release: Release) -> str | None:
    """Why a gate before registration said no, from the evidence it left."""
    evaluation = release.get_json("evaluation/evaluation.json")
    if evaluation and not evaluation["passed"]:
        return (
            f"mean return {evaluation['mean']:.1f} over {evaluation['episodes']} episodes is below the required "
            f"{evaluation['minimum']:g}"
        )
    exported = release.get_json("export/export.json")
    if exported and not exported["parity"]["equal"]:
        return "an exported format does not act as the trained policy"
    return None


def _checklists(release: Release) -> dict[str, Any]:
    found = {}
    for phase in ("pre_deployment", "post_deployment"):
        document = release.get_json(f"checklist/{phase}.json")
        if document:
            found[phase] = {
                "verdict": document["verdict"],
                "checks": {check["id"]: check["status"] for check in document["checks"]},
            }
    return found


def _links(release: Release, version: str | None) -> dict[str, str]:
    mlflow, airflow = settings.mlflow_url(), settings.airflow_url()
    links = {
        "bundle": f"{mlflow}/get-artifact?path={contents.path_of(release, version)}&run_uuid={release.run_id}",
        "mlflow_run": f"{mlflow}/#/experiments/{release.experiment_id}/runs/{release.run_id}",
        "dag_run": f"{airflow}/dags/release_{release.policy}/runs/{release.dag_run_id}",
    }
    if version:
        links["model_version"] = f"{mlflow}/#/models/{release.policy}/versions/{version}"
    return links


def _document(policy: str, dag_run_id: str, ending: Ending, states: Mapping[str, str]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "policy": policy,
        "dag_run_id": dag_run_id,
        "outcome": ending.outcome,
        "reason": ending.reason,
        "stages": dict(states),
        "at": time.time(),
        "version": None,
        "run_id": None,
        "verdict": None,
        "seconds": None,
        "checklists": {},
        "links": {},
    }
