"""The post-deployment checklist on a live gateway: drill and alert for real; a fail restores the champion before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tasks.checklist import post_deployment as post
from tasks.control.plane import ControlPlane
from tasks.errors import Rejected
from tasks.spec.sections import POST_DEPLOYMENT
from tasks.stages.checklist import post_deployment
from tasks.stages.register import register
from tasks.tracking.release import Release, client
from tests.bentos.gateway_process import GatewayProcess, wait_until
from tests.tasks import fabricated

MakePolicy = Callable[..., str]


@pytest.fixture
def gateway(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayProcess]:
    """A gateway that follows the test's registry and shares its database."""
    running = GatewayProcess(tmp_path / "home", MLFLOW_TRACKING_URI=mlflow_server)
    monkeypatch.setenv("AIRLOCK_GATEWAY_URL", running.url)
    yield running
    running.stop()


def _promoted(policy: str, dag_run_id: str, gateway: GatewayProcess) -> Release:
    """A release whose version is champion, by a canary nobody took part in, and served."""
    release = fabricated.candidate(policy, dag_run_id)
    version = register(release)["version"]
    control = ControlPlane("a test")
    control.approve(policy, version)
    control.start_canary(policy, version, dag_run_id, 0.05)
    shown = f"{gateway.url}/v1/policies/{policy}"

    def ready() -> bool:
        answer = httpx.get(shown)
        return answer.is_success and answer.json()["versions"].get(version, {}).get("status") == "ready"

    wait_until(ready, f"version {version} loaded")
    control.promote(policy, dag_run_id, "a test promotes it")
    wait_until(lambda: httpx.get(shown).json()["champion"] == version, f"version {version} is champion")
    return release


def _play(gateway: GatewayProcess, policy: str, episode_return: float, episodes: int = 40) -> None:
    """Episodes that report a return, without their decisions."""
    base = f"{gateway.url}/v1/policies/{policy}"
    started = httpx.post(f"{base}/episodes", json={"user_ids": [None] * episodes}).raise_for_status().json()
    outcomes = [
        {"episode_id": episode["episode_id"], "return": episode_return + n % 3, "length": 10}
        for n, episode in enumerate(started["episodes"])
    ]
    httpx.post(f"{base}/outcomes", json={"outcomes": outcomes}).raise_for_status()


def test_a_first_release_passes_with_a_drill_to_the_fallback_and_a_degraded_second_one_is_undone(
    gateway: GatewayProcess, make_policy: MakePolicy
) -> None:
    policy = make_policy()
    first = _promoted(policy, "manual__1", gateway)
    _play(gateway, policy, 490, episodes=10)
    threading.Timer(8, _play, (gateway, policy, 490)).start()  # the first episodes take longer than the probe

    assert post_deployment(first) == {"verdict": "pass", "reasons": []}

    document = first.get_json("checklist/post_deployment.json")
    checks = {check["id"]: check for check in document["checks"]}
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(POST_DEPLOYMENT, "pass")
    drill = checks["rollback_tested"]["evidence"]
    assert (drill["to"], drill["failures"]) == (None, [])
    assert drill["seconds_there"] > 0
    assert checks["rollback_tested"]["sample_size"] > 20
    (received,) = checks["alerts_working"]["evidence"]["received"]
    assert (received["name"], received["policy"], received["version"]) == ("HIGH_LATENCY", policy, "1")
    assert received["observed"] > received["threshold"]
    assert checks["resource_usage"]["sample_size"] >= 3
    control = ControlPlane("a test")
    assert control.state(policy)["champion"] == "1"

    second = _promoted(policy, "manual__2", gateway)
    _play(gateway, policy, 200)

    with pytest.raises(Rejected, match="reward_trend: fail: mean return 201"):
        post_deployment(second)

    state = control.state(policy)
    assert state["champion"] == "1"
    assert state["versions"]["2"]["validation_status"] == "rolled_back"
    assert state["versions"]["2"]["check.reward_trend"] == "fail"
    assert state["versions"]["2"]["check.rollback_tested"] == "pass"
    drill = {check["id"]: check for check in second.get_json("checklist/post_deployment.json")["checks"]}
    assert drill["rollback_tested"]["evidence"]["to"] == "1"
    assert client().get_model_version(policy, "2").description.startswith("## Rolled back")
    wait_until(
        lambda: httpx.get(f"{gateway.url}/v1/policies/{policy}").json()["champion"] == "1", "the gateway went back"
    )


def test_without_a_gateway_the_checks_fail_and_the_promotion_is_undone(
    mlflow_server: str, make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_GATEWAY_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(post, "RETURN_SECONDS", 0.5)
    policy = make_policy()
    release = fabricated.candidate(policy)
    version = register(release)["version"]
    control = ControlPlane("a test")
    control.approve(policy, version)
    control.start_canary(policy, version, "generation", 0.05)
    control.promote(policy, "generation", "a test promotes it")

    with pytest.raises(Rejected, match="rollback_tested: fail"):
        post_deployment(release)

    assert control.state(policy)["champion"] is None
    assert control.state(policy)["versions"][version]["validation_status"] == "rolled_back"
