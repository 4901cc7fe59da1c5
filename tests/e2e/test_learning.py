"""Online learning on the live stack: a weak champion's log becomes a candidate whose canary shows that it is better.

Training, two releases and their episodes take many minutes: too long for `make test`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bentos.client import GatewayClient
from tasks.build.training.environments import make
from tasks.canary.traffic import play
from tasks.control.plane import ControlPlane
from tasks.learning.run import EVALUATION, LEARNING, LINEAGE, Learning
from tasks.spec.files import load
from tasks.stack.airflow_api import Airflow, Run
from tasks.stack.lifecycle import Running
from tasks.stack.release_progress import outcome
from tasks.tracking.release import Release
from tests.bentos.gateway_process import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]
POLICY = "swinger"
EPISODES = 50
TRAFFIC = 4_030_000
"""The first seed of the episodes, as `benchmarks.learning` has it for its seed 3."""


def told(url: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Play episodes and tell every step's reward; their returns."""
    environments = [make(load(POLICY).environment) for _ in range(EPISODES)]
    observed = [one.reset(seed=TRAFFIC + number)[0] for number, one in enumerate(environments)]
    returns, running, step = np.zeros(EPISODES), True, 0
    with GatewayClient(url) as client:
        ids = [one["episode_id"] for one in client.start_episodes(POLICY, [None] * EPISODES)]
        while running:
            actions = client.act(POLICY, [one.tolist() for one in observed], ids)["actions"]
            steps = []
            for number, action in enumerate(actions):
                found = environments[number].step(np.asarray(action, np.float32))
                observed[number], reward, terminated, truncated = found[:4]
                returns[number] += float(reward)
                steps.append(
                    {
                        "episode_id": ids[number],
                        "step": step,
                        "reward": float(reward),
                        "terminated": terminated,
                        "truncated": truncated,
                        "next_observation": observed[number].tolist(),
                    }
                )
            assert client.rewards(POLICY, steps)["accepted"] == EPISODES
            running, step = not truncated, step + 1  # every episode of Pendulum has as many steps
    return returns


@pytest.fixture(scope="module")
def learned(stack: Running, airflow: Airflow) -> dict[str, Any]:
    """A weak champion, released; its log; what was learned of it; and the release of that."""
    release, learn = f"release_{POLICY}", f"learn_{POLICY}"
    airflow.await_dag(learn, timeout=120)
    first = airflow.trigger(release, {"simulate_users": 32})
    champion = airflow.follow(release, first.run_id, timeout=2400)
    assert outcome(POLICY, champion)["outcome"] == "promoted", outcome(POLICY, champion)
    returns = told(stack.gateway)
    asked = airflow.trigger(learn, {})
    run = airflow.follow(learn, asked.run_id, timeout=2400)
    learned_run = f"learned__{asked.run_id}"
    wait_until(lambda: ControlPlane("test").state(POLICY)["canary"], "its canary begins", 2400, 0.5)
    traffic = play(POLICY, stack.gateway, concurrency=32, until_canary_ends=True, seed=1)
    ended = airflow.follow(release, learned_run, timeout=2400)
    return {"returns": returns, "run": run, "release": ended, "traffic": traffic}


def test_the_log_becomes_a_dataset_and_a_candidate_that_goes_on(learned: dict[str, Any]) -> None:
    run: Run = learned["run"]
    assert [task.state for task in run.tasks] == ["success"] * 4
    learning = Learning.find(POLICY, run.run_id)
    assert learning is not None
    lineage, document = learning.need_json(LINEAGE), learning.need_json(LEARNING)
    assert lineage["champion"]["version"] == "1"
    # simulated users tell outcomes, not steps: only what was told step by step is learned from
    assert (lineage["counts"]["episodes"], lineage["counts"]["transitions"]) == (EPISODES, 200 * EPISODES)
    assert lineage["mean_return"] == pytest.approx(learned["returns"].mean())
    assert document["dataset_sha256"] == lineage["sha256"]
    assert learning.need_json(EVALUATION)["passed"] is True


def test_a_superiority_canary_promotes_what_was_learned(learned: dict[str, Any]) -> None:
    run: Run = learned["release"]
    assert outcome(POLICY, run)["outcome"] == "promoted", outcome(POLICY, run)
    release = Release.get(POLICY, run.run_id)
    assert (release.params.source, release.params.objective) == ("learned", "superiority")
    found = release.need_json("canary/verdict.json")
    assert (found["verdict"], found["difference"]["lower"] > 0) == ("promote", True)
    state = ControlPlane("test").state(POLICY)
    assert (state["champion"], state["previous"], state["canary"]) == ("2", "1", None)
    assert learned["traffic"]["failures"] == 0
