"""Specs as files: every problem at once, a DAG file each, a schema."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from tasks.spec.files import dag_file, dags_directory, policies_directory, schema, sync, validate


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    directory = tmp_path / "policies"
    shutil.copytree(policies_directory(), directory)
    return directory


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    return tmp_path / "dags"


def test_the_shipped_specs_are_valid_and_have_their_dag_files() -> None:
    found = validate()
    assert found.document() == {"ok": True, "valid": ["cartpole", "pendulum"], "problems": [], "warnings": []}


def test_every_problem_of_every_file_is_listed_at_once(specs: Path, dags: Path) -> None:
    text = (specs / "cartpole.yaml").read_text()
    (specs / "cartpole.yaml").write_text(
        text.replace("steps: [0.05, 0.25, 0.5]", "steps: [0.5, 0.25]").replace("margin: 15", "margin: -1")
    )
    (specs / "other.yaml").write_text("name: other\nenvironment: {id: X}\n")
    (specs / "torn.yaml").write_text("name: [\n")

    found = validate(specs, dags)

    assert found.valid == ("pendulum",)
    said = {(Path(problem.file).name, problem.field) for problem in found.problems}
    assert {
        ("cartpole.yaml", "canary.steps"),
        ("cartpole.yaml", "canary.margin"),
        ("other.yaml", "train"),
        ("other.yaml", "evaluate"),
        ("other.yaml", "serve"),
        ("other.yaml", "canary"),
        ("torn.yaml", "(the whole file)"),
    } <= said
    margin = next(problem for problem in found.problems if problem.field == "canary.margin")
    assert "greater than 0" in margin.message
    assert "-1" in margin.message


def test_a_spec_without_dag_file_is_a_warning_and_sync_mends_it(specs: Path, dags: Path) -> None:
    assert len(validate(specs, dags).warnings) == 2

    written = sync(specs, dags)

    assert sorted(path.name for path in written) == ["cartpole.py", "pendulum.py"]
    assert validate(specs, dags).warnings == ()


def test_sync_gives_a_broken_spec_a_dag_file_too_so_that_airflow_shows_its_error(specs: Path, dags: Path) -> None:
    (specs / "broken.yaml").write_text("name: broken\n")
    assert dags / "broken.py" in sync(specs, dags)


def test_sync_leaves_existing_dag_files_alone(specs: Path, dags: Path) -> None:
    sync(specs, dags)
    (dags / "cartpole.py").write_text("# mine\n")

    assert sync(specs, dags) == []
    assert (dags / "cartpole.py").read_text() == "# mine\n"


def test_a_dag_file_that_is_not_the_policys_own_is_a_warning(specs: Path, dags: Path) -> None:
    sync(specs, dags)
    (dags / "cartpole.py").write_text("# something else\n")

    (warning,) = validate(specs, dags).warnings
    assert "cartpole" in warning


def test_the_shipped_dag_files_are_the_template(specs: Path) -> None:
    for policy in ("cartpole", "pendulum"):
        assert (dags_directory() / f"{policy}.py").read_text() == dag_file(policy)
    ast.parse(dag_file("cartpole"))


def test_specs_kept_elsewhere_have_their_dag_files_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, specs: Path
) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRLOCK_POLICIES", str(specs))
    assert dags_directory() == tmp_path / "home" / "dags"


def test_an_empty_directory_is_a_warning(tmp_path: Path) -> None:
    (warning,) = validate(tmp_path, tmp_path).warnings
    assert "no policy spec" in warning


def test_the_schema_describes_every_field() -> None:
    document = schema()
    assert document["$schema"].startswith("https://json-schema.org/")
    assert {"name", "environment", "train", "evaluate", "serve", "canary"} == set(document["required"])
    canary = document["$defs"]["Canary"]["properties"]
    assert all("description" in field for field in canary.values())
