"""A release of pendulum on the live stack, beside the champion of another policy: every stage green, and repeatable."""

from __future__ import annotations

import httpx
import pytest

from bentos import settings
from tasks.control.plane import ControlPlane
from tasks.spec.sections import POST_DEPLOYMENT, PRE_DEPLOYMENT
from tasks.stack.airflow_api import Airflow, Run
from tasks.stack.lifecycle import Running
from tasks.stack.release_progress import STAGES, outcome
from tasks.stages.register import register
from tasks.stages.select import select
from tasks.tracking.release import Release

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

CHECKS = (*PRE_DEPLOYMENT, *POST_DEPLOYMENT)


@pytest.fixture(scope="module")
def run(stack: Running) -> Run:
    """The ended run of release_pendulum."""
    with Airflow(stack.airflow, stack.user, stack.password) as airflow:
        airflow.await_dag("release_pendulum", timeout=120)
        begun = airflow.trigger(
            "release_pendulum", {"timesteps": 5_000, "simulate_users": 32, "canary_steps": [0.25, 0.5]}
        )
        return airflow.follow("release_pendulum", begun.run_id, timeout=800)


@pytest.fixture(scope="module")
def release(run: Run) -> Release:
    return Release.get("pendulum", run.run_id)


def test_every_task_of_every_stage_is_green(run: Run) -> None:
    assert run.state == "success", outcome("pendulum", run)
    assert [task for task in run.tasks if task.state != "success"] == []
    assert {task.group for task in run.tasks} == set(STAGES)
    assert len(run.tasks) <= 16


def test_a_continuous_policy_becomes_champion_by_its_clipped_returns(run: Run, release: Release) -> None:
    assert release.get_json("report.json")["outcome"] == "promoted"
    state = ControlPlane("test").state("pendulum")
    assert (state["champion"], state["canary"]) == ("1", None)
    tags = state["versions"]["1"]
    assert (tags["validation_status"], tags["verdict"]) == ("promoted", "promote")
    assert {tags.get(f"check.{check}") for check in CHECKS} == {"pass"}
    assert tags["bento_tag"] == "pendulum:1"


def test_a_stage_run_again_leaves_the_same_state(run: Run, release: Release) -> None:
    before = ControlPlane("test").state("pendulum")
    assert register(release)["version"] == "1"
    assert select(release)["package_sha256"] == before["versions"]["1"]["package_sha256"]
    assert ControlPlane("test").state("pendulum") == before


def test_what_passes_between_tasks_stays_small(run: Run, stack: Running) -> None:
    with Airflow(stack.airflow, stack.user, stack.password) as airflow:
        for task in run.tasks:
            path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task.task_id}/xcomEntries/return_value"
            answer = airflow.request("GET", path, params={"map_index": task.map_index})
            assert len(answer.content) < 8192, task.task_id


def test_the_gateway_answers_within_the_action_space(run: Run) -> None:
    answer = httpx.post(
        f"{settings.gateway_url()}/v1/policies/pendulum/act", json={"observations": [[1.0, 0.0, 0.1], [-1.0, 0.0, 8.0]]}
    ).json()
    assert answer["versions"] == ["1", "1"]
    assert answer["sources"] == ["policy", "policy"]
    assert all(-2.0 <= action[0] <= 2.0 for action in answer["actions"])
