"""The cluster of docker-compose.yml for a module of tests, and somebody who uses it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.stack.airflow_api import Airflow
from tests.cluster.harness import Cluster


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cluster's directory, left for a look where a test failed.

    pytest's own will not do: any session that begins closes them to PostgreSQL's user.
    """
    failed = request.session.testsfailed
    directory = Path(tempfile.mkdtemp(prefix="airlock-cluster-"))
    yield directory
    if request.session.testsfailed == failed:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def specs() -> Path | None:
    """Where the specs are, for a module that wants others than those shipped."""
    return None


@pytest.fixture(scope="module")
def cluster(place: Path, specs: Path | None) -> Iterator[Cluster]:
    """All services, healthy. This process's environment points at them while the module lasts."""
    before = dict(os.environ)
    own = {"AIRLOCK_POLICIES": str(specs)} if specs else {}
    starting = Cluster(place)
    for container in starting.services.values():
        container.environment.update(own)
    with starting as running:
        os.environ.update({**running.client(), **own})
        try:
            yield running
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="module")
def airflow(cluster: Cluster) -> Iterator[Airflow]:
    """Airflow's REST API, which knows the shipped policies' releases by now."""
    with Airflow() as client:
        for policy in ("cartpole", "pendulum"):
            client.await_dag(f"release_{policy}", timeout=300)
        yield client
