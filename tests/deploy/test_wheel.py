"""The wheel: what it holds, and that Airlock works from it, in a directory where nothing else is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.commands import AIRLOCK, LAUNCH, PACKAGES, run
from tests.deploy.dockerfile import REPOSITORY

ROOTS = {**dict.fromkeys(PACKAGES, REPOSITORY), "airlock_launch": LAUNCH}
"""What the wheel installs at the top, and where it lies in the repository."""
UNTRACKED = ("__pycache__", ".pyc")
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")


def packaged() -> dict[str, Path]:
    """Every file of the packages: its name in the wheel, and where it is in the repository.

    Those that git knows or would add; where there is no git, all but what Python compiled.
    """
    found: dict[str, Path] = {}
    for name, root in ROOTS.items():
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", name],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        files = (
            [root / line for line in listed.stdout.split("\0") if line]
            if listed.returncode == 0
            else [file for file in (root / name).rglob("*") if not str(file).endswith(UNTRACKED)]
        )
        found |= {file.relative_to(root).as_posix(): file for file in files if file.is_file()}
    return found


@dataclass(frozen=True)
class Installed:
    """The wheel, and the directory that it is installed in, without what it depends on."""

    wheel: Path
    site: Path

    def run(self, *command: str, directory: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command that imports Airlock from the wheel."""
        return run(command, (self.site,), directory, timeout)


def pip(*arguments: str, directory: Path) -> None:
    done = run((*PIP, *arguments), (), directory)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from a copy of the sources, so that nothing is left beside them."""
    work = tmp_path_factory.mktemp("wheel")
    for file in (*packaged().values(), *(REPOSITORY / name for name in ("pyproject.toml", "README.md", "LICENSE"))):
        copy = work / "source" / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    pip(
        *("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(work / "wheels"), "."),
        directory=work / "source",
    )
    (wheel,) = (work / "wheels").iterdir()
    pip(
        "install", "--no-deps", "--no-index", "--no-compile", "--target", str(work / "site"), str(wheel), directory=work
    )
    return Installed(wheel, work / "site")


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A directory with nothing in it."""
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


def test_it_holds_every_file_of_the_packages_and_nothing_else(installed: Installed) -> None:
    names = {name for name in zipfile.ZipFile(installed.wheel).namelist() if not name.endswith("/")}
    metadata = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert {name.partition("/")[2] for name in metadata} == METADATA
    assert names - metadata == set(packaged())


def test_what_must_be_among_them_is(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    assert {
        "airlock_launch/airflow_plugin.py",
        "bentos/py.typed",
        "bentos/service.py",
        "dags/.airflowignore",
        "dags/policies/cartpole.yaml",
        "plugins/console/static/uplot/LICENSE",
        "plugins/console/templates/base.html",
        "tasks/build/__init__.py",
        "tasks/build/packaging/bento.py",
        "tasks/py.typed",
    } <= names


def test_every_module_is_imported_from_it(installed: Installed, empty: Path) -> None:
    modules = (*ROOTS, "tasks.build", "tasks.cli", "plugins.console")
    told = f"import {', '.join(modules)}; print(*({', '.join(f'{name}.__file__' for name in modules)}), sep='\\n')"
    done = installed.run(sys.executable, "-P", "-c", told, directory=empty)
    assert done.returncode == 0, done.stderr
    expected = [str(installed.site / name.replace(".", "/") / "__init__.py") for name in modules]
    assert done.stdout.splitlines() == expected


class TestTheCommand:
    def test_the_script_that_pip_writes_starts_it(self, installed: Installed, empty: Path) -> None:
        done = installed.run(str(installed.site / "bin" / "airlock"), "--help", directory=empty)
        assert done.returncode == 0, done.stderr
        assert " release " in done.stdout

    def test_the_specs_that_come_with_it_are_valid(self, installed: Installed, empty: Path) -> None:
        done = installed.run(*AIRLOCK, "policies", "validate", "--json", directory=empty)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["valid"] == ["cartpole", "pendulum"]

    def test_a_canary_can_be_planned(self, installed: Installed, empty: Path) -> None:
        (empty / "returns.json").write_text(json.dumps([100.0 + number % 40 for number in range(200)]))
        command = ("plan", "cartpole", "--returns", "returns.json", "--units-per-hour", "1000", "--canaries", "20")
        done = installed.run(*AIRLOCK, *command, "--json", directory=empty)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["policy"] == "cartpole"

    def test_its_state_is_in_the_directory_it_was_started_in(self, installed: Installed, empty: Path) -> None:
        told = "from bentos import settings; print(settings.home())"
        done = installed.run(sys.executable, "-P", "-c", told, directory=empty)
        assert done.stdout.strip() == str(empty / ".airlock")


class TestAirflow:
    LOOKS = """
import json, sys
from pathlib import Path
from airflow import settings
settings.initialize()
from airflow.plugins_manager import get_import_errors, get_plugin_info
from airflow.utils.file import list_py_file_paths
files = [Path(file).name for file in list_py_file_paths(sys.argv[1])]
plugins = [plugin["name"] for plugin in get_plugin_info()]
module = getattr(sys.modules.get("plugins.airlock"), "__file__", None)
print(json.dumps({"errors": get_import_errors(), "plugins": plugins, "module": module, "files": sorted(files)}))
"""

    def look(self, installed: Installed, empty: Path, *before: Path) -> tuple[dict[str, Any], str]:
        """Airflow's plugins, which it cannot import, where Airlock's is, which files it would parse; and its log."""
        variables = {"AIRFLOW_HOME": str(empty / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        command = (sys.executable, "-P", "-c", self.LOOKS, str(installed.site / "dags"))
        done = run(command, (*before, installed.site), empty, **variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr

    def test_it_loads_the_plugin_and_takes_policies_alone_for_dag_files(
        self, installed: Installed, empty: Path
    ) -> None:
        found, _ = self.look(installed, empty)
        assert found["module"] == str(installed.site / "plugins" / "airlock.py")
        assert "airlock" in found["plugins"]
        assert found["files"] == ["cartpole.py", "pendulum.py"]

    def test_it_starts_without_the_plugin_where_a_package_is_shadowed(
        self, installed: Installed, empty: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "app" / "tasks.py"
        file.parent.mkdir()
        file.touch()
        found, log = self.look(installed, empty, file.parent)
        told = f"{file} is imported in place of Airlock's package 'tasks'"
        assert "airlock" not in found["plugins"]
        assert told in found["errors"]["airlock_launch.airflow_plugin"]
        assert f"error    ] {told}" in log


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_demo_runs_from_it(installed: Installed, empty: Path) -> None:
    done = installed.run(*AIRLOCK, "demo", "--json", directory=empty, timeout=1500)
    state = empty / ".airlock"
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    document = json.loads((state / "demo.json").read_text())
    assert document == json.loads(done.stdout)
    assert (document["ok"], document["problem"]) == (True, None)
    started = re.findall(r"^directory=(.*)$", (state / "demo" / "stack" / "supervisord.conf").read_text(), re.MULTILINE)
    assert set(started) == {str(installed.site)}
    assert list(empty.iterdir()) == [state]
