"""A person's approval: what is shown, and what each answer does, also where the task was killed in between."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bentos import settings
from bentos.store import tables
from tasks.control import audit
from tasks.control.plane import ControlPlane
from tasks.spec.params import Params
from tasks.stages import approval
from tasks.stages.approval import APPROVED, ASKED, REJECTED, TIMED_OUT, Answer, answer, answered, ask
from tasks.stages.register import register
from tasks.tracking.release import Release
from tests.tasks import fabricated

MakePolicy = Callable[..., str]


@pytest.fixture
def policy(mlflow_server: str, make_policy: MakePolicy) -> str:
    return make_policy()


def candidate(policy: str, run: str, **params: object) -> Release:
    asked = Params.model_validate({"approval": True, "approval_hours": 2, **params})
    release = fabricated.candidate(policy, run, asked)
    register(release)
    return release


def tags(release: Release, version: str = "1") -> dict[str, str]:
    found: dict[str, str] = ControlPlane("test").state(release.policy)["versions"][version]
    return found


def events(release: Release, *kinds: str) -> list[tuple[str, str]]:
    engine = tables.connect(settings.database_url())
    return [(event.what, event.words) for what in kinds for event in audit.events(engine, release.policy, what)]


def test_the_question_shows_the_candidate_beside_the_champion_with_links_and_its_deadline(policy: str) -> None:
    first = candidate(policy, "manual__1")
    asked = ask(first)
    assert f"Release {policy} version 1 to a canary?" == asked.subject
    assert "There is no champion yet" in asked.body
    answer(first, Answer(True, "ada", "it balances"))
    control = ControlPlane("test")
    control.start_canary(policy, "1", "g1", 0.05)
    control.promote(policy, "g1", "it won")

    second = candidate(policy, "manual__2", seed=11, canary_steps=[0.1])
    body = ask(second).body
    lines = {line.split(" | ")[0].strip("| "): line for line in body.splitlines() if line.startswith("| ")}
    assert "champion (version 1)" in body
    assert lines["spec: train.seed"] == "| spec: train.seed | 7 | **11** |"
    assert "**[0.1]**" in lines["spec: canary.steps"]
    assert "episodes)" in lines["offline return"]
    assert lines["action space"].endswith("| Discrete n 2 | Discrete n 2 |")
    assert "8.2 / 16.5" in lines["latency p50 / p99 of one row, µs"]
    assert "spec: train.algorithm" not in lines
    for link in (f"/#/models/{policy}/versions/2", "/runs/manual__2", f"/airlock/policies/{policy}", second.run_id):
        assert link in body
    assert time.strftime("%Y-%m-%d", time.gmtime(time.time() + 7200)) in body


@pytest.mark.parametrize(
    ("given", "status", "key", "event"),
    [
        (Answer(True, "ada", "it balances"), "approved", "approved_by", (APPROVED, "approved by ada: it balances")),
        (Answer(False, "bo", ""), "rejected", "rejected_by", (REJECTED, "rejected by bo")),
        (
            Answer(False, approval.NOBODY, "", timed_out=True),
            "rejected",
            "rejected_by",
            (TIMED_OUT, "rejected by nobody (the deadline passed)"),
        ),
    ],
)
def test_each_answer_is_on_the_version_and_in_the_audit_log(
    policy: str, given: Answer, status: str, key: str, event: tuple[str, str]
) -> None:
    release = candidate(policy, "manual__1")
    ask(release)
    answer(release, given)
    found = tags(release)
    assert (found["validation_status"], found[key]) == (status, given.who)
    assert event[1] in found["reason"]
    assert found["approval_reason"] == (given.reason or "none given")
    assert events(release, APPROVED, REJECTED, TIMED_OUT) == [(event[0], f"version 1 {event[1]}")]
    assert answered(release) == given


def test_an_answer_given_before_a_kill_is_the_one_that_counts(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release = candidate(policy, "manual__1")
    with monkeypatch.context() as killed:
        killed.setattr(ControlPlane, "annotate", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            answer(release, Answer(False, "bo", "too slow"))
    assert tags(release)["validation_status"] == "candidate"
    kept = answered(release)
    assert kept == Answer(False, "bo", "too slow")
    answer(release, Answer(True, "ada", "asked again"))
    assert tags(release)["validation_status"] == "rejected"
    assert tags(release)["reason"] == "rejected by bo: too slow"
    assert len(events(release, APPROVED, REJECTED)) == 1


def test_asked_again_the_deadline_stays_and_another_release_has_its_own(policy: str) -> None:
    first = candidate(policy, "manual__1")
    seconds = ask(first).seconds
    assert 7000 < seconds <= 7200
    assert ask(first).seconds <= seconds
    assert len(events(first, ASKED)) == 1
    assert answered(first) is None
    answer(first, Answer(False, "bo", "no"))
    second = candidate(policy, "manual__2")
    assert answered(second) is None
    ask(second)
    assert len(events(first, ASKED)) == 2
