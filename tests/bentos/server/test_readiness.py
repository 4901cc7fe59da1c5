"""Readiness: a gateway that knows nothing, or that ends, asks to be left out; it answers all the same."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx

from tasks.ports import free_port
from tests.bentos.gateway_process import GatewayProcess, MlflowProcess, wait_until
from tests.bentos.policy_packages import write_package
from tests.bentos.way import Way

ACT = {"observation": [0.0] * 4}


class Living(GatewayProcess):
    """A gateway that has started once its process answers, ready or not."""

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        try:
            return httpx.get(f"{self.url}/livez").status_code == 200
        except httpx.HTTPError:
            return False


def ready(url: str) -> tuple[int, int]:
    """What both routes say."""
    return httpx.get(f"{url}/readyz").status_code, httpx.get(f"{url}/v2/health/ready").status_code


def test_a_new_gateway_is_ready_once_it_has_heard_from_the_registry(mlflow: MlflowProcess, tmp_path: Path) -> None:
    mlflow.publish("readiness", tmp_path / "1", write_package(tmp_path / "1", name="readiness"), "promoted")
    mlflow.alias("readiness", "champion", "1")
    port = free_port()
    gateway = Living(tmp_path / "home", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    act = f"{gateway.url}/v1/policies/readiness/act"
    try:
        answer = httpx.get(f"{gateway.url}/readyz")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert "has not heard from the registry" in answer.json()["detail"]
        assert ready(gateway.url) == (503, 503)
        assert httpx.get(f"{gateway.url}/livez").status_code == 200
        assert httpx.post(act, json=ACT).status_code == 503
        way = Way(mlflow.port, port)
        wait_until(lambda: ready(gateway.url) == (200, 200), "it has heard from the registry")
        assert httpx.head(f"{gateway.url}/readyz").status_code == 200
        assert httpx.post(f"{gateway.url}/readyz").status_code == 405
        assert httpx.post(act, json=ACT).status_code == 200, "it has loaded the champion"
        gateway.stop()
        way.close()
        gateway.start()
        assert ready(gateway.url) == (200, 200), "it knows what it served last"
    finally:
        gateway.stop()


def test_a_gateway_that_ends_is_not_ready_and_decides_on(tmp_path: Path) -> None:
    write_package(tmp_path / "package")
    gateway = GatewayProcess(
        tmp_path, "tests.bentos.lingering_service:Gateway", AIRLOCK_PACKAGE=str(tmp_path / "package")
    )
    act = f"{gateway.url}/v1/policies/cartpole/act"
    kept = [httpx.Client(timeout=60, limits=httpx.Limits(keepalive_expiry=None)) for _ in range(3)]
    try:
        for client in kept:
            assert client.get(f"{gateway.url}/readyz").status_code == 200
        gateway.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                httpx.get(f"{gateway.url}/readyz", timeout=60)
            except httpx.ConnectError:
                return True
            except httpx.HTTPError:  # it came in the last moment
                return False
            return False

        wait_until(refused, "new connections are refused")
        asked = [kept[0].get(f"{gateway.url}/readyz"), kept[1].get(f"{gateway.url}/v2/health/ready")]
        assert [answer.status_code for answer in asked] == [503, 503]
        answer = kept[2].post(act, json=ACT)
        assert (answer.status_code, answer.headers["connection"], answer.json()["source"]) == (200, "close", "policy")
    finally:
        for client in kept:
            client.close()
        gateway.stop()
