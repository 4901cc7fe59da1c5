"""Fixtures of the tasks' tests: a real MLflow server for the session, and policy specs of a test's own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tasks.ports import free_port

SPECS = Path(__file__).resolve().parents[2] / "dags" / "policies"


@pytest.fixture(scope="session")
def mlflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MLflow server (SQLite, file artifacts) that lives as long as the test session."""
    state = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}", "--artifacts-destination", str(state / "a")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (state / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                if httpx.get(f"{url}/health", timeout=1).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert server.poll() is None, (state / "log").read_text()
            assert time.monotonic() < deadline, "MLflow did not become healthy\n" + (state / "log").read_text()
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def mlflow_server(mlflow_process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real MLflow server: its URL, with MLFLOW_TRACKING_URI set to it and AIRLOCK_HOME to a fresh directory."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_process)
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRLOCK_DATABASE_URL", raising=False)
    return mlflow_process


@pytest.fixture
def make_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`make_policy("cartpole", train={"seed": 3})` writes a spec of this test's own and returns its unique name.

    It is the shipped spec with the given sections merged into it; AIRLOCK_POLICIES points to where it is.
    """
    directory = tmp_path / "policies"
    directory.mkdir()
    monkeypatch.setenv("AIRLOCK_POLICIES", str(directory))

    def make(base: str = "cartpole", **sections: dict[str, Any]) -> str:
        name = f"{base}_{secrets.token_hex(4)}"
        document = yaml.safe_load((SPECS / f"{base}.yaml").read_text())
        document["name"] = name
        for section, fields in sections.items():
            document[section] = {**(document.get(section) or {}), **fields}
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(document))
        return name

    return make


@pytest.fixture(scope="session")
def real_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """`real_package("recurrent")` is the package of a kind of `tests.tasks.kinds`, exported when first asked for."""
    from tests.tasks.kinds import Real, real

    made: dict[str, Real] = {}

    def get(kind: str) -> Real:
        if kind not in made:
            made[kind] = real(kind, tmp_path_factory.mktemp("kinds") / kind)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the model.zip of a short PPO training on CartPole-v1 (the shipped spec, 2,048 steps)."""
    from tasks.build.training.train import train_model
    from tasks.spec.files import load_file
    from tasks.spec.params import Params, effective

    directory = tmp_path_factory.mktemp("trained")
    train_model(effective(load_file(SPECS / "cartpole.yaml"), Params(timesteps=2_048)), directory)
    return directory
