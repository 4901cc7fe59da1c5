"""The gateway's image, built natively: what it installs is enough to serve, and holds nothing of training."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tasks.ports import free_port
from tests.bentos.gateway_process import START_SECONDS, wait_until
from tests.bentos.policy_packages import write_package
from tests.deploy.native_image import NativeImage

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
SPARED = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "mlflow", "airflow")


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_the_gateway_serves_a_package_without_the_libraries_of_training(tmp_path: Path) -> None:
    image = NativeImage("gateway", tmp_path / "gateway")
    image.build()
    packages = next(image.path("/opt/airlock").glob("lib/python3.*/site-packages"))
    assert [name for name in SPARED if (packages / name).exists()] == []
    write_package(tmp_path / "package")
    port = free_port()
    command = [str(port) if word == "3000" else word for word in image.command()]
    log = tmp_path / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=image.path("/var/lib/airlock"),
            env=image.environment() | {"AIRLOCK_PACKAGE": str(tmp_path / "package")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: ready(url), f"the image's gateway is ready; its log is {log}", START_SECONDS)
        body = {"observation": [0, 0, 0.1, 0.1]}
        answer = httpx.post(f"{url}/v1/policies/cartpole/act", json=body, timeout=60)
        assert (answer.status_code, answer.json()["action"]) == (200, 1), answer.text
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_SECONDS) == 0
