"""The embedded stack's parts: environment, ports, supervisord with small components, leftovers."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bentos import settings
from tasks.ports import free_port, is_free
from tasks.stack import components, lifecycle, ports, processes, supervisor
from tasks.stack.airflow_database import Preparation
from tasks.stack.components import Component, StackError
from tasks.stack.environment import airflow_environment, passwords, passwords_file
from tasks.stack.health import check


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "home"))
    for variable in ("AIRLOCK_AIRFLOW_PORT", "AIRLOCK_MLFLOW_PORT", "AIRLOCK_GATEWAY_PORT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "home"


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


class TestEnvironment:
    def test_all_processes_share_one_home_one_secret_and_the_chosen_ports(
        self, monkeypatch: pytest.MonkeyPatch, own_home: Path
    ) -> None:
        monkeypatch.setenv("AIRLOCK_AIRFLOW_PORT", "13390")
        monkeypatch.setenv("AIRLOCK_MLFLOW_PORT", "13391")
        values = airflow_environment()

        assert values["AIRFLOW_HOME"] == str(own_home / "airflow")
        assert values["AIRFLOW__API__PORT"] == "13390"
        assert values["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:13390/execution/"
        assert values["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:13391"
        assert values["AIRFLOW__API_AUTH__JWT_SECRET"] == airflow_environment()["AIRFLOW__API_AUTH__JWT_SECRET"]

    def test_the_caller_may_tune_and_choose_a_database_but_not_borrow_another_home(self) -> None:
        values = airflow_environment(
            {
                "AIRFLOW__CORE__PARALLELISM": "32",
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://db/airflow",
                "AIRFLOW_HOME": "/elsewhere",
                "AIRFLOW__API__PORT": "1",
            }
        )
        assert values["AIRFLOW__CORE__PARALLELISM"] == "32"
        assert values["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql://db/airflow"
        assert values["AIRFLOW_HOME"] != "/elsewhere"
        assert values["AIRFLOW__API__PORT"] == "8080"

    def test_passwords_are_made_once_and_for_the_owner_only(self) -> None:
        first = passwords()
        assert set(first) == {"admin", "viewer"}
        assert first == passwords()
        assert stat.S_IMODE(passwords_file().stat().st_mode) == 0o600

    def test_nothing_reports_home(self) -> None:
        values = airflow_environment({})
        assert values["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "False"
        assert values["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert values["BENTOML_DO_NOT_TRACK"] == "True"


class TestComponents:
    def test_the_stack_is_mlflow_the_gateway_and_four_parts_of_airflow(self) -> None:
        assert [component.name for component in components.components()] == [
            "mlflow",
            "gateway",
            "airflow-api-server",
            "airflow-scheduler",
            "airflow-dag-processor",
            "airflow-triggerer",
        ]

    def test_another_mlflow_server_replaces_the_embedded_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
        assert "mlflow" not in [component.name for component in components.components()]

    def test_the_configuration_names_no_secret(self) -> None:
        values = airflow_environment()
        text = supervisor.configuration(components.components())
        assert values["AIRFLOW__API_AUTH__JWT_SECRET"] not in text
        assert passwords()["admin"] not in text


class TestPorts:
    def test_a_taken_port_is_named_with_its_holder_and_the_variable_that_moves_it(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            (taken,) = ports.taken([Component("gateway", (), port=port, port_variable="AIRLOCK_GATEWAY_PORT")])

        assert f"port {port}" in str(taken)
        assert f"pid {os.getpid()}" in str(taken)
        assert "AIRLOCK_GATEWAY_PORT" in str(taken)

    def test_two_components_on_one_port_are_told_apart(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        wanted = [Component(name, (), port=port, port_variable="AIRLOCK_X_PORT") for name in ("one", "two")]
        (taken,) = ports.taken(wanted)
        assert taken.component == "two"
        assert "one" in str(taken)

    def test_up_says_which_port_is_taken_and_leaves_nothing_running(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            monkeypatch.setenv("AIRLOCK_MLFLOW_PORT", str(listener.getsockname()[1]))
            with pytest.raises(StackError, match="AIRLOCK_MLFLOW_PORT"):
                lifecycle.up()
        assert supervisor.Supervisor().pid() is None
        assert processes.marked(settings.home()) == []


@pytest.fixture
def supervised() -> Iterator[Callable[..., supervisor.Supervisor]]:
    """Starts supervisord with the components given; stops it, and all it started, after the test."""

    def start(*wanted: Component) -> supervisor.Supervisor:
        supervisor.launch(wanted, {**os.environ, "SPT_NOENV": "1"})
        return supervisor.Supervisor()

    yield start
    lifecycle.down()


class TestSupervision:
    def test_components_run_log_to_a_file_each_and_stop_without_orphans(
        self, supervised: Callable[..., supervisor.Supervisor]
    ) -> None:
        control = supervised(
            Component("talker", python("import time; print('hello', flush=True); time.sleep(600)")),
            Component("waiter", python("import time; time.sleep(600)")),
        )
        log = supervisor.logs() / "talker.log"
        eventually(lambda: log.exists() and "hello" in log.read_text())
        eventually(lambda: len(processes.marked(settings.home())) == 2)
        daemon = control.pid()
        assert daemon

        assert lifecycle.down() is True

        assert processes.marked(settings.home()) == []
        assert not psutil.pid_exists(daemon)
        assert lifecycle.down() is False

    def test_a_killed_component_is_started_again_and_what_it_left_behind_is_ended(
        self, supervised: Callable[..., supervisor.Supervisor]
    ) -> None:
        # Like an executor's task: a child in a session of its own, which outlives its killed parent.
        child = "import time; time.sleep(600)"
        parent = (
            "import subprocess, sys, time;"
            f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True); time.sleep(600)"
        )
        control = supervised(Component("parent", python(parent)))
        eventually(lambda: len(processes.marked(settings.home(), "parent")) == 2)
        first = {process.pid for process in processes.marked(settings.home(), "parent")}

        os.kill(control.states()["parent"]["pid"], signal.SIGKILL)

        eventually(lambda: len({p.pid for p in processes.marked(settings.home(), "parent")} - first) == 2)
        assert not [pid for pid in first if psutil.pid_exists(pid)]

    def test_down_ends_children_that_left_the_process_group(
        self, supervised: Callable[..., supervisor.Supervisor]
    ) -> None:
        supervised(
            Component(
                "parent",
                python("import os, time; os.fork() or os.setsid(); time.sleep(600)"),
            )
        )
        eventually(lambda: len(processes.marked(settings.home(), "parent")) == 2)
        lifecycle.down()
        assert processes.marked(settings.home()) == []

    def test_a_component_that_waits_for_the_database_is_started_by_name(
        self, supervised: Callable[..., supervisor.Supervisor]
    ) -> None:
        control = supervised(
            Component("late", python("import time; time.sleep(600)"), waits_for_database=True),
        )
        assert control.states()["late"]["state"] == "STOPPED"
        control.start("late")
        control.start("late")
        assert control.states()["late"]["state"] in ("STARTING", "RUNNING")

    def test_stale_files_of_a_killed_supervisor_are_no_hindrance(
        self, supervised: Callable[..., supervisor.Supervisor]
    ) -> None:
        sleeper = Component("sleeper", python("import time; time.sleep(600)"))
        daemon = supervised(sleeper).pid()
        assert daemon
        os.kill(daemon, signal.SIGKILL)
        eventually(lambda: supervisor.Supervisor().pid() is None)
        assert supervisor.socket_path().exists()

        assert supervised(sleeper).pid() not in (None, daemon)

    def test_a_home_with_a_long_path_works_too(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, supervised: Callable[..., supervisor.Supervisor]
    ) -> None:
        monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / ("deep" * 30)))
        control = supervised(Component("sleeper", python("import time; time.sleep(600)")))
        assert control.pid()
        lifecycle.down()

    def test_an_odd_home_works_too(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, supervised: Callable[..., supervisor.Supervisor]
    ) -> None:
        monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "100% of 'it'"))
        control = supervised(Component("sleeper", python("import time; time.sleep(600)")))
        eventually(lambda: len(processes.marked(settings.home(), "sleeper")) == 1)
        assert control.pid()
        lifecycle.down()

    def test_without_a_supervisor_there_is_nothing_to_ask(self) -> None:
        assert supervisor.Supervisor().pid() is None
        with pytest.raises(StackError, match="does not answer"):
            supervisor.Supervisor().states()


def test_a_stack_that_is_down_is_unhealthy_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AIRLOCK_AIRFLOW_PORT", "AIRLOCK_MLFLOW_PORT", "AIRLOCK_GATEWAY_PORT"):
        monkeypatch.setenv(variable, "9")
    health = check({component.name: 0.0 for component in components.components()})
    assert len(health) == 6
    assert not any(answer.ok for answer in health.values())


def test_the_serving_process_wrapper_needs_no_heavy_imports() -> None:
    heavy = ("httpx", "pydantic", "rich", "sqlalchemy")
    code = f"import sys, tasks.stack.processes; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run(python(code), capture_output=True, text=True, check=True).stdout.strip() == "[]"


class TestAirflowsDatabase:
    @pytest.fixture
    def environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        """Airflow's command line replaced by one that makes the file, or fails where the variable FAIL is set."""
        package = tmp_path / "library" / "airflow"
        package.mkdir(parents=True)
        (package / "__main__.py").write_text(
            "import os, sys, pathlib\n"
            "print('preparing', *sys.argv[1:])\n"
            "pathlib.Path(os.environ['COUNT']).open('a').write('x')\n"
            "pathlib.Path(os.environ['DATABASE']).touch()\n"
            "sys.exit('no such driver' if 'FAIL' in os.environ else 0)\n"
        )
        (package / "__init__.py").write_text("")
        return {
            **os.environ,
            "PYTHONPATH": str(package.parent),
            "COUNT": str(tmp_path / "count"),
            "DATABASE": str(tmp_path / "airflow.db"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path / 'airflow.db'}",
        }

    def prepare(self, environment: dict[str, str]) -> int:
        """Prepare; how often that was really done so far."""
        Preparation(environment).wait(60)
        return len(Path(environment["COUNT"]).read_text())

    def test_is_prepared_once(self, environment: dict[str, str]) -> None:
        assert self.prepare(environment) == 1
        assert self.prepare(environment) == 1

    def test_is_prepared_again_when_it_was_removed_or_another_one_is_named(self, environment: dict[str, str]) -> None:
        self.prepare(environment)
        Path(environment["DATABASE"]).unlink()
        assert self.prepare(environment) == 2
        assert self.prepare({**environment, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://db/airflow"}) == 3

    def test_a_failure_shows_the_end_of_the_log_and_is_not_taken_for_done(self, environment: dict[str, str]) -> None:
        with pytest.raises(StackError, match="no such driver"):
            self.prepare({**environment, "FAIL": "1"})
        assert self.prepare(environment) == 2


def test_a_free_port_is_none_that_the_system_hands_out_by_itself() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = {free_port() for _ in range(50)}
    assert all(20000 <= port < lowest and is_free(port) for port in found)
    assert len(found) > 40, "two processes that ask at once should get different ones"
