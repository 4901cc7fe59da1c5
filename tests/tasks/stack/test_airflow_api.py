"""The client of Airflow's REST API against a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.stack.airflow_api import Airflow, AirflowError, Run, credentials
from tests.tasks.airflow_double import TASKS, AirflowDouble, instance, serving

DAG = "release_cartpole"


@pytest.fixture
def double() -> Iterator[AirflowDouble]:
    with serving(AirflowDouble()) as running:
        yield running


@pytest.fixture
def airflow(double: AirflowDouble) -> Iterator[Airflow]:
    with Airflow(double.url, "admin", "secret") as client:
        yield client


def test_triggers_a_run_with_its_params(airflow: Airflow, double: AirflowDouble) -> None:
    run = airflow.trigger(DAG, {"seed": 3, "canary_steps": [0.1, 0.5]})

    assert (run.run_id, run.state, run.ended) == ("manual__1", "queued", False)
    assert double.triggered == [{"seed": 3, "canary_steps": [0.1, 0.5]}]
    assert airflow.run_url(DAG, run.run_id) == f"{double.url}/dags/{DAG}/runs/manual__1"


def test_a_param_out_of_bounds_is_said_in_one_line(airflow: Airflow) -> None:
    with pytest.raises(AirflowError, match=r"seed: -3 is less than 0$"):
        airflow.trigger(DAG, {"seed": -3})


def test_a_user_who_may_not_is_told_so(airflow: Airflow, double: AirflowDouble) -> None:
    double.viewers = True
    with pytest.raises(AirflowError, match="not allowed"):
        airflow.trigger(DAG)


def test_a_wrong_password_is_told_apart_from_a_server_that_is_away(double: AirflowDouble) -> None:
    with Airflow(double.url, "admin", "guess") as client, pytest.raises(AirflowError, match="password of 'admin'"):
        client.trigger(DAG)
    with Airflow("http://127.0.0.1:9", "admin", "x") as client, pytest.raises(AirflowError, match="airlock up"):
        client.trigger(DAG)


def test_one_token_serves_many_calls_and_an_expired_one_is_renewed(airflow: Airflow, double: AirflowDouble) -> None:
    airflow.await_dag(DAG)
    airflow.trigger(DAG)
    assert double.tokens == 1
    double.revoke()
    airflow.trigger(DAG)
    assert double.tokens == 2


def test_follows_a_run_to_its_end(airflow: Airflow, double: AirflowDouble) -> None:
    half = [instance(TASKS[0], "running", "2026-01-01T00:00:00Z"), *(instance(task, None) for task in TASKS[1:])]
    double.moments.insert(0, ("running", half))
    seen: list[Run] = []

    run = airflow.follow(DAG, "manual__1", on_change=seen.append, every=0.01)

    assert [look.state for look in seen] == ["running", "success"]
    assert run.ended
    train = seen[0].tasks[0]
    assert (train.group, train.state, train.seconds(1767225600 + 90)) == ("build", "running", 90)


def test_an_api_server_that_restarts_is_waited_for(airflow: Airflow, double: AirflowDouble) -> None:
    double.faults = [500, 502]
    assert airflow.follow(DAG, "manual__1", every=0.01).state == "success"


def test_a_run_that_hangs_ends_the_wait(airflow: Airflow, double: AirflowDouble) -> None:
    double.moments = [("running", [])]
    with pytest.raises(AirflowError, match="has not ended"):
        airflow.follow(DAG, "manual__1", timeout=0.05, every=0.01)


def test_reads_why_a_task_failed(airflow: Airflow, double: AirflowDouble) -> None:
    double.moments = [("failed", [instance(TASKS[0], "failed")])]
    run = airflow.follow(DAG, "manual__1")
    (task,) = run.failed()
    assert airflow.log(run, task).splitlines()[-2:] == ["it broke", "Rejected: mean return 9.3 is below 400"]


def test_a_dag_whose_file_does_not_load_shows_the_reason(airflow: Airflow, double: AirflowDouble) -> None:
    double.import_errors = [
        {"filename": "broken.py", "stack_trace": "Traceback\ntasks.spec.SpecError: canary.margin: came -1"}
    ]
    with pytest.raises(AirflowError, match=r"broken\.py does not load: .*came -1"):
        airflow.await_dag("release_broken")


def test_a_dag_that_does_not_come_says_how_dag_files_are_made(airflow: Airflow) -> None:
    with pytest.raises(AirflowError, match="policies sync"):
        airflow.await_dag("release_unheard_of", timeout=0)


def test_credentials_come_from_the_environment_or_the_embedded_stack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    monkeypatch.delenv("AIRLOCK_AIRFLOW_USER", raising=False)
    with pytest.raises(AirflowError, match="airlock up"):
        credentials()
    monkeypatch.setenv("AIRLOCK_AIRFLOW_USER", "bot")
    monkeypatch.setenv("AIRLOCK_AIRFLOW_PASSWORD", "word")
    assert credentials() == ("bot", "word")
