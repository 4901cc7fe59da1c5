"""The world of two champions changes on the live stack: one is rolled back, the other asks for a release."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import pytest

from bentos import settings
from bentos.store import tables
from tasks.canary.players import Game, Gateway, Player
from tasks.control import audit
from tasks.control.plane import ControlPlane
from tasks.monitoring.live import metrics_page
from tasks.monitoring.sources import figures
from tasks.stack.airflow_api import Airflow, Run
from tasks.stack.lifecycle import Running
from tasks.stages.register import register
from tasks.tracking.release import Release
from tests.bentos.gateway_process import wait_until
from tests.tasks import fabricated

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]
POLICIES = {"rolling": "2", "learner": "1"}
"""The policies of `conftest.ADDED`, with the champion that each has."""

HEAVY = {"gravity": 100.0, "force_mag": 3.0}
"""A cartpole that falls ten times as fast and is pushed a third as hard: 44 steps where there were 500."""


def promoted(policy: str, version: str) -> None:
    """Release versions up to that one, without their training and canaries."""
    control = ControlPlane("a test")
    for number in range(1, int(version) + 1):
        generation = f"manual__{number}"
        registered = register(fabricated.candidate(policy, generation, episodes=20))["version"]
        control.approve(policy, registered)
        control.start_canary(policy, registered, generation, 0.05)
        control.promote(policy, generation, "a test promotes it")


def game(url: str, policy: str) -> Game:
    """Users of the policy whose carts are all heavy."""
    players = []
    for seed in range(32):
        environment = gymnasium.make("CartPole-v1")
        for name, value in HEAVY.items():
            setattr(environment.unwrapped, name, value)
        players.append(Player(environment, seed))
    return Game(Gateway(url, policy), players, None)


def play(games: dict[str, Game], drifted: bool) -> None:
    """Two thousand decisions more for each policy and, with `drifted`, until the gateway is sure of the drift."""
    decided = {policy: running.tally.decisions for policy, running in games.items()}
    deadline = time.monotonic() + 300
    looked = 0.0
    while True:
        for running in games.values():
            running.open(None)
            running.step()
            running.report()
        enough = all(running.tally.decisions > decided[policy] + 2_000 for policy, running in games.items())
        if enough and time.monotonic() - looked > 2:
            looked = time.monotonic()
            page = metrics_page(settings.gateway_url()) if drifted else ""
            evidence = [
                figures(page, policy, version).get("observation_drift", 0) for policy, version in POLICIES.items()
            ]
            if not drifted or min(evidence) >= 1:
                break
        assert time.monotonic() < deadline, "the gateway did not notice the drift"
    for running in games.values():
        running.report(everything=True)
    time.sleep(2)  # gateways store what they counted once a second


@pytest.fixture(scope="module")
def runs(stack: Running, airflow: Airflow) -> dict[str, list[dict[str, Any]]]:
    """What each run of the monitor found, in order, by policy."""
    for policy, version in POLICIES.items():
        airflow.await_dag(f"monitor_{policy}", timeout=120)
        promoted(policy, version)
    games = {policy: game(stack.gateway, policy) for policy in POLICIES}
    for policy, version in POLICIES.items():
        asked = games[policy].gateway
        wait_until(
            lambda asked=asked, version=version: asked.call("GET", "").get("champion") == version, "it serves", 120
        )
    found: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
    for first in (True, False):
        play(games, drifted=first)
        started = {policy: airflow.trigger(f"monitor_{policy}") for policy in POLICIES if first or policy == "rolling"}
        for policy, run in started.items():
            ended = airflow.follow(run.dag_id, run.run_id, timeout=300)
            assert ended.state == "success", ended
            found[policy].append(result(airflow, ended))
    return found


def result(airflow: Airflow, run: Run) -> dict[str, Any]:
    """What the run's look at the champion returned."""
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/look/xcomEntries/return_value"
    return dict(airflow.request("GET", path, params={"deserialize": True}).json()["value"])


def test_drift_and_decay_raise_their_alerts_in_the_first_run(runs: dict[str, list[dict[str, Any]]]) -> None:
    for policy in POLICIES:
        first = runs[policy][0]
        assert first["verdict"] == "fail"
        assert {"OOD_OBSERVATION", "PERFORMANCE_DEGRADATION"} <= set(first["alerts"])


def test_the_second_breach_rolls_back_to_the_version_before(runs: dict[str, list[dict[str, Any]]]) -> None:
    first, second = runs["rolling"]
    assert (first["action"]["what"], second["action"]["what"]) == ("none", "monitor_rollback")
    state = ControlPlane("a test").state("rolling")
    assert (state["champion"], state["versions"]["2"]["validation_status"]) == ("1", "rolled_back")
    gateway = Gateway(settings.gateway_url(), "rolling")
    wait_until(lambda: gateway.call("GET", "").get("champion") == "1", "the gateway went back", 60)


def test_the_other_policy_gets_a_release_that_must_be_better(
    airflow: Airflow, runs: dict[str, list[dict[str, Any]]]
) -> None:
    assert runs["learner"][0]["action"]["what"] == "retraining"

    def released() -> Any:
        return airflow.request("GET", "/dags/release_learner/dagRuns").json()["dag_runs"]

    (run,) = wait_until(released, "a release was started by the event", 120)
    assert run["run_type"] == "asset_triggered"
    airflow.follow("release_learner", run["dag_run_id"], timeout=600)
    release = Release.get("learner", run["dag_run_id"])
    assert release.spec.canary.objective == "superiority"
    assert release.get_json("evaluation/evaluation.json")["minimum"] == 490
    assert ControlPlane("a test").state("learner")["champion"] == "1"


def test_the_story_can_be_read_afterwards(runs: dict[str, list[dict[str, Any]]]) -> None:
    engine = tables.connect(settings.database_url())
    told = [(event.what, event.words) for event in reversed(audit.story(engine, "rolling"))]
    raised = next(index for index, (what, words) in enumerate(told) if words.startswith("PERFORMANCE_DEGRADATION"))
    (acted,) = [index for index, (what, _) in enumerate(told) if what == "monitor_rollback"]
    assert told[raised][0] == "alert_raised"
    assert raised < acted
    assert "reward_trend" in told[acted][1]
    assert "retraining" in [event.what for event in audit.story(engine, "learner")]
