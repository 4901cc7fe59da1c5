"""Every part of the cluster is killed in turn during one canary under load: nothing is lost, and its verdict stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.control.plane import ControlPlane
from tasks.stack.airflow_api import Airflow, AirflowError, Run, TaskInstance
from tasks.tracking.release import Release
from tests.cluster.compose import REPOSITORY
from tests.cluster.harness import Cluster
from tests.cluster.outages import CANARY, POLICY, UNITS_BETWEEN, Books, champion, eventually
from tests.servers.load import Load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]

OTHER, TRAINING, WORKER = "pendulum", "build.train", "worker-train-1"
KILLED = ("gateway-1", WORKER, "scheduler", "redis", "postgres", "mlflow", "s3")
PATIENT = {"serve": {"deadline_ms": 60_000, "latency_slo_ms": 60_000}, "canary": {"episode_ttl_seconds": 180}}
"""A busy machine shall not end the canary, nor a start whose fate nobody knows hold it up for long."""


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped specs, that of the released policy patient."""
    directory = tmp_path_factory.mktemp("specs")
    for shipped in (REPOSITORY / "dags" / "policies").glob("*.yaml"):
        document = yaml.safe_load(shipped.read_text())
        for section, fields in PATIENT.items() if shipped.stem == POLICY else ():
            document[section] |= fields
        (directory / shipped.name).write_text(yaml.safe_dump(document))
    return directory


def tasks_of(airflow: Airflow, run: Run) -> dict[str, TaskInstance]:
    """The tasks of a run; nothing while Airflow is away."""
    try:
        return {task.task_id: task for task in airflow.run(run.dag_id, run.run_id).tasks}
    except AirflowError:
        return {}


def reaches(airflow: Airflow, run: Run, task: str, state: str) -> TaskInstance:
    """The task of a run, once it is in that state."""

    def there() -> TaskInstance | None:
        found = tasks_of(airflow, run).get(task)
        assert found is None or found.state not in ("failed", "upstream_failed"), found
        return found if found is not None and found.state == state else None

    found = eventually(there, f"{task} is {state}")
    assert isinstance(found, TaskInstance)
    return found


def killed(airflow: Airflow, books: Books) -> None:
    """Every part in turn, and celery's worker while it trains another policy, which is done again."""
    for name in KILLED:
        if name == WORKER:
            other = airflow.trigger(f"release_{OTHER}", {"timesteps": 600, "minimum_mean_return": -1_700})
            reaches(airflow, other, TRAINING, "running")
        books.outage(name)
    assert reaches(airflow, other, TRAINING, "success").try_number >= 2


def test_a_release_outlives_the_death_of_any_part(cluster: Cluster, airflow: Airflow, tmp_path: Path) -> None:
    first = champion(tmp_path / "first")
    run = airflow.trigger(f"release_{POLICY}", {"timesteps": 2_000, "minimum_mean_return": 9, **CANARY})
    reaches(airflow, run, "pre_deployment.checklist", "success")
    load = Load(cluster.url("loadbalancer"), POLICY)
    books = Books(cluster, load)
    try:
        reaches(airflow, run, "canary.verdict", "deferred")
        eventually(lambda: load.experimental() > UNITS_BETWEEN, "units come in")
        killed(airflow, books)
        load.loss = 150.0
        run = airflow.follow(run.dag_id, run.run_id, timeout=1500)
    finally:
        load.stop()
    assert run.state == "success", run
    made = Release.get(POLICY, run.run_id)
    seen = books.close(made, tmp_path / "kills.json")
    without_store = next(one for one in books.outages if one["killed"] == "postgres")
    assert without_store["of_them_in_the_canary"] == 0
    assert set(load.decisions) == {"policy"}, "nobody fell back"
    assert seen["verdict_live"]["verdict"] == "roll_back"
    state = ControlPlane("test").state(POLICY)
    assert (state["champion"], state["canary"]) == (first, None)
    assert made.need_json("report.json")["outcome"] == "rolled_back"
