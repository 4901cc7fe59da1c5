"""Modules that have the name of one of Airlock's packages: `airlock` says which, where they are in the way."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from configparser import RawConfigParser
from pathlib import Path

import httpx
import pytest

from tasks.ports import free_port
from tasks.stack.components import Component, components
from tasks.stack.supervisor import configuration
from tests.bentos.gateway_process import START_SECONDS, wait_until
from tests.bentos.policy_packages import write_package
from tests.deploy.commands import AIRLOCK, CHECKOUT, LAUNCH, PACKAGES, environment, run
from tests.deploy.dockerfile import REPOSITORY

Shape = Callable[[Path, str], Path]
WRONG = "raise SystemExit('it was imported')\n"


def module(directory: Path, name: str) -> Path:
    """A module of an application's, as one file."""
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.py").write_text(WRONG)
    return directory / f"{name}.py"


def package(directory: Path, name: str) -> Path:
    """A module of an application's, as a directory."""
    (directory / name).mkdir(parents=True)
    (directory / name / "__init__.py").write_text(WRONG)
    return directory / name / "__init__.py"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The directory of another application."""
    directory = tmp_path / "app"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("shape", [module, package])
class TestOnPythonpath:
    def test_the_command_names_the_file_and_says_what_to_do(
        self, name: str, shape: Shape, app: Path, tmp_path: Path
    ) -> None:
        file = shape(app, name)
        done = run((*AIRLOCK, "policies", "validate", "--json"), (app, *CHECKOUT), tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {file} is imported in place of Airlock's package '{name}': ")
        assert "Install it in an environment of its own" in line
        assert "out of PYTHONPATH" in line

    def test_airflows_plugin_logs_it_and_imports_nothing_of_it(
        self, name: str, shape: Shape, app: Path, tmp_path: Path
    ) -> None:
        file = shape(app, name)
        code = (
            "try:\n    import airlock_launch.airflow_plugin\n"
            "except ImportError as error:\n    print(error)\nelse:\n    print('loaded')"
        )
        done = run((sys.executable, "-P", "-c", code), (app, *CHECKOUT), tmp_path)
        assert done.returncode == 0
        assert done.stdout.startswith(f"{file} is imported in place of")
        assert done.stderr == done.stdout


def test_there_is_a_line_for_each_name(app: Path, tmp_path: Path) -> None:
    files = [module(app, "dags"), module(app, "tasks")]
    done = run((*AIRLOCK, "--help"), (app, *CHECKOUT), tmp_path)
    assert done.returncode == 1
    assert sorted(line.split()[1] for line in done.stderr.splitlines()) == [str(file) for file in files]


def test_an_installation_that_lacks_packages_says_so(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(LAUNCH)!r}); from airlock_launch import main; main()"
    done = run((sys.executable, "-I", "-S", "-c", code), (), tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split("'")[2] for line in done.stderr.splitlines()] == list(PACKAGES)


class TestInTheWorkingDirectory:
    def test_it_is_in_the_way_only_where_python_looks_there_first(self, app: Path) -> None:
        file = module(app, "tasks")
        looking = tuple(word for word in AIRLOCK if word != "-P")
        done = run((*looking, "--help"), CHECKOUT, app)
        assert done.returncode == 1
        assert str(file) in done.stderr

    def test_the_command_does_not_look_there(self, app: Path) -> None:
        for name in PACKAGES:
            module(app, name)
        done = run((*AIRLOCK, "policies", "schema"), CHECKOUT, app)
        assert (done.returncode, done.stderr) == (0, "")
        assert "canary" in json.loads(done.stdout)["required"]

    def test_folders_that_only_have_such_a_name_are_in_nobodys_way(self, app: Path) -> None:
        for name in PACKAGES:
            (app / name).mkdir()
        assert run((*AIRLOCK, "policies", "schema"), (app, *CHECKOUT), app).returncode == 0

    def test_the_processes_of_the_stack_do_not_look_there(
        self, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "home"))
        for name in PACKAGES:
            module(app, name)
        told = "import bentos, tasks; print(bentos.__file__, tasks.__file__, sep='\\n')"
        probe = Component("probe", (sys.executable, "-c", told))
        written = RawConfigParser()
        written.read_string(configuration([*components(), probe]))
        programs = [written[section] for section in written.sections() if section.startswith("program:")]
        assert {each["directory"] for each in programs} == {str(REPOSITORY)}
        # even where it was on PYTHONPATH, too
        done = run(shlex.split(programs[-1]["command"]), (app,), REPOSITORY, AIRLOCK_HOME=str(tmp_path / "home"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [str(REPOSITORY / name / "__init__.py") for name in ("bentos", "tasks")]


class TestServe:
    def test_what_would_be_served_in_place_of_the_gateway_is_named(self, app: Path) -> None:
        write_package(app / "policy")
        file = module(app, "bentos")
        done = run((*AIRLOCK, "serve", "policy", "--port", str(free_port())), CHECKOUT, app)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {file} would be imported in place of Airlock's package 'bentos'")
        assert "start it from another directory" in line

    def test_other_modules_are_in_nobodys_way(self, app: Path, tmp_path: Path) -> None:
        write_package(app / "policy")
        for name in ("tasks", "plugins", "dags"):
            module(app, name)
        port = free_port()
        log = tmp_path / "gateway.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*AIRLOCK, "serve", "policy", "--port", str(port)],
                cwd=app,
                env=environment(CHECKOUT, AIRLOCK_HOME=str(tmp_path / "home")),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until(ready, f"the gateway is ready; its log is {log}", START_SECONDS)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)
