"""Releases on the cluster: through Celery's two queues, PostgreSQL, Redis and S3, on two gateways behind HAProxy."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from tasks.control.plane import ControlPlane
from tasks.stack.airflow_api import Airflow, Run
from tasks.stack.demo import PLANS
from tasks.tracking.registry import Registry
from tasks.tracking.release import Release
from tests.cluster.harness import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
SECONDS = 3600.0
USERS = 32


@pytest.fixture(scope="module")
def released(airflow: Airflow) -> list[Run]:
    """The demo's releases of cartpole, one after another: a first one, a better one, a regression."""
    ended = []
    for plan in PLANS:
        run = airflow.trigger("release_cartpole", {**plan.params, "simulate_users": USERS})
        ended.append(airflow.follow("release_cartpole", run.run_id, timeout=SECONDS))
    return ended


def verdict(run: Run) -> dict[str, Any]:
    """What the canary of a release ended with."""
    return dict(Release.get(run.dag_id.removeprefix("release_"), run.run_id).get_json("canary/verdict.json") or {})


def test_the_first_and_the_better_one_are_promoted_and_the_regression_rolled_back(released: list[Run]) -> None:
    assert [(run.state, verdict(run).get("verdict")) for run in released] == [("success", p.verdict) for p in PLANS]
    state = ControlPlane("a test").state("cartpole")
    assert (state["champion"], state["canary"], sorted(state["versions"])) == ("2", None, ["1", "2", "3"])


def test_no_request_through_the_balancer_failed(released: list[Run]) -> None:
    for run in released:
        traffic = Release.get("cartpole", run.run_id).get_json("canary/traffic.json")
        assert traffic["failures"] == 0, traffic["failed"]
        assert traffic["decisions"] > 1_000
        assert traffic["outcomes"]["accepted"] == traffic["episodes"]


def test_the_tasks_ran_on_workers_of_both_queues(airflow: Airflow, cluster: Cluster, released: list[Run]) -> None:
    path = f"/dags/release_cartpole/dagRuns/{released[0].run_id}/taskInstances"
    tasks = airflow.request("GET", path).json()["task_instances"]
    queues = {task["task_id"]: task["queue"] for task in tasks if task["state"] == "success"}
    assert {queues["build.train"], queues["build.benchmark"]} == {"train"}
    assert {queues["register.model_version"], queues["canary.verdict"], queues["report"]} == {"default"}


def test_both_gateways_served_and_prometheus_saw_both(cluster: Cluster, released: list[Run]) -> None:
    query = 'sum by (instance) (rl_inference_total{policy="cartpole"})'
    deadline = time.monotonic() + 120
    while True:
        answer = httpx.get(f"{cluster.url('prometheus')}/api/v1/query", params={"query": query}).json()
        served = {one["metric"]["instance"] for one in answer["data"]["result"] if float(one["value"][1]) > 0}
        if served == {cluster.url(f"gateway-{number}").removeprefix("http://") for number in (1, 2)}:
            return
        assert time.monotonic() < deadline, served
        time.sleep(1)


def test_packages_lie_in_the_object_store(cluster: Cluster, released: list[Run]) -> None:
    kept = list(cluster.places.volume("s3-data").rglob("policy.onnx"))
    assert len(kept) >= len(PLANS)


def test_two_releases_of_two_policies_at_once_do_not_touch_each_other(airflow: Airflow, released: list[Run]) -> None:
    asked = {
        "cartpole": {"timesteps": 30_000, "seed": 8, "simulate_users": 16, "max_units_per_arm": 200},
        "pendulum": {"timesteps": 2_000, "minimum_mean_return": -1_700, "simulate_users": 16, "max_units_per_arm": 200},
    }
    started = {policy: airflow.trigger(f"release_{policy}", params) for policy, params in asked.items()}
    together = set()

    def watch(run: Run) -> None:
        states = {policy: airflow.run(one.dag_id, one.run_id).state for policy, one in started.items()}
        together.add(tuple(states.values()))

    ended = {
        policy: airflow.follow(run.dag_id, run.run_id, on_change=watch, timeout=SECONDS)
        for policy, run in started.items()
    }
    assert ("running", "running") in together
    canaries: dict[str, dict[str, Any]] = {policy: verdict(run) for policy, run in ended.items()}
    assert {policy: run.state for policy, run in ended.items()} == dict.fromkeys(asked, "success")
    with Registry() as registry, tables.connect(settings.database_url()).connect() as connection:
        for policy, run in ended.items():
            release = Release.get(policy, run.run_id)
            own = [version.version for version in registry.versions(policy) if version.run_id == release.run_id]
            assert own == [canaries[policy]["version"]]
            rows = tables.episodes.c
            own_canary = rows.generation == canaries[policy]["generation"]
            units = connection.execute(sa.select(rows.policy).where(own_canary).distinct()).scalars()
            assert list(units) == [policy]
            assert release.get_json("package/policy.json")["name"] == policy
            traffic = release.get_json("canary/traffic.json")
            assert (traffic["failures"], traffic["policy"]) == (0, policy)
            assert set(traffic["versions"]) <= {version.version for version in registry.versions(policy)} | {"None"}
