"""Fixtures: a served package, and an MLflow server with a gateway that follows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bentos.package.manifest import Serve
from tests.bentos.gateway_process import GatewayProcess, MlflowProcess
from tests.bentos.policy_packages import write_package


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One CartPole package in single mode, version 7. A busy machine shall not bring its fallback in."""
    home = tmp_path_factory.mktemp("single")
    write_package(home / "package", serve=Serve(fallback={"constant": 0}, deadline_ms=60_000))
    gateway = GatewayProcess(home, AIRLOCK_PACKAGE=str(home / "package"), AIRLOCK_VERSION="7", AIRLOCK_LOG_EPISODES="1")
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowProcess]:
    """A real MLflow server, up."""
    server = MlflowProcess(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def following(mlflow: MlflowProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that follows the MLflow server; every test has a policy of its own on it."""
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), MLFLOW_TRACKING_URI=mlflow.url)
    yield gateway
    gateway.stop()
