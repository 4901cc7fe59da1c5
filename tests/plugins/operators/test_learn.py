"""The operator of online learning: what skips, what fails for good, and what is passed on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from plugins.operators.learn import LearnOperator
from tasks.errors import Misconfigured, Rejected
from tasks.learning.run import Learning


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learning, "begin", staticmethod(lambda policy, run_id: (policy, run_id)))


def run(stage: str, **arguments: Any) -> Any:
    context: Any = {"dag": SimpleNamespace(dag_id="learn_cartpole"), "dag_run": SimpleNamespace(run_id="run-1")}
    return LearnOperator(task_id="t", stage=f"{__name__}:{stage}", **arguments).execute(context)


def good(learning: Any) -> dict[str, Any]:
    return {"learning": learning}


def waits(learning: Any) -> dict[str, Any]:
    return {"enough": False, "reason": "12 of 1000"}


def rejects(learning: Any) -> Any:
    raise Rejected("worse")


def misconfigured(learning: Any) -> Any:
    raise Misconfigured("no champion")


def test_a_stage_gets_the_learning_of_its_dag_run() -> None:
    assert run("good") == {"learning": ("cartpole", "run-1")}


def test_too_little_to_learn_from_skips_with_its_reason() -> None:
    with pytest.raises(AirflowSkipException, match="12 of 1000"):
        run("waits")


def test_a_rejected_log_fails_for_good_and_a_rejected_candidate_skips() -> None:
    with pytest.raises(AirflowFailException, match="worse"):
        run("rejects")
    with pytest.raises(AirflowSkipException, match="worse"):
        run("rejects", rejection_skips=True)


def test_what_a_person_must_change_is_not_retried() -> None:
    with pytest.raises(AirflowFailException, match="no champion"):
        run("misconfigured", rejection_skips=True)
