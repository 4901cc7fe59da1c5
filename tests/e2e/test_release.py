"""Releases on the live stack, in one journey: promoted through a killed scheduler, queued, rejected, and two at once.

The journey is long, so it is made once; each test reads one promise off it.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from bentos import home
from tasks.airflow_api import Airflow, Run
from tasks.follow import STAGES, outcome
from tasks.promote import ControlPlane
from tasks.register import register
from tasks.results import results
from tasks.runs import Release
from tasks.select import select
from tasks.spec import POST_DEPLOYMENT, PRE_DEPLOYMENT
from tasks.stack import supervisor
from tasks.stack.lifecycle import Running

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

GOOD = {
    "timesteps": 8_000,
    "seed": 7,
    "minimum_mean_return": 60,
    "simulate_users": 32,
    "canary_steps": [0.25, 0.5],
}
HOPELESS = {"timesteps": 500, "seed": 1, "minimum_mean_return": 499}
SWING_UP = {"simulate_users": 32, "canary_steps": [0.5]}


@dataclass(frozen=True)
class Journey:
    """What was seen on the way, and how each run ended."""

    good: Run
    hopeless: Run
    pendulum: Run
    hopeless_while_good_ran: str
    scheduler_killed_in: set[str]
    champion_after_good: str | None


def until(airflow: Airflow, run: Run, condition: Any, seconds: float) -> Run:
    deadline = time.monotonic() + seconds
    while True:
        seen = airflow.run(run.dag_id, run.run_id)
        if condition(seen):
            return seen
        assert time.monotonic() < deadline, f"{run.dag_id} {run.run_id}: {seen}"
        time.sleep(1)


def active(run: Run) -> set[str]:
    return {task.task_id for task in run.tasks if task.state == "running"}


@pytest.fixture(scope="module")
def journey(stack: Running) -> Journey:
    with Airflow(stack.airflow, stack.user, stack.password) as airflow:
        for policy in ("cartpole", "pendulum"):
            airflow.await_dag(f"release_{policy}", timeout=120)
        good = airflow.trigger("release_cartpole", GOOD)
        hopeless = airflow.trigger("release_cartpole", HOPELESS)
        seen = until(airflow, good, lambda run: {"build.evaluate", "build.export"} & active(run), 240)
        os.kill(supervisor.Supervisor().states()["airflow-scheduler"]["pid"], signal.SIGKILL)
        killed_in = active(seen)
        until(airflow, good, lambda run: active(run) & {"build.quantize", "build.benchmark"}, 240)
        waiting = airflow.run("release_cartpole", hopeless.run_id).state
        good = until(airflow, good, lambda run: run.ended, 480)
        champion = ControlPlane("test").state("cartpole")["champion"]
        pendulum = airflow.trigger("release_pendulum", SWING_UP)
        hopeless = until(airflow, hopeless, lambda run: run.ended, 300)
        pendulum = until(airflow, pendulum, lambda run: run.ended, 600)
    return Journey(good, hopeless, pendulum, waiting, killed_in, champion)


def release_of(run: Run) -> Release:
    return Release.get(run.dag_id.removeprefix("release_"), run.run_id)


@pytest.mark.parametrize("which", ["good", "pendulum"])
def test_a_release_goes_from_training_to_champion(journey: Journey, which: str) -> None:
    run: Run = getattr(journey, which)
    assert run.state == "success", outcome(run.dag_id.removeprefix("release_"), run)
    assert [task for task in run.tasks if task.state != "success"] == []
    assert len(run.tasks) <= 16
    assert {task.group for task in run.tasks} == set(STAGES)
    policy = run.dag_id.removeprefix("release_")
    state = ControlPlane("test").state(policy)
    report = release_of(run).get_json("report.json")
    assert report["outcome"] == "promoted"
    tags = state["versions"][report["version"]]
    assert (tags["validation_status"], tags["verdict"]) == ("promoted", "promote")
    assert {f"check.{check}" for check in (*PRE_DEPLOYMENT, *POST_DEPLOYMENT)} <= set(tags)
    assert {tags[f"check.{check}"] for check in (*PRE_DEPLOYMENT, *POST_DEPLOYMENT)} == {"pass"}
    assert tags["bento_tag"] == f"{policy}:{report['version']}"
    assert state["champion"] == report["version"]
    assert state["canary"] is None


def test_a_scheduler_killed_in_mid_release_changes_nothing(journey: Journey) -> None:
    assert journey.scheduler_killed_in
    assert journey.good.state == "success"


def test_a_second_release_of_a_policy_waits_for_the_first(journey: Journey) -> None:
    assert journey.hopeless_while_good_ran == "queued"
    last = max(task.ended for task in journey.good.tasks if task.ended)
    first = min(task.started for task in journey.hopeless.tasks if task.started)
    assert first >= last


def test_a_trainer_that_misses_the_minimum_is_rejected_with_its_evidence(journey: Journey) -> None:
    assert journey.hopeless.state == "failed"
    release = release_of(journey.hopeless)
    report = release.get_json("report.json")
    assert report["outcome"] == "rejected"
    assert "below" in report["reason"]
    evaluation = release.get_json("evaluation/evaluation.json")
    assert evaluation["passed"] is False
    assert len(evaluation["returns"]) == evaluation["episodes"]
    assert [task.task_id for task in journey.hopeless.tasks if task.state == "failed"] == ["build.evaluate", "report"]


def test_the_champion_is_untouched_by_the_rejected_release(journey: Journey) -> None:
    assert journey.champion_after_good == "1"
    assert ControlPlane("test").state("cartpole")["champion"] == journey.champion_after_good


def test_no_request_of_the_simulated_users_failed_and_the_results_can_be_read(journey: Journey) -> None:
    for run in (journey.good, journey.pendulum):
        traffic = release_of(run).get_json("canary/traffic.json")
        assert traffic["failures"] == 0
        assert traffic["decisions"] > 1000
    found = results("cartpole")
    assert found["winner"] in ("challenger", "none")


def test_a_stage_run_again_leaves_the_same_state(journey: Journey, stack: Running) -> None:
    release = release_of(journey.good)
    before = ControlPlane("test").state("cartpole")
    digest = before["versions"]["1"]["package_sha256"]
    assert register(release)["version"] == "1"
    assert select(release)["package_sha256"] == digest
    assert ControlPlane("test").state("cartpole") == before


def test_the_gateway_serves_both_champions(journey: Journey) -> None:
    for policy, observation in (("cartpole", [0.0, 0.1, 0.0, -0.1]), ("pendulum", [1.0, 0.0, 0.1])):
        answer = httpx.post(f"{home.gateway_url()}/v1/policies/{policy}/act", json={"observation": observation})
        assert answer.status_code == 200
        assert answer.json()["source"] == "policy"
        assert answer.json()["version"] == "1"
