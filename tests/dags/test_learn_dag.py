"""The DAG of online learning: made where the spec asks for it, and wired from the log to an ordinary release."""

from __future__ import annotations

import pytest

from dags.factory import dags_of
from dags.learn import learn_dag
from dags.params import release_params
from tasks.spec.files import load
from tasks.spec.sections import Learn


@pytest.mark.parametrize("policy", ["cartpole", "pendulum"])
def test_a_policy_has_it_only_where_its_spec_says_so(policy: str) -> None:
    assert (f"learn_{policy}" in dags_of(policy)) == (load(policy).learn is not None)


def test_it_goes_from_the_log_to_a_release_that_must_show_superiority() -> None:
    spec = load("pendulum")
    dag = learn_dag(spec, Learn(schedule="0 5 * * *"))
    assert dag.dag_id == "learn_pendulum"
    assert [task.task_id for task in dag.topological_sort()] == ["collect", "fine_tune", "evaluate", "release"]
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    release = dag.get_task("release")
    assert release.trigger_dag_id == "release_pendulum"
    assert set(release.conf) <= set(release_params(spec))
    assert (release.conf["source"], release.conf["objective"]) == ("learned", "superiority")
    assert release.wait_for_completion is False


def test_without_a_schedule_it_runs_by_hand_only() -> None:
    assert learn_dag(load("pendulum"), Learn()).schedule is None
