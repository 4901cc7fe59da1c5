"""The Dockerfile: what holds of every image, and that each image has what its room imports."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tasks.build.packaging.bento import REQUIREMENTS as REQUIREMENTS_OF_A_BENTO
from tests.deploy import dockerfile, imports
from tests.deploy.dockerfile import DOCKERFILE, REPOSITORY, TARGETS

REQUIREMENTS = REPOSITORY / "deploy" / "requirements"
ROLES = ("core", "gateway", "control", "worker")
BROUGHT_BY = {"airflow": "apache-airflow"}
"""Modules that come with a listed package, itself empty."""
CLIENTS = {"bentos.client.environments"}
"""What a client wraps its environment with: no gateway imports it."""
TRAINING = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium")


def distribution(name: str) -> str:
    return re.split(r"[\[<>=!~ ]", name, maxsplit=1)[0].lower().replace("_", "-")


def lines(role: str) -> list[str]:
    text = (REQUIREMENTS / f"{role}.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def listed(*roles: str) -> set[str]:
    return {distribution(line) for role in roles for line in lines(role)}


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(linter), str(DOCKERFILE)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_one_base_and_its_version_is_exact() -> None:
    outside = {stage.source for stage in dockerfile.stages().values()} - set(dockerfile.stages())
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", outside.pop())


@pytest.mark.parametrize("target", TARGETS)
class TestEachTarget:
    def test_it_runs_as_an_unprivileged_user_known_by_number(self, target: str) -> None:
        assert dockerfile.last(target, "USER").text == "10001:10001"

    def test_what_it_runs_gets_the_signals(self, target: str) -> None:
        assert dockerfile.last(target, "ENTRYPOINT").listed == ["dumb-init", "--single-child", "--"]
        assert dockerfile.last(target, "CMD").listed

    def test_it_says_whether_it_is_well(self, target: str) -> None:
        assert dockerfile.last(target, "HEALTHCHECK").listed

    def test_it_holds_what_was_installed_and_neither_sources_nor_arguments(self, target: str) -> None:
        copied = [each.text for each in dockerfile.instructions(target) if each.name == "COPY"]
        assert copied == [f"--from={target}-packages /opt/airlock /opt/airlock"]
        assert not [each for each in dockerfile.instructions(target) if each.name in ("ARG", "ADD", "VOLUME")]

    def test_no_variable_holds_a_secret(self, target: str) -> None:
        names = dockerfile.environment(target)
        assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|KEY|_URL|CONN", name)]

    def test_every_installation_is_pinned(self, target: str) -> None:
        runs = [each.text for each in dockerfile.instructions(f"{target}-packages") if "pip install" in each.text]
        assert runs
        assert [run for run in runs if "-c constraints.txt" not in run and "--no-deps" not in run] == []


def test_the_lists_of_the_roles_part_what_the_project_depends_on() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert sorted(line for role in ROLES for line in lines(role)) == sorted(project["dependencies"])


def test_what_is_copied_to_the_builder_is_all_that_the_wheel_is_made_of() -> None:
    admitted = {
        line.removeprefix("!") for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if "!" in line
    }
    wanted = {
        word.rstrip("/")
        for stage in ("project", "packages")
        for each in dockerfile.stages()[stage].own
        if each.name == "COPY" and "--from" not in each.text
        for word in each.words[:-1]
    }
    assert admitted == wanted


@pytest.mark.parametrize(
    ("rooms", "roles"),
    [(("bentos",), ("core", "gateway")), (("plugins", "dags"), ("core", "control")), (imports.ROOMS, ROLES)],
    ids=["gateway", "control", "worker"],
)
def test_each_role_installs_what_its_rooms_import(rooms: tuple[str, ...], roles: tuple[str, ...]) -> None:
    roots = [module for room in rooms for module in imports.modules(room)]
    given = listed(*roles) | {module for module, package in BROUGHT_BY.items() if package in listed(*roles)}
    missing = {
        module: sorted(importers)
        for module, importers in imports.outside(roots, calls=True).items()
        if not owners(module) & given and importers != CLIENTS
    }
    assert missing == {}


def test_a_bento_asks_for_what_the_gateways_image_has() -> None:
    brought_by_bentoml = {"bentoml", "pydantic", "pyyaml"}
    assert set(REQUIREMENTS_OF_A_BENTO) == listed("core", "gateway") - brought_by_bentoml


def test_the_gateway_and_the_control_role_are_spared_the_training_libraries() -> None:
    assert not listed("core", "gateway") & {*TRAINING, "mlflow", "apache-airflow"}
    assert not listed("core", "control") & {*TRAINING, "mlflow"}


def owners(module: str) -> set[str]:
    """Installed distributions that a module may come from, and the module's own name."""
    return {distribution(name) for name in installed().get(module, [])} | {module}


@cache
def installed() -> Mapping[str, list[str]]:
    return packages_distributions()
