"""The embedded stack as a user has it: up, looked at, hurt, healed, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import httpx
import psutil
import pytest

from bentos import settings
from tasks.stack import processes, supervisor
from tasks.stack.airflow_api import Airflow, AirflowError
from tasks.stack.lifecycle import Running, up
from tests.bentos.gateway_process import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


def airlock(*arguments: str) -> tuple[int, Any]:
    """A command's exit code and its JSON document."""
    done = subprocess.run(
        [sys.executable, "-c", "from tasks.cli import main; main()", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_status_shows_every_component_healthy(stack: Running) -> None:
    code, document = airlock("status")
    assert code == 0
    assert len(document["components"]) == 6
    assert all(item["ok"] and item["state"] == "RUNNING" for item in document["components"].values())
    assert document["policies"] == {}


def test_up_again_is_success_and_changes_nothing(stack: Running) -> None:
    before = {name: info["pid"] for name, info in supervisor.Supervisor().states().items()}
    code, document = airlock("up")
    assert (code, document["already"]) == (0, True)
    assert {name: info["pid"] for name, info in supervisor.Supervisor().states().items()} == before


def test_another_home_cannot_take_the_same_ports(stack: Running, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    code, message = airlock("up")
    assert code == 1
    for variable in ("AIRLOCK_AIRFLOW_PORT", "AIRLOCK_MLFLOW_PORT", "AIRLOCK_GATEWAY_PORT"):
        assert variable in message
    assert "pid " in message


def test_airflow_has_the_release_dags_unpaused_and_its_ui_asks_for_a_login(stack: Running) -> None:
    with Airflow(stack.airflow, stack.user, stack.password) as airflow:
        for policy in ("cartpole", "pendulum"):
            airflow.await_dag(f"release_{policy}", timeout=120)
        assert airflow.import_errors() == {}
        dag = airflow.request("GET", "/dags/release_cartpole").json()
    assert dag["is_paused"] is False
    assert httpx.get(f"{stack.airflow}/api/v2/dags").status_code == 401


def test_a_param_out_of_bounds_is_refused(stack: Running) -> None:
    with Airflow(stack.airflow, stack.user, stack.password) as airflow:
        airflow.await_dag("release_cartpole", timeout=120)
        with pytest.raises(AirflowError, match="seed"):
            airflow.trigger("release_cartpole", {"seed": -1})


def test_no_secret_stands_in_a_log_or_in_the_configuration(stack: Running) -> None:
    secrets = {stack.password, settings.secret("airflow_jwt_secret"), settings.secret("admin_token")}
    places = [*stack.logs.glob("*.log"), supervisor.directory() / "supervisord.conf"]
    assert len(places) > 6
    for place in places:
        text = place.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], place


def test_killed_components_come_back(stack: Running) -> None:
    control = supervisor.Supervisor()
    for name in ("airflow-scheduler", "gateway"):
        old = control.states()[name]["pid"]
        os.kill(old, signal.SIGKILL)
        wait_until(
            lambda name=name, old=old: control.states()[name]["pid"] not in (0, old), f"{name} is back", 120, 0.5
        )
    assert up().already is True
    # The workers of the killed scheduler are gone: those that run belong to the new one.
    scheduler = psutil.Process(control.states()["airflow-scheduler"]["pid"])
    family = {scheduler.pid, *(child.pid for child in scheduler.children(recursive=True))}
    assert {process.pid for process in processes.marked(settings.home(), "airflow-scheduler")} <= family


def test_down_leaves_no_process_and_up_finds_the_same_state(stack: Running) -> None:
    ids = {process.pid for process in processes.marked(settings.home())}
    assert airlock("down") == (0, {"stopped": True})
    assert not [pid for pid in ids if psutil.pid_exists(pid)]
    again = up()
    assert again.already is False
    assert again.password == stack.password
