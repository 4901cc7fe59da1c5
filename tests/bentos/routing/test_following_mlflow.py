"""A gateway that follows a real MLflow server: deployment is a write to the registry, and nothing drops a request."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from bentos.client import GatewayClient, GatewayError
from bentos.package.manifest import Outcomes, Serve
from bentos.tokens import Signer
from tests.bentos.gateway_process import EPISODE_KEY, GatewayProcess, MlflowProcess, wait_until
from tests.bentos.policy_packages import box_graph, constant_graph, discrete_graph, write_package

OBSERVATIONS = [[0.0, 0.0, 0.0, 0.0]]


class Policy:
    """One policy in the registry, whose versions answer alternately 0 and 1."""

    def __init__(self, mlflow: MlflowProcess, directory: Path) -> None:
        self.mlflow = mlflow
        self.name = f"p{secrets.token_hex(4)}"
        self.directory = directory
        self._next = 0

    def release(self, action: int, status: str = "approved", **about: Any) -> str:
        """Publish a version that always answers `action`."""
        self._next += 1
        package = self.directory / f"{self.name}-{self._next}"
        digest = write_package(package, name=self.name, **{"graph": constant_graph(action), **about})
        return self.mlflow.publish(self.name, package, digest, status)

    def champion(self, version: str) -> None:
        """Make a version the champion."""
        self.mlflow.alias(self.name, "champion", version)

    def canary(self, champion: str | None, version: str, weight: float, generation: str = "g1") -> None:
        """Run a canary."""
        document = {"generation": generation, "champion": champion, "version": version, "weight": weight}
        self.mlflow.tag(self.name, "canary", json.dumps({**document, "salt": "0a0b", "started_at": time.time()}))


@pytest.fixture
def policy(mlflow: MlflowProcess, tmp_path: Path) -> Policy:
    return Policy(mlflow, tmp_path)


def shows(gateway: GatewayProcess, policy: Policy, **expected: Any) -> dict[str, Any]:
    """Wait until the policy's document has these values; the document."""

    def there() -> Any:
        try:
            document = gateway.client.policy(policy.name)
        except GatewayError:
            return None
        return document if all(document[key] == value for key, value in expected.items()) else None

    return wait_until(there, f"{policy.name} shows {expected}")


def loaded(gateway: GatewayProcess, policy: Policy, version: str, status: str = "ready") -> dict[str, Any]:
    """Wait until a version has this status at the gateway; what is shown of it."""

    def there() -> Any:
        try:
            shown = gateway.client.policy(policy.name)["versions"].get(version, {})
        except GatewayError:
            return None
        return shown if shown.get("status") == status else None

    return wait_until(there, f"version {version} is {status}")


def in_canary(following: GatewayProcess, policy: Policy, weight: float) -> tuple[str, str]:
    """A champion, and a challenger whose canary the gateway runs."""
    first, second = policy.release(0, "promoted"), policy.release(1)
    policy.champion(first)
    loaded(following, policy, second)
    policy.canary(first, second, weight)
    wait_until(lambda: following.client.policy(policy.name)["canary"], "the canary runs")
    return first, second


def test_an_approved_version_is_loaded_before_it_serves_and_serves_once_it_is_champion(
    following: GatewayProcess, policy: Policy
) -> None:
    first = policy.release(1)
    loaded(following, policy, first)
    answer = following.client.act(policy.name, OBSERVATIONS)
    assert (answer["actions"], answer["versions"], answer["sources"]) == ([0], [None], ["fallback"])
    (begun,) = following.client.start_episodes(policy.name, [None])
    policy.champion(first)
    shows(following, policy, champion=first)
    answer = following.client.act(policy.name, OBSERVATIONS)
    assert (answer["actions"], answer["versions"], answer["sources"]) == ([1], [first], ["policy"])
    running = following.client.act(policy.name, OBSERVATIONS, [begun["episode_id"]])
    assert begun["version"] is None
    assert (running["actions"], running["versions"], running["sources"]) == ([1], [first], ["policy"])


def test_an_alias_moved_to_a_candidate_is_refused_with_the_reason_and_the_champion_serves_on(
    following: GatewayProcess, policy: Policy
) -> None:
    first = policy.release(1, "promoted")
    policy.champion(first)
    shows(following, policy, champion=first)
    second = policy.release(0, "candidate")
    policy.champion(second)
    assert "candidate" in loaded(following, policy, second, "refused")["reason"]
    assert following.client.act(policy.name, OBSERVATIONS)["versions"] == [first]


def test_a_corrupted_package_is_not_routed_the_champion_serves_and_the_reason_is_visible(
    following: GatewayProcess, policy: Policy
) -> None:
    first = policy.release(1, "promoted")
    policy.champion(first)
    shows(following, policy, champion=first)
    second = policy.release(0)
    third_package = policy.directory / "tampered"
    digest = write_package(third_package, name=policy.name, graph=discrete_graph([[0.5, 0.0]] * 4, [1, 0]))
    data = bytearray((third_package / "policy.onnx").read_bytes())
    data[-1] ^= 1
    (third_package / "policy.onnx").write_bytes(data)
    third = policy.mlflow.publish(policy.name, third_package, digest)
    policy.mlflow.tag_version(policy.name, second, "package_sha256", "0" * 64)
    for version in (third, second):
        policy.canary(first, version, 0.5, generation=f"g{version}")
        assert "digest mismatch" in loaded(following, policy, version, "refused")["reason"]
        answer = following.client.act(policy.name, OBSERVATIONS * 50, user_ids=[str(n) for n in range(50)])
        assert set(answer["versions"]) == {first}
    with sqlite3.connect(following.home / "airlock.db") as database:
        query = "SELECT version, detail FROM fault_events WHERE kind = 'refused' AND policy = ? ORDER BY version"
        told = lambda: [version for version, _ in database.execute(query, (policy.name,)).fetchall()]  # noqa: E731
        wait_until(lambda: told() == [second, third], "the refusals are stored, each once")


def test_a_canary_splits_new_episodes_and_stores_their_starts(following: GatewayProcess, policy: Policy) -> None:
    first, second = in_canary(following, policy, 0.25)
    users = [f"user-{number}" for number in range(400)]
    episodes = following.client.start_episodes(policy.name, users)
    again = following.client.start_episodes(policy.name, users)
    assert [one["arm"] for one in episodes] == [one["arm"] for one in again], "a user keeps the arm"
    arms = [one["arm"] for one in episodes]
    assert {arm: arms.count(arm) > 50 for arm in set(arms)} == {"champion": True, "control": True, "challenger": True}
    assert {(one["arm"], one["version"]) for one in episodes} == {
        ("champion", first),
        ("control", first),
        ("challenger", second),
    }
    answer = following.client.act(policy.name, OBSERVATIONS * 400, [one["episode_id"] for one in episodes])
    assert answer["arms"] == arms
    assert answer["actions"] == [1 if arm == "challenger" else 0 for arm in arms]
    assert following.client.act(policy.name, OBSERVATIONS)["arms"] == ["champion"]
    with sqlite3.connect(following.home / "airlock.db") as database:
        stored = database.execute("SELECT unit, arm FROM episodes WHERE policy = ? ORDER BY start_seq", (policy.name,))
        rows = stored.fetchall()
    expected = [(user, arm) for user, arm in zip(users, arms, strict=True) if arm != "champion"]
    assert rows == expected * 2


def test_a_request_for_episodes_that_is_sent_again_starts_none_twice(following: GatewayProcess, policy: Policy) -> None:
    in_canary(following, policy, 0.5)

    def start(key: str) -> list[tuple[str, str]]:
        body = {"user_ids": [None, "ada", None, "bo", None], "idempotency_key": key}
        url = f"{following.url}/v1/policies/{policy.name}/episodes"
        episodes = httpx.post(url, json=body).raise_for_status().json()["episodes"]
        return [(Signer(EPISODE_KEY).episode(one["episode_id"]).nonce, one["arm"]) for one in episodes]

    once, other = start("a" * 32), start("b" * 32)
    assert start("a" * 32) == once
    assert not {nonce for nonce, _ in once} & {nonce for nonce, _ in other}
    with sqlite3.connect(following.home / "airlock.db") as database:
        query = "SELECT episode, arm FROM episodes WHERE policy = ? ORDER BY start_seq"
        assert database.execute(query, (policy.name,)).fetchall() == once + other


def test_with_the_store_down_episodes_are_plain_champion_traffic(following: GatewayProcess, policy: Policy) -> None:
    first, _ = in_canary(following, policy, 0.5)
    lock = sqlite3.connect(following.home / "airlock.db", isolation_level=None, timeout=30)
    lock.execute("BEGIN EXCLUSIVE")
    episodes = following.client.start_episodes(policy.name, [None] * 20)
    lock.execute("ROLLBACK")
    assert {(one["arm"], one["version"]) for one in episodes} == {("champion", first)}
    assert lock.execute("SELECT count(*) FROM episodes WHERE policy = ?", (policy.name,)).fetchone() == (0,)


def test_a_running_episode_keeps_its_version_through_promotion_and_roll_back(
    following: GatewayProcess, policy: Policy
) -> None:
    _, second = in_canary(following, policy, 0.5)
    episodes = following.client.start_episodes(policy.name, [None] * 20)
    before = following.client.act(policy.name, OBSERVATIONS * 20, [one["episode_id"] for one in episodes])
    policy.mlflow.untag(policy.name, "canary")
    policy.mlflow.tag_version(policy.name, second, "validation_status", "rolled_back")
    shows(following, policy, canary=None)
    third = policy.release(0, "promoted")
    policy.champion(third)
    shows(following, policy, champion=third)
    after = following.client.act(policy.name, OBSERVATIONS * 20, [one["episode_id"] for one in episodes])
    assert after["versions"] == before["versions"] == [one["version"] for one in episodes]
    assert set(after["sources"]) == {"policy"}
    assert following.client.act(policy.name, OBSERVATIONS)["versions"] == [third]


def test_a_safety_rollback_moves_running_episodes_to_the_champion_at_once(
    following: GatewayProcess, policy: Policy
) -> None:
    first, second = in_canary(following, policy, 0.5)
    episodes = following.client.start_episodes(policy.name, [None] * 20)
    challenger = next(one["episode_id"] for one in episodes if one["arm"] == "challenger")
    with sqlite3.connect(following.home / "airlock.db", timeout=30) as database:
        database.execute(
            "INSERT INTO fault_events (policy, version, package_sha256, kind, detail, worker, at)"
            " VALUES (?, ?, '', 'safety_rollback', 'by hand', 'test', ?)",
            (policy.name, second, time.time()),
        )

    def moved() -> Any:
        answer = following.client.act(policy.name, OBSERVATIONS, [challenger])
        return answer if answer["versions"] == [first] else None

    answer = wait_until(moved, "the episode is answered by the champion")
    assert (answer["sources"], answer["arms"], answer["actions"]) == (["fallback"], ["challenger"], [0])
    arms = {one["arm"] for one in following.client.start_episodes(policy.name, [None] * 20)}
    assert arms == {"champion"}, "nobody joins the experiment any more"


def test_a_challenger_that_breaks_loses_its_traffic_here_and_now_and_no_request_fails(
    following: GatewayProcess, policy: Policy
) -> None:
    first = policy.release(0, "promoted")
    broken = discrete_graph([[float("nan")] * 2] * 4, [0, 0])
    second = policy.release(1, graph=broken, serve=Serve(fallback={"constant": 1}, max_errors=3))
    policy.champion(first)
    loaded(following, policy, second)
    policy.canary(first, second, 0.5)
    wait_until(lambda: following.client.policy(policy.name)["canary"], "the canary runs")
    episodes = following.client.start_episodes(policy.name, [None] * 20)
    ill = next(one["episode_id"] for one in episodes if one["arm"] == "challenger")
    for _ in range(4):
        answer = following.client.act(policy.name, OBSERVATIONS, [ill])
        assert (answer["sources"], answer["versions"], answer["actions"]) == (["fallback"], [first], [0])
    assert {one["arm"] for one in following.client.start_episodes(policy.name, [None] * 20)} == {"champion"}
    with sqlite3.connect(following.home / "airlock.db") as database:
        query = "SELECT version FROM fault_events WHERE kind = 'breaker_open' AND policy = ?"
        assert wait_until(lambda: database.execute(query, (policy.name,)).fetchall(), "the event") == [(second,)]
    counted = wait_until(
        lambda: following.client.policy(policy.name)["arms"]["challenger"]["faults"]["non_finite"] == 3, "the faults"
    )
    assert counted


@pytest.mark.parametrize("first_release", [True, False])
def test_in_shadow_a_challenger_decides_and_nobody_is_served_by_it(
    following: GatewayProcess, policy: Policy, first_release: bool
) -> None:
    first = None if first_release else policy.release(0, "promoted")
    second = policy.release(1)
    if first:
        policy.champion(first)
    loaded(following, policy, second)
    policy.canary(first, second, 0.0)
    wait_until(lambda: following.client.policy(policy.name)["canary"], "the canary runs")
    episodes = following.client.start_episodes(policy.name, [None] * 40)
    assert {(one["arm"], one["version"]) for one in episodes} == {("champion", first)}
    answer = following.client.act(policy.name, OBSERVATIONS * 40, [one["episode_id"] for one in episodes])
    assert (set(answer["versions"]), set(answer["actions"])) == ({first}, {0})
    served = following.client.policy(policy.name)["statistics"]["total_inferences"]

    def seen() -> Any:
        following.client.act(policy.name, OBSERVATIONS)
        shadow = following.client.policy(policy.name)["arms"]["shadow"]
        return shadow if shadow["total_inferences"] >= 10 else None

    shadow = wait_until(seen, "the challenger decided in shadow")
    assert (shadow["version"], shadow["generation"]) == (second, "g1")
    assert shadow["disagreement"] == (None if first_release else 1.0)
    assert shadow["action_distribution"] == {"1": 1.0}
    assert served <= 40, "what served nobody is not counted as served"
    labels = f'arm="shadow",policy="{policy.name}",source="policy",version="{second}"'
    wait_until(lambda: f"rl_inference_total{{{labels}}}" in httpx.get(f"{following.url}/metrics").text, "the metrics")


def test_a_first_release_serves_its_challenger_and_the_fallback_to_everyone_else(
    following: GatewayProcess, policy: Policy
) -> None:
    first = policy.release(1)
    loaded(following, policy, first)
    policy.canary(None, first, 0.5)
    wait_until(lambda: following.client.policy(policy.name)["canary"], "the canary runs")
    episodes = following.client.start_episodes(policy.name, [None] * 40)
    assert {(one["arm"], one["version"]) for one in episodes} == {("challenger", first), ("champion", None)}
    answer = following.client.act(policy.name, OBSERVATIONS * 40, [one["episode_id"] for one in episodes])
    told = {
        (arm, action, version, source)
        for arm, action, version, source in zip(
            answer["arms"], answer["actions"], answer["versions"], answer["sources"], strict=True
        )
    }
    assert told == {("challenger", 1, first, "policy"), ("champion", 0, None, "fallback")}


def test_a_challenger_with_other_spaces_gets_no_traffic(following: GatewayProcess, policy: Policy) -> None:
    first = policy.release(0, "promoted")
    policy.champion(first)
    from tests.bentos.policy_packages import BOX

    second = policy.release(1, graph=box_graph([[0]] * 4, [1]), action_space=BOX)
    loaded(following, policy, second)
    policy.canary(first, second, 0.5)
    wait_until(lambda: "spaces" in following.client.policy(policy.name)["versions"][second].get("reason", ""), "why")
    assert following.client.policy(policy.name)["canary"] is None


def test_silent_episodes_are_abandoned(following: GatewayProcess, policy: Policy) -> None:
    outcomes = Outcomes(return_range=(-3, 500), episode_ttl_seconds=0.5)
    first, second = policy.release(0, "promoted", outcomes=outcomes), policy.release(1, outcomes=outcomes)
    policy.champion(first)
    loaded(following, policy, second)
    policy.canary(first, second, 0.5)
    wait_until(lambda: following.client.policy(policy.name)["canary"], "the canary runs")
    following.client.start_episodes(policy.name, [None] * 5)
    with sqlite3.connect(following.home / "airlock.db") as database:
        query = "SELECT episode_return, kind FROM outcomes WHERE policy = ?"
        found = wait_until(lambda: len(database.execute(query, (policy.name,)).fetchall()) == 5 and 1, "all closed")
        assert found
        assert set(database.execute(query, (policy.name,)).fetchall()) == {(-3.0, "abandoned")}


def test_hot_swaps_under_load_drop_no_request(following: GatewayProcess, policy: Policy) -> None:
    versions = [policy.release(number % 2, "promoted") for number in range(3)]
    policy.champion(versions[0])
    shows(following, policy, champion=versions[0])
    seen: list[tuple[str, int]] = []
    failures: list[Exception] = []
    stopping = threading.Event()

    def ask() -> None:
        with GatewayClient(following.url) as client:
            while not stopping.is_set():
                try:
                    answer = client.act(policy.name, OBSERVATIONS)
                    seen.append((answer["versions"][0], answer["actions"][0]))
                except GatewayError as error:
                    failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in [*versions[1:], *versions[::-1]]:
        policy.champion(version)
        shows(following, policy, champion=version)
    stopping.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert {(version, action) for version, action in seen} == {
        (version, number % 2) for number, version in enumerate(versions)
    }


def test_with_mlflow_down_it_serves_on_and_starts_again_as_before(following: GatewayProcess, policy: Policy) -> None:
    _, second = in_canary(following, policy, 0.5)
    episodes = following.client.start_episodes(policy.name, [None] * 20)

    def answers() -> dict[str, Any]:
        answer = following.client.act(policy.name, OBSERVATIONS * 20, [one["episode_id"] for one in episodes])
        return {**answer, "decision_ids": None}

    policy.mlflow.stop()
    try:
        wait_until(lambda: not following.client.policy(policy.name)["registry"]["ok"], "the registry is down")
        running = answers()
        assert running["versions"] == [one["version"] for one in episodes]
        following.stop()
        following.start()
        assert answers() == running
        assert following.client.policy(policy.name)["canary"]["version"] == second
        unknown = httpx.get(f"{following.url}/v1/policies/no-such")
        assert (unknown.status_code, "retry-after" in unknown.headers) == (503, True), "nobody has said so yet"
    finally:
        policy.mlflow.start()
    third = policy.release(0, "promoted")
    policy.champion(third)
    shows(following, policy, champion=third, canary=None)
    assert httpx.get(f"{following.url}/v1/policies/no-such").status_code == 404
