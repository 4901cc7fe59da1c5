"""Operators of a release, driven as Airflow drives them: execute, defer, resume."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.hitl import HITLDetail
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskAwaitingInput, TaskDeferred
from airflow.sdk.serde import deserialize, serialize

from bentos import settings
from plugins.operators import approval as approval_module
from plugins.operators import canary as canary_module
from plugins.operators import stage as stage_module
from plugins.operators.approval import ReleaseApproval
from plugins.operators.canary import CanaryOperator, CanaryTrigger
from plugins.operators.stage import StageOperator, begin, final
from tasks.canary import lifecycle
from tasks.errors import Misconfigured, Rejected
from tasks.spec.files import load
from tasks.spec.params import Params
from tasks.stages import approval
from tasks.stages.approval import Answer
from tasks.tracking.client import RegistryUnavailable
from tasks.tracking.release import Release

CONTINUE = {"verdict": "continue", "advance": False, "reason": "12 of 2000 units"}
STEP = {"verdict": "continue", "advance": True, "reason": "next step"}
PROMOTE = {"verdict": "promote", "advance": False, "reason": "the lower bound is above 0"}


class FakeRelease:
    """Stands in for a release's MLflow run, which these tests have no use for."""

    policy = "cartpole"

    def __init__(self, artifacts: dict[str, Any] | None = None, approval: str = "none") -> None:
        self.artifacts = artifacts or {}
        self.spec = load("cartpole").model_copy(update={"approval": approval})

    def get_json(self, path: str) -> Any:
        return self.artifacts.get(path)


def context(run_type: str = "manual", conf: dict[str, Any] | None = None, verdict: str | None = None) -> Any:
    return {
        "dag": SimpleNamespace(dag_id="release_cartpole"),
        "dag_run": SimpleNamespace(run_id="run-1", run_type=run_type, conf=conf),
        "params": {"seed": 3, "objective": "non_inferiority"},
        "ti": SimpleNamespace(xcom_pull=lambda task_ids: {"verdict": verdict}),
        "task_instance": SimpleNamespace(id="ti"),
    }


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Params]:
    seen: list[Params] = []

    def open_release(policy: str, dag_run_id: str, params: Params) -> str:
        assert (policy, dag_run_id) == ("cartpole", "run-1")
        seen.append(params)
        return "the release"

    monkeypatch.setattr(Release, "open", staticmethod(open_release))
    return seen


def test_a_persons_release_keeps_the_objective_of_the_form(opened: list[Params]) -> None:
    begin(context())
    assert opened[0].objective == "non_inferiority"
    assert opened[0].seed == 3


@pytest.mark.parametrize("run_type", ["scheduled", "asset_triggered"])
def test_a_release_nobody_asked_for_must_show_superiority(opened: list[Params], run_type: str) -> None:
    begin(context(run_type))
    assert opened[0].objective == "superiority"


def good(release: Any, bonus: int = 0) -> dict[str, Any]:
    return {"release": release, "bonus": bonus}


def refuses(release: Any) -> None:
    raise Rejected("mean return 31 is below 400")


def mistaken(release: Any) -> None:
    raise Misconfigured("no such zip")


def breaks(release: Any) -> None:
    raise ConnectionError("MLflow is down")


def stage(function: str, **kwargs: Any) -> StageOperator:
    return StageOperator(task_id="stage", stage=f"{__name__}:{function}", **kwargs)


def test_a_stage_runs_its_function_on_the_release_with_its_arguments(opened: list[Params]) -> None:
    assert stage("good", arguments={"bonus": 2}).execute(context()) == {"release": "the release", "bonus": 2}


@pytest.mark.parametrize("function", ["refuses", "mistaken"])
def test_a_gates_no_and_a_persons_mistake_are_never_retried(opened: list[Params], function: str) -> None:
    with pytest.raises(AirflowFailException):
        stage(function).execute(context())


def test_a_fault_that_can_pass_is_left_to_airflows_retries(opened: list[Params]) -> None:
    with pytest.raises(ConnectionError):
        stage("breaks").execute(context())


def test_a_server_that_is_away_is_waited_for() -> None:
    answers = iter([RegistryUnavailable("MLflow did not answer"), {"version": "3"}])

    def work(release: str) -> dict[str, str]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert final(work, "the release", pause=0.01) == {"version": "3"}


def test_post_deployment_runs_only_after_a_promotion(opened: list[Params]) -> None:
    after = stage("good", after_promotion="canary.verdict")
    with pytest.raises(AirflowSkipException, match="roll_back"):
        after.execute(context(verdict="roll_back"))
    assert after.execute(context(verdict="promote"))["release"] == "the release"


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    plan = SimpleNamespace(generation="g1", document=lambda: {"alpha": 0.05})
    monkeypatch.setattr(lifecycle, "plan", lambda release: plan)
    monkeypatch.setattr(lifecycle, "start", lambda release: calls.append("start"))
    monkeypatch.setattr(lifecycle, "advance", lambda release: calls.append("advance"))
    monkeypatch.setattr(
        lifecycle, "finish", lambda release, seen: calls.append("finish") or {"verdict": seen["verdict"]}
    )
    return calls


def use(monkeypatch: pytest.MonkeyPatch, release: FakeRelease) -> None:
    for module in (stage_module, canary_module, approval_module):
        monkeypatch.setattr(module, "begin", lambda context: release)


def test_the_canary_waits_in_a_trigger_steps_and_ends(monkeypatch: pytest.MonkeyPatch, control: list[str]) -> None:
    use(monkeypatch, FakeRelease())
    operator = CanaryOperator(task_id="verdict")
    with pytest.raises(TaskDeferred) as waiting:
        operator.execute(context())
    path, arguments = waiting.value.trigger.serialize()
    assert path == "plugins.operators.canary.CanaryTrigger"
    assert arguments["policy"] == "cartpole"
    assert arguments["generation"] == "g1"
    with pytest.raises(TaskDeferred):
        operator.resume(context(), STEP)
    assert operator.resume(context(), PROMOTE) == {"verdict": "promote"}
    assert control == ["start", "advance", "finish"]


def test_a_canary_that_already_ended_is_not_started_again(monkeypatch: pytest.MonkeyPatch, control: list[str]) -> None:
    use(monkeypatch, FakeRelease({"canary/verdict.json": {"verdict": "roll_back"}}))
    assert CanaryOperator(task_id="verdict").execute(context()) == {"verdict": "roll_back"}
    assert control == []


def test_the_trigger_fires_only_when_there_is_something_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([CONTINUE, OSError("database is locked"), CONTINUE, PROMOTE])
    looks: list[str] = []

    def look(policy: str, generation: str, plan: dict[str, Any]) -> dict[str, Any]:
        looks.append(generation)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(lifecycle, "look", look)

    async def first() -> Any:
        return await anext(CanaryTrigger("cartpole", "g1", {}, poll_seconds=0.001, quiet_seconds=0.001).run())

    assert asyncio.run(first()).payload == PROMOTE
    assert looks == ["g1"] * 4


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    given: list[Answer] = []

    def record(release: Any, answer: Answer) -> dict[str, Any]:
        given.append(answer)
        return {"words": f"by {answer.who}"}

    monkeypatch.setattr(approval, "answer", record)
    monkeypatch.setattr(approval, "answered", lambda release: given[0] if given else None)
    return given


def test_without_a_wish_for_approval_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, answers: list[Answer]) -> None:
    use(monkeypatch, FakeRelease())
    result = ReleaseApproval(task_id="approval", subject="?").execute(context())
    assert "checklist" in result["approved_by"]
    assert answers == []


def test_the_question_waits_as_long_as_is_left_and_rejects_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeRelease(approval="required"))
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **said: asked.update(said)
    )
    monkeypatch.setattr(approval, "answered", lambda release: None)
    monkeypatch.setattr(approval, "ask", lambda release: approval.Question("who?", "this one", 90.0))
    with pytest.raises(TaskAwaitingInput) as waiting:
        ReleaseApproval(task_id="approval", subject="?").execute(context())
    assert waiting.value.timeout == timedelta(seconds=90)
    assert (asked["subject"], asked["body"], asked["defaults"]) == ("who?", "this one", ["Reject"])
    assert set(asked["params"]) == {"reason"}


def event(option: str, who: str | None, reason: str = "") -> dict[str, Any]:
    """What Airflow hands a task that resumes: its own payload, through its own serialization. Nobody: the deadline."""
    detail = HITLDetail(
        chosen_options=[option],
        params_input={"reason": reason},
        responded_at=datetime.now(UTC),
        responded_by={"id": "1", "name": who} if who else None,
    )
    payload: dict[str, Any] = deserialize(serialize(detail.as_resume_event_payload(timedout=who is None)))
    return payload


def test_a_persons_answer_is_recorded_and_a_rejection_fails_the_task(
    monkeypatch: pytest.MonkeyPatch, answers: list[Answer]
) -> None:
    use(monkeypatch, FakeRelease(approval="required"))
    operator = ReleaseApproval(task_id="approval", subject="?")
    operator.execute_complete(context(), event("Approve", "ada", " fine "))
    with pytest.raises(AirflowFailException, match="ada"):
        operator.execute_complete(context(), event("Reject", "ada"))
    with pytest.raises(AirflowFailException, match="deadline"):
        operator.execute_complete(context(), event("Reject", None))
    assert answers == [
        Answer(True, "ada", "fine"),
        Answer(False, "ada", ""),
        Answer(False, approval.NOBODY, "", timed_out=True),
    ]


def test_a_task_that_is_tried_again_acts_on_the_answer_that_was_given_or_on_the_deadline_that_passed(
    monkeypatch: pytest.MonkeyPatch, answers: list[Answer]
) -> None:
    use(monkeypatch, FakeRelease(approval="required"))
    monkeypatch.setattr(approval, "ask", lambda release: approval.Question("who?", "this one", 0.0))
    operator = ReleaseApproval(task_id="approval", subject="?")
    with pytest.raises(AirflowFailException, match="deadline"):
        operator.execute(context())
    answers[:] = [Answer(True, "ada", "fine")]
    assert operator.execute(context()) == {"words": "by ada"}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the links find of a release: nothing, until something is put in."""
    releases: list[Any] = [None]
    monkeypatch.setattr(Release, "find", staticmethod(lambda policy, run_id: releases[-1]))
    return releases


def test_every_task_links_to_its_run_its_version_and_the_console(found: list[Any]) -> None:
    key = SimpleNamespace(dag_id="release_lunar_lander", run_id="run-1")
    operator = stage("good")

    def urls() -> dict[str, str]:
        return {link.name: link.get_link(operator, ti_key=key) for link in operator.operator_extra_links}  # type: ignore[arg-type]

    console = f"{settings.airflow_url()}/airlock/policies/lunar_lander"
    assert urls() == {"MLflow run": "", "Model version": "", "Airlock console": console}
    tracked = SimpleNamespace(tags={"airlock.version": "7"})
    found.append(SimpleNamespace(experiment_id="3", run_id="abc", tracked=lambda: tracked))
    assert urls()["MLflow run"].endswith("/#/experiments/3/runs/abc")
    assert urls()["Model version"].endswith("/#/models/lunar_lander/versions/7")
