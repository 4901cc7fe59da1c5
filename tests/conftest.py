"""Every test runs in a home of its own: nothing of a developer's `.airlock` is read or written.

Beside that, the databases that Airlock runs on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from httpx._transports import default as transports

if TYPE_CHECKING:
    from tests.servers.postgres import Cluster

_HOME = tempfile.mkdtemp(prefix="airlock-tests-")
os.environ["AIRLOCK_HOME"] = _HOME
os.environ["AIRFLOW_HOME"] = str(Path(_HOME) / "airflow")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(__file__).resolve().parents[1] / "dags")
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
# Networks this small lose time to a second thread, and lose most of it where other processes want the cores. It must be
# said before anything imports torch, which the tests of `bentos` do, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for _name in ("AIRLOCK_DATABASE_URL", "MLFLOW_TRACKING_URI", "AIRLOCK_GATEWAY_URL", "AIRLOCK_POLICIES"):
    os.environ.pop(_name, None)

# Tests ask servers of this machine, thousands of times: the list of trusted certificates is read once.
transports.create_ssl_context = cache(transports.create_ssl_context)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL cluster, up."""
    from tests.servers.postgres import Cluster

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
