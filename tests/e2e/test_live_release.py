"""Releases on the live stack on bad days: the scheduler killed, a second release meanwhile, MLflow down."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import pytest

from bentos import settings
from tasks.control.plane import ControlPlane
from tasks.stack import supervisor
from tasks.stack.airflow_api import Airflow, Run
from tasks.stack.lifecycle import Running, up
from tasks.stack.release_progress import outcome
from tasks.tracking.release import Release
from tests.bentos.gateway_process import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]
DAG = "release_cartpole"
MODEST = {"timesteps": 8_000, "seed": 7, "minimum_mean_return": 60, "simulate_users": 32}
HOPELESS = {"timesteps": 256, "seed": 7, "minimum_mean_return": 490}


@pytest.fixture(scope="module")
def releases(airflow: Airflow) -> dict[str, Any]:
    """A release whose scheduler was killed while it trained, and a hopeless one that was triggered meanwhile."""
    first = airflow.trigger(DAG, MODEST)
    second = airflow.trigger(DAG, HOPELESS)
    waiting: list[str] = []
    killed: list[int] = []

    def watch(run: Run) -> None:
        waiting.append(airflow.run(DAG, second.run_id).state)
        if not killed and any(task.task_id == "build.train" and task.state == "running" for task in run.tasks):
            killed.append(supervisor.Supervisor().states()["airflow-scheduler"]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    ended = airflow.follow(DAG, first.run_id, on_change=watch, timeout=1200)
    meanwhile = set(waiting[:-1])
    rejected = airflow.follow(DAG, second.run_id, timeout=600)
    return {"killed": killed, "first": ended, "meanwhile": meanwhile, "second": rejected}


def test_a_release_whose_scheduler_was_killed_ends_as_it_would_have(releases: dict[str, Any]) -> None:
    run: Run = releases["first"]
    assert releases["killed"]
    assert run.state == "success"
    assert outcome("cartpole", run)["outcome"] == "promoted"
    (train,) = [task for task in run.tasks if task.task_id == "build.train"]
    assert train.try_number == 2


def test_it_registered_one_version_which_is_champion(releases: dict[str, Any]) -> None:
    state = ControlPlane("test").state("cartpole")
    assert (state["champion"], state["canary"], list(state["versions"])) == ("1", None, ["1"])
    assert state["versions"]["1"]["validation_status"] == "promoted"


def test_the_gateway_serves_it_and_no_simulated_user_saw_a_failure(stack: Running, releases: dict[str, Any]) -> None:
    answer = httpx.post(f"{stack.gateway}/v1/policies/cartpole/act", json={"observation": [0.0, 0.0, 0.1, 0.0]}).json()
    assert (answer["version"], answer["source"]) == ("1", "policy")
    release = Release.get("cartpole", releases["first"].run_id)
    traffic = release.get_json("canary/traffic.json")
    assert traffic["failures"] == 0
    assert traffic["decisions"] > 1_000


def test_both_checklists_passed_with_every_item(releases: dict[str, Any]) -> None:
    release = Release.get("cartpole", releases["first"].run_id)
    for phase, items in (("pre_deployment", 10), ("post_deployment", 8)):
        document = release.get_json(f"checklist/{phase}.json")
        assert document["verdict"] == "pass"
        assert len(document["checks"]) == items


def test_a_second_release_of_the_policy_waited_for_the_first(releases: dict[str, Any]) -> None:
    assert releases["meanwhile"] == {"queued"}


def test_a_trainer_that_misses_the_minimum_is_rejected_with_its_evidence(releases: dict[str, Any]) -> None:
    run: Run = releases["second"]
    assert run.state == "failed"
    assert "build.evaluate" in {task.task_id for task in run.failed()}
    assert outcome("cartpole", run)["outcome"] == "rejected"
    evaluation = Release.get("cartpole", run.run_id).get_json("evaluation/evaluation.json")
    assert evaluation["mean"] < evaluation["minimum"] == 490
    assert ControlPlane("test").state("cartpole")["champion"] == "1"


def test_the_gateway_serves_on_while_mlflow_is_down_even_through_a_restart(
    stack: Running, releases: dict[str, Any]
) -> None:
    control = supervisor.Supervisor()

    def version() -> Any:
        try:
            url = f"{settings.gateway_url()}/v1/policies/cartpole/act"
            return httpx.post(url, json={"observation": [0.0, 0.0, 0.1, 0.0]}, timeout=5).json().get("version")
        except httpx.HTTPError:
            return None

    control.stop("mlflow")
    try:
        assert version() == "1"
        control.stop("gateway")
        control.start("gateway")
        wait_until(lambda: version() == "1", "the gateway serves", 120, 0.5)
    finally:
        control.start("mlflow")
    assert up().already is True
