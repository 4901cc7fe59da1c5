"""Releases that ask a person, on the live stack: approved, rejected and timed out, in Airflow, MLflow and the console.

This module comes last: it leaves versions behind that others count.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from bentos import settings
from tasks.reporting.bundle.verify import verify
from tasks.spec.sections import PRE_DEPLOYMENT
from tasks.stack.airflow_api import Airflow, Run
from tasks.stack.release_progress import outcome
from tasks.tracking.release import Release, version_of
from tests.bentos.gateway_process import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]
TASK = "pre_deployment.approval"
QUICK = {"source": "zip", "approval": True, "canary_steps": [0.5], "dry_run_checks": list(PRE_DEPLOYMENT)}


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Untrained policies, by the name of their spec."""
    from stable_baselines3 import PPO, SAC

    directory: Path = tmp_path_factory.mktemp("zips")
    PPO("MlpPolicy", "CartPole-v1", seed=1, device="cpu").save(directory / "cartpole.zip")
    small = {"policy_kwargs": {"net_arch": [8, 8]}, "buffer_size": 10}
    SAC("MlpPolicy", "Pendulum-v1", seed=1, device="cpu", **small).save(directory / "pendulum.zip")
    return {name: str(directory / f"{name}.zip") for name in ("cartpole", "pendulum")}


def state(airflow: Airflow, run: Run, task: str = TASK) -> str | None:
    found = airflow.run(run.dag_id, run.run_id).tasks
    return next((item.state for item in found if item.task_id == task), None)


def details(run: Run) -> str:
    return f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{TASK}/-1/hitlDetails"


def reply(airflow: Airflow, run: Run, option: str, reason: str) -> dict[str, Any]:
    """Answer as a person does, a moment after the question stands there; what was asked."""
    wait_until(lambda: state(airflow, run) == "awaiting_input", "the question stands there", 600, 0.5)
    time.sleep(3)
    asked: dict[str, Any] = airflow.request("GET", details(run)).json()
    given = {"chosen_options": [option], "params_input": {"reason": reason}}
    answer = airflow.request("PATCH", details(run), json=given)
    assert answer.status_code == 200, answer.text
    return asked


@pytest.fixture(scope="module")
def ended(airflow: Airflow, zips: dict[str, str]) -> dict[str, Any]:
    """Three releases of two policies at a time, and what was asked of the first."""
    airflow.await_dag("release_pendulum", timeout=120)

    def start(policy: str, **params: Any) -> Run:
        return airflow.trigger(f"release_{policy}", {**QUICK, "zip_path": zips[policy], **params})

    few = {"max_units_per_arm": 12, "simulate_users": 8, "minimum_mean_return": 1}
    approved = start("cartpole", **few)
    refused = start("pendulum", minimum_mean_return=-1799)
    late = start("pendulum", minimum_mean_return=-1799, approval_hours=10 / 3600)
    asked = reply(airflow, refused, "Reject", "it hardly swings")
    reply(airflow, approved, "Approve", "let it try")
    runs = {"approved": approved, "rejected": refused, "timed out": late}
    return {
        "asked": asked,
        **{name: airflow.follow(run.dag_id, run.run_id, timeout=900) for name, run in runs.items()},
    }


def end(run: Run) -> tuple[str, dict[str, str], Release]:
    """Outcome, the version's tags as MLflow's REST API tells them, and the release."""
    policy = run.dag_id.removeprefix("release_")
    release = Release.get(policy, run.run_id)
    version = version_of(release)
    query = {"name": policy, "version": version}
    found = httpx.get(f"{settings.mlflow_url()}/api/2.0/mlflow/model-versions/get", params=query, timeout=60).json()
    tags = {item["key"]: item["value"] for item in found["model_version"]["tags"]}
    return outcome(policy, run)["outcome"], tags, release


def story(airflow: Airflow, policy: str) -> list[tuple[str, str]]:
    """What the console tells of a policy."""
    token = airflow._authenticate()
    url = f"{settings.airflow_url()}/airlock/data/policies/{policy}"
    page = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60).raise_for_status().json()
    return [(event["what"], event["words"]) for event in page["story"]["value"]]


def test_the_question_shows_what_a_reviewer_needs(ended: dict[str, Any]) -> None:
    asked = ended["asked"]
    assert asked["defaults"] == ["Reject"]
    for part in ("Without an answer by", "Model version", "/airlock/policies/pendulum", "Pre-deployment checklist"):
        assert part in asked["body"]


def test_approved_it_goes_on_to_its_canary(airflow: Airflow, ended: dict[str, Any]) -> None:
    run: Run = ended["approved"]
    ending, tags, _ = end(run)
    states = {task.task_id: task.state for task in run.tasks}
    assert (states[TASK], states["canary.verdict"], run.state) == ("success", "success", "success")
    assert ending == tags["validation_status"]
    assert ending in ("inconclusive", "rolled_back")  # twelve units decide little, a slow machine may trip a guardrail
    assert (tags["approved_by"], tags["approval_reason"]) == ("admin", "let it try")
    assert ("approved", f"version {version_of(end(run)[2])} approved by admin: let it try") in story(
        airflow, "cartpole"
    )


@pytest.mark.parametrize(
    ("name", "who", "event", "why"),
    [
        ("rejected", "admin", "rejected", "rejected by admin: it hardly swings"),
        ("timed out", "nobody (the deadline passed)", "approval_timed_out", "rejected by nobody (the deadline passed)"),
    ],
)
def test_rejected_or_not_answered_it_ends_rejected_without_a_canary(
    airflow: Airflow, ended: dict[str, Any], name: str, who: str, event: str, why: str
) -> None:
    run: Run = ended[name]
    ending, tags, release = end(run)
    states = {task.task_id: task.state for task in run.tasks}
    assert (states[TASK], states["canary.verdict"], run.state) == ("failed", "upstream_failed", "failed")
    assert ending == tags["validation_status"] == "rejected"
    assert (tags["rejected_by"], tags["reason"]) == (who, why)
    assert release.get_json("canary/plan.json") is None
    assert (event, f"version {version_of(release)} {why}") in story(airflow, "pendulum")


@pytest.mark.parametrize("name", ["approved", "rejected", "timed out"])
def test_however_it_ended_its_evidence_holds(ended: dict[str, Any], name: str, tmp_path: Path) -> None:
    _, tags, release = end(ended[name])
    bundle = release.fetch(f"evidence/{release.policy}-{version_of(release)}.zip", tmp_path)
    package = release.fetch("package", tmp_path)
    checked = verify(bundle, tags["evidence_sha256"], package)
    assert checked["problems"] == []
    assert (checked["verdict"] is not None) == (name == "approved")
