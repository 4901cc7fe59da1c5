"""Two workers of one gateway: what one of them suffers, both know; a version that kills them is put away."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bentos.client import GatewayClient
from bentos.package.manifest import Serve
from tests.bentos.gateway_process import GatewayProcess, MlflowProcess, wait_until
from tests.bentos.poisoned_service import POISON
from tests.bentos.policy_packages import constant_graph, discrete_graph, write_package

HARMLESS = [[0.0, 0.0, 0.0, 0.0]]
POISONED = [[POISON, 0.0, 0.0, 0.0]]


@pytest.fixture(scope="module")
def gateway(mlflow: MlflowProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("two-workers")
    service = "tests.bentos.poisoned_service:Gateway"
    found = GatewayProcess(home, service, MLFLOW_TRACKING_URI=mlflow.url, AIRLOCK_WORKERS="2")
    yield found
    found.stop()


class Policy:
    """Champion 1 says 0; challenger 2 has half of the users."""

    def __init__(self, mlflow: MlflowProcess, gateway: GatewayProcess, directory: Path, challenger: Any) -> None:
        self.name = f"p{secrets.token_hex(4)}"
        self.gateway = gateway
        self._mlflow = mlflow
        # a busy machine shall not bring its fallback in
        serve = Serve(fallback={"constant": 1}, max_errors=5, deadline_ms=60_000)
        for number, (graph, status) in enumerate(((constant_graph(0), "promoted"), (challenger, "approved")), start=1):
            digest = write_package(directory / f"{number}", name=self.name, graph=graph, serve=serve)
            assert mlflow.publish(self.name, directory / f"{number}", digest, status) == f"{number}"
        mlflow.alias(self.name, "champion", "1")
        wait_until(lambda: self.everywhere(lambda route: route["versions"].get("2") == "ready"), "it is loaded")

    def canary(self, weight: float) -> None:
        """Start the canary and wait until all workers run it."""
        document = {"generation": "g", "champion": "1", "version": "2", "weight": weight, "salt": "0a"}
        self._mlflow.tag(self.name, "canary", json.dumps({**document, "started_at": time.time()}))
        self.runs_everywhere()

    def runs_everywhere(self) -> None:
        """Wait until there are two workers and both run the canary."""
        wait_until(lambda: self.everywhere(lambda route: route["canary"] is not None), "the canary runs")

    def everywhere(self, condition: Callable[[dict[str, Any]], bool]) -> bool:
        """Whether both workers live, have started, and last logged a route of the policy that is as expected."""
        return self.gateway.everywhere(self.name, condition)

    def seen(self) -> dict[str, Any]:
        """The policy's document, by a connection of its own."""
        with GatewayClient(self.gateway.url) as client:
            return client.policy(self.name)

    def challenged(self) -> str:
        """An episode of the challenger."""
        for _ in range(20):
            for one in self.gateway.client.start_episodes(self.name, [None] * 20):
                if one["arm"] == "challenger":
                    return str(one["episode_id"])
        raise AssertionError("no episode of the challenger")

    def ask(self, observations: list[list[float]], episode: str | None = None) -> dict[str, Any] | None:
        """One request by a connection of its own, never tried again; None when it broke."""
        body = {"observations": observations, **({"episode_ids": [episode]} if episode else {})}
        try:
            answer = httpx.post(f"{self.gateway.url}/v1/policies/{self.name}/act", json=body, timeout=30)
        except httpx.HTTPError:
            return None
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def events(self) -> list[str]:
        """The kinds of the policy's fault events, in order."""
        with sqlite3.connect(self.gateway.home / "airlock.db", timeout=30) as database:
            rows = database.execute("SELECT kind FROM fault_events WHERE policy = ? ORDER BY id", (self.name,))
            return [kind for (kind,) in rows]


def test_a_challenger_without_finite_answers_is_out_at_both_workers_within_twenty_requests(
    mlflow: MlflowProcess, gateway: GatewayProcess, tmp_path: Path
) -> None:
    policy = Policy(mlflow, gateway, tmp_path, discrete_graph([[float("nan")] * 2] * 4, [0, 0]))
    policy.canary(0.5)
    episode = policy.challenged()
    for _ in range(20):
        answer = policy.ask(HARMLESS, episode)
        assert answer is not None
        assert (answer["actions"], answer["versions"], answer["sources"]) == ([0], ["1"], ["fallback"])
    wait_until(lambda: policy.everywhere(lambda route: route["withdrawn"] == ["2"]), "all workers withdrew it")
    assert {one["arm"] for one in gateway.client.start_episodes(policy.name, [None] * 20)} == {"champion"}
    wait_until(lambda: "breaker_open" in policy.events(), "the event")
    wait_until(lambda: policy.seen()["arms"]["challenger"]["faults"]["non_finite"], "the faults are told")
    assert policy.seen()["arms"]["challenger"]["faults"]["non_finite"] <= 10, "no worker asked it more than five times"


def kill_one_worker(gateway: GatewayProcess, policy: Policy, episode: str | None) -> None:
    """Poison one worker, when both could be: a shadow kills it some time after the answer."""
    policy.runs_everywhere()
    before = {worker.pid for worker in gateway.workers()}
    policy.ask(POISONED, episode)
    wait_until(lambda: before - {worker.pid for worker in gateway.workers()}, "a worker died")


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_challenger_that_kills_its_worker_twice_is_quarantined_in_shadow_as_in_service(
    mlflow: MlflowProcess, gateway: GatewayProcess, tmp_path: Path, weight: float
) -> None:
    policy = Policy(mlflow, gateway, tmp_path, constant_graph(1))
    policy.canary(weight)
    episode = policy.challenged() if weight else None
    for death in (1, 2):
        kill_one_worker(gateway, policy, episode)
        wait_until(lambda count=death: policy.events().count("killed_worker") == count, "the death is stored")
    wait_until(lambda: policy.everywhere(lambda route: route["versions"]["2"] == "quarantined"), "it is refused")
    seen = policy.seen()
    assert seen["canary"] is None
    assert "killed its worker 2 times" in seen["versions"]["2"]["reason"]
    assert policy.events().count("quarantined") == 1
    for _ in range(8):
        answer = wait_until(lambda: policy.ask(POISONED, episode), "an answer")
        assert (answer["versions"], answer["actions"]) == (["1"], [0])
        assert answer["sources"] == (["fallback"] if weight else ["policy"])


def test_a_worker_killed_while_the_challenger_is_idle_is_nobodys_fault(
    mlflow: MlflowProcess, gateway: GatewayProcess, tmp_path: Path
) -> None:
    policy = Policy(mlflow, gateway, tmp_path, constant_graph(1))
    policy.canary(0.5)
    for _ in range(2):
        policy.runs_everywhere()
        killed = gateway.workers()[0]
        killed.kill()
        wait_until(lambda killed=killed: killed not in gateway.workers(), "it is gone")
    policy.runs_everywhere()
    assert policy.events() == []
