"""Airlock's PostgreSQL is killed, or hangs, under a canary with traffic: gateways decide on, and nothing is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from bentos.package.manifest import Serve
from bentos.store import tables
from bentos.store.writer import PATIENCE_SECONDS
from bentos.tokens import Signer
from tests.bentos.gateway_process import ADMIN_TOKEN, EPISODE_KEY, GatewayProcess, MlflowProcess, wait_until
from tests.bentos.policy_packages import constant_graph, discrete_graph, write_package
from tests.servers.load import Load
from tests.servers.postgres import Cluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

OBSERVATION = [0.0] * 4
NOT_A_NUMBER = discrete_graph([[float("nan")] * 2] * 4, [0, 0])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that a test may take away."""
    running = Cluster()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowProcess]:
    running = MlflowProcess(tmp_path_factory.mktemp("mlflow"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(
    cluster: Cluster, registry: MlflowProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """Two workers."""
    running = GatewayProcess(
        tmp_path_factory.mktemp("gateway"),
        MLFLOW_TRACKING_URI=registry.url,
        AIRLOCK_DATABASE_URL=cluster.database(),
        AIRLOCK_WORKERS="2",
    )
    yield running
    running.stop()


class Canary:
    """A policy with a running canary at weight 0.5: the champion answers 0, the challenger as its `graph` says."""

    def __init__(self, name: str, gateway: GatewayProcess, registry: MlflowProcess, scratch: Path, graph: Any) -> None:
        self.name = name
        self.url = f"{gateway.url}/v1/policies/{name}"
        self.first, self.second = (
            registry.publish(
                name,
                scratch / f"{name}-{number}",
                write_package(scratch / f"{name}-{number}", name=name, graph=graph, serve=Serve(max_errors=3)),
                status,
            )
            for number, (graph, status) in enumerate([(constant_graph(0), "promoted"), (graph, "approved")])
        )
        registry.alias(name, "champion", self.first)
        document = {"generation": "g1", "champion": self.first, "version": self.second, "weight": 0.5, "salt": "0a0b"}
        registry.tag(name, "canary", json.dumps({**document, "started_at": time.time()}))
        self.awaited()

    def awaited(self) -> None:
        """Return once both workers put episodes into the canary."""
        streak = 0

        def both() -> bool:
            nonlocal streak
            streak = streak + 1 if self.begin()[1] != "champion" else 0
            return streak >= 20

        wait_until(both, "the canary runs in both workers")

    def begin(self) -> tuple[str, str]:
        """Start an episode: its id and its arm."""
        answer = httpx.post(f"{self.url}/episodes", json={}, timeout=60)
        if answer.status_code in (404, 503):  # not followed yet
            return "", "champion"
        found = answer.raise_for_status().json()
        return found["episode_id"], found["arm"]

    def act(self, episode: str | None = None) -> httpx.Response:
        """Ask for an action, without trying again."""
        body = {"observation": OBSERVATION, **({"episode_id": episode} if episode else {})}
        return httpx.post(f"{self.url}/act", json=body, timeout=60)


def stored(cluster_url: str, policy: str) -> tuple[list[tuple[str, float]], dict[str, str]]:
    """The policy's reported outcomes, and the arms of its stored starts, by nonce."""
    engine = sa.create_engine(cluster_url, poolclass=sa.NullPool)
    table, starts = tables.outcomes.c, tables.episodes.c
    reported = sa.select(table.episode, table.episode_return).where(table.policy == policy, table.kind == "reported")
    with engine.connect() as connection:
        rows = connection.execute(reported)
        begun = connection.execute(sa.select(starts.episode, starts.arm).where(starts.policy == policy))
        return [(row.episode, row.episode_return) for row in rows], {row.episode: row.arm for row in begun}


def nonce(episode: str) -> str:
    return Signer(EPISODE_KEY).episode(episode).nonce


def check_nothing_lost(load: Load, policy: str, database: str) -> None:
    """Every decision was answered; what was acknowledged is stored, once and as it was sent; so is each start."""
    assert not load.failed
    rows, starts = stored(database, policy)
    found = dict(rows)
    assert len(rows) == len(found), "one outcome an episode"
    assert {nonce(episode): value for episode, value in load.acknowledged.items()} == found
    assert load.told["accepted"] + load.told["duplicates"] == len(load.acknowledged)
    assert load.told["accepted"] <= len(rows)
    assert load.refused, "outcomes were sent while the store was away"
    assert set(load.refused) == {(503, True)}
    assert load.lost == 0
    begun = {nonce(episode): arm for episode, arm in load.begun.items() if arm != "champion"}
    assert begun.items() <= starts.items()


def outage(cluster: Cluster, canary: Canary, load: Load) -> None:
    """Kill the store under load and start it again."""
    reported = len(load.acknowledged)
    wait_until(lambda: len(load.acknowledged) > reported + 20, "outcomes flow")
    refused, decided = load.refused.total(), load.decisions.total()
    cluster.kill()
    wait_until(lambda: load.refused.total() > refused + 20, "outcomes are refused")
    wait_until(lambda: load.decisions.total() > decided + 50, "it goes on deciding")
    begun = [canary.begin()[1] for _ in range(8)]
    assert set(begun) == {"champion"}, "an episode that cannot be stored stays outside of the experiment"
    cluster.start()
    canary.awaited()


def test_a_killed_store_costs_no_decision_and_no_outcome(
    cluster: Cluster, gateway: GatewayProcess, registry: MlflowProcess, tmp_path: Path
) -> None:
    canary = Canary("killed", gateway, registry, tmp_path, constant_graph(1))
    load = Load(gateway.url, canary.name, patience=0)
    try:
        outage(cluster, canary, load)
        outage(cluster, canary, load)
    finally:
        load.stop()
    check_nothing_lost(load, canary.name, gateway._environment["AIRLOCK_DATABASE_URL"])


def test_a_store_that_hangs_holds_up_no_decision_and_each_worker_one_commit(
    cluster: Cluster, gateway: GatewayProcess, registry: MlflowProcess, tmp_path: Path
) -> None:
    canary = Canary("hung", gateway, registry, tmp_path, constant_graph(1))
    load = Load(gateway.url, canary.name, patience=0)
    try:
        wait_until(lambda: len(load.acknowledged) > 20, "outcomes flow")
        cluster.hang()
        began = time.monotonic()
        decided = load.decisions.total()
        wait_until(lambda: load.decisions.total() > decided + 50, "it goes on deciding")
        wait_until(lambda: load.refused.total() > 50, "outcomes are refused")
        seconds = time.monotonic() - began
        assert seconds < 50 * PATIENCE_SECONDS / 4, "the requests did not wait one after another"
        assert httpx.get(canary.url, timeout=60).status_code == 200
        arms = {canary.begin()[1] for _ in range(8)}
        assert arms == {"champion"}
        cluster.go_on()
        canary.awaited()
    finally:
        cluster.go_on()
        load.stop()
    check_nothing_lost(load, canary.name, gateway._environment["AIRLOCK_DATABASE_URL"])


def test_overrides_hold_and_what_happened_meanwhile_is_told_once_the_store_is_back(
    cluster: Cluster, gateway: GatewayProcess, registry: MlflowProcess, tmp_path: Path
) -> None:
    canary = Canary("broken", gateway, registry, tmp_path, NOT_A_NUMBER)
    ill, sick = islice((episode for episode, arm in iter(canary.begin, None) if arm == "challenger"), 2)
    gateway.client.set_override(canary.name, 1, ttl_seconds=600, reason="by hand", episode_id=ill)

    def known() -> bool:
        return all(httpx.get(canary.url, timeout=60).json()["overrides"] for _ in range(20))

    wait_until(known, "both workers follow the override")
    cluster.kill()
    assert {canary.act(ill).json()["source"] for _ in range(10)} == {"override"}
    answers = [canary.act(sick).json() for _ in range(20)]
    assert {(answer["source"], answer["version"]) for answer in answers} == {("fallback", canary.first)}
    admin = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    refused = httpx.request("DELETE", f"{canary.url}/override", json={"episode_id": ill}, headers=admin, timeout=60)
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    cluster.start()
    engine = sa.create_engine(gateway._environment["AIRLOCK_DATABASE_URL"], poolclass=sa.NullPool)
    faults = tables.fault_events.c

    def told() -> set[str]:
        query = sa.select(faults.kind).where(faults.policy == canary.name, faults.version == canary.second)
        with engine.connect() as connection:
            return set(connection.execute(query).scalars())

    assert wait_until(told, "the opened breaker is told") == {"breaker_open"}
    gateway.client.clear_override(canary.name, episode_id=ill)
    wait_until(lambda: all(canary.act(ill).json()["source"] == "fallback" for _ in range(10)), "both workers follow")
