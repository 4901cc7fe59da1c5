"""Fixtures: a served package, MLflow with a gateway that follows it, and Airlock's database of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bentos.gateway_process import GatewayProcess, MlflowProcess
from tests.bentos.policy_packages import write_package
from tests.servers.postgres import Cluster


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One CartPole package in single mode, version 7."""
    home = tmp_path_factory.mktemp("single")
    write_package(home / "package")
    gateway = GatewayProcess(home, AIRLOCK_PACKAGE=str(home / "package"), AIRLOCK_VERSION="7")
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL cluster, up."""
    cluster = Cluster()
    yield cluster
    cluster.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database, on each engine that Airlock runs on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/airlock.db"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.database()
