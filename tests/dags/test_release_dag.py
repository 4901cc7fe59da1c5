"""The release DAGs: imported, structure-checked, cheap to parse, and independent of one another's mistakes."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.timetables.base import TimeRestriction

from dags.release import release_dag
from dags.schedules import TRAIN_QUEUE
from tasks.spec.files import load, policies_directory
from tasks.spec.params import Params
from tasks.spec.sections import FAMILIES, POST_DEPLOYMENT, PRE_DEPLOYMENT

DAGS = Path(__file__).resolve().parents[2] / "dags"
POLICIES = sorted(path.stem for path in policies_directory().glob("*.yaml"))
PRODUCT = DAGS.parent


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(str(DAGS))


def test_every_spec_has_its_release_dag_and_no_file_fails_to_import(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) >= {f"{kind}_{policy}" for kind in ("monitor", "release") for policy in POLICIES}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_release_is_wired_from_training_to_report(bag: DagBag, policy: str) -> None:
    dag = bag.dags[f"release_{policy}"]
    order = [
        "build.train",
        "build.evaluate",
        "build.export",
        "build.quantize",
        "build.benchmark",
        "build.select",
        "register.model_version",
        "package.bento",
        "pre_deployment.checklist",
        "pre_deployment.approval",
        "canary.verdict",
        "post_deployment.checklist",
        "report",
    ]
    for earlier, later in itertools.pairwise(order):
        assert later in dag.get_task(earlier).downstream_task_ids, (earlier, later)
    assert [task.task_id for task in dag.leaves] == ["report"]
    assert dag.get_task("report").trigger_rule == "all_done"
    assert dag.get_task("canary.simulated_users").upstream_task_ids == {"pre_deployment.approval"}
    heavy = {f"build.{stage}" for stage in ("train", "evaluate", "quantize", "benchmark")}
    assert {task.task_id for task in dag.tasks if task.queue == TRAIN_QUEUE} == heavy
    assert {task.queue for task in dag.tasks} == {TRAIN_QUEUE, "default"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_broker_that_is_away_for_two_minutes_fails_no_task(bag: DagBag, policy: str) -> None:
    for task in bag.dags[f"release_{policy}"].tasks:
        grown = [task.retry_delay * task.retry_exponential_backoff**spent for spent in range(task.retries)]
        assert sum((min(one, task.max_retry_delay) for one in grown), timedelta()) >= timedelta(minutes=2), task.task_id


@pytest.mark.parametrize("policy", POLICIES)
def test_a_release_never_overlaps_another_and_stays_within_sixteen_task_instances(bag: DagBag, policy: str) -> None:
    dag = bag.dags[f"release_{policy}"]
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert len(dag.tasks) - 1 + len(FAMILIES) <= 16


@pytest.mark.parametrize("policy", POLICIES)
def test_every_parameter_of_the_form_is_described_bounded_and_understood_by_the_release(policy: str) -> None:
    spec = load(policy)
    params = release_dag(spec).params
    assert set(params) == set(Params.model_fields)
    for name in params:
        schema = params.get_param(name).schema
        assert schema.get("title"), name
        assert schema.get("description_md") or params.get_param(name).description, name
        bounded = {"enum", "minimum", "exclusiveMinimum", "items", "type"} & set(schema)
        assert bounded, name
    filled = Params.model_validate(params.dump())
    assert filled.seed == spec.train.seed
    assert filled.minimum_mean_return == spec.evaluate.minimum_mean_return


@pytest.mark.parametrize("policy", POLICIES)
def test_a_new_stack_waits_for_the_next_tick_of_the_schedule(policy: str) -> None:
    timetable = coerce_to_core_timetable(release_dag(load(policy)).timetable)
    first = timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(earliest=None, latest=None, catchup=False)
    )
    assert first is not None
    assert first.run_after > datetime.now(UTC)


def test_the_form_refuses_what_is_out_of_bounds() -> None:
    params = release_dag(load("cartpole")).params
    for name, bad in [
        ("seed", -1),
        ("timesteps", 0),
        ("canary_steps", [0.7]),
        ("source", "guess"),
        ("dry_run_checks", ["no_such_check"]),
        ("simulate_users", 100_000),
    ]:
        with pytest.raises(Exception, match=str(bad).strip("[]'")):
            params.get_param(name).resolve(bad)
    assert params.get_param("dry_run_checks").resolve([PRE_DEPLOYMENT[0], POST_DEPLOYMENT[0]])


def test_a_broken_spec_is_the_import_error_of_its_own_policy_only(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    shutil.copytree(DAGS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    broken = folder / "policies" / "pendulum.yaml"
    broken.write_text(broken.read_text().replace("algorithm: sac", "algorithm: magic"))
    script = (
        "import json, os, sys\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"bag = DagBag({str(folder)!r})\n"
        "json.dump({'dags': sorted(bag.dags), 'errors': bag.import_errors}, open(sys.argv[1], 'w'))\n"
    )
    result = tmp_path / "result.json"
    environment = {**_environment(), "AIRLOCK_POLICIES": str(folder / "policies")}
    subprocess.run([sys.executable, "-c", script, str(result)], check=True, env=environment, capture_output=True)
    found = json.loads(result.read_text())
    assert {dag.rpartition("_")[2] for dag in found["dags"]} == {"cartpole"}
    (file, message), *others = found["errors"].items()
    assert not others
    assert file.endswith("pendulum.py")
    assert "train.algorithm" in message
    assert "magic" in message


def test_parsing_a_dag_file_loads_no_training_or_registry_library(tmp_path: Path) -> None:
    script = (
        "import json, sys\n"
        "import dags.cartpole\n"
        "heavy = {'torch', 'stable_baselines3', 'mlflow', 'onnxruntime', 'onnx', 'bentoml', 'gymnasium'}\n"
        "json.dump(sorted(heavy & set(sys.modules)), open(sys.argv[1], 'w'))\n"
    )
    result = tmp_path / "modules.json"
    subprocess.run([sys.executable, "-c", script, str(result)], check=True, env=_environment(), cwd=PRODUCT)
    assert json.loads(result.read_text()) == []


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)
