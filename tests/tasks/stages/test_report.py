"""How a release ends: from tags and task states to a word, and nothing left running."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.checklist.types import Checklist
from tasks.control.plane import ControlPlane
from tasks.stages.register import register
from tasks.stages.report import ending_of, report
from tasks.tracking.release import Release, client
from tests.tasks import fabricated

MakePolicy = Callable[..., str]
PASSED = Checklist("cartpole", "1", "post_deployment", "pass", "a test", 0.0, ()).to_json()
DIED = {"register.model_version": "success", "canary.verdict": "failed", "post_deployment.checklist": "upstream_failed"}


@pytest.mark.parametrize(
    ("tags", "states", "rejection", "outcome", "reason"),
    [
        ({"validation_status": "promoted", "reason": "better"}, {}, None, "promoted", "better"),
        ({"validation_status": "rolled_back", "reason": "worse"}, {}, None, "rolled_back", "worse"),
        ({"validation_status": "rolled_back", "reason": "slow"}, {"post": "failed"}, None, "rolled_back", "slow"),
        ({"validation_status": "inconclusive", "reason": "no units"}, {}, None, "inconclusive", "no units"),
        ({"validation_status": "rejected", "reason": "a gate"}, {"pre": "failed"}, None, "rejected", "a gate"),
        ({"validation_status": "aborted", "reason": "gateway down"}, {"c": "failed"}, None, "aborted", "gateway down"),
        ({"validation_status": "candidate"}, {"package.bento": "failed"}, None, "aborted", "package.bento failed"),
        ({"validation_status": "approved"}, {"canary": "skipped"}, None, "aborted", "its version was approved"),
        (
            {"validation_status": "promoted"},
            {"post": "failed"},
            None,
            "failed",
            "promoted and serving, but post failed",
        ),
        ({}, {"build.evaluate": "failed"}, "mean return 9 is below 400", "rejected", "mean return 9 is below 400"),
        ({}, {"build.train": "failed", "x": "upstream_failed"}, None, "failed", "build.train failed"),
    ],
)
def test_ending(tags: dict[str, str], states: dict[str, str], rejection: str | None, outcome: str, reason: str) -> None:
    ending = ending_of(tags, states, rejection)
    assert ending.outcome == outcome
    assert reason in ending.reason


def test_a_release_that_never_began_is_reported_as_failed() -> None:
    document = report(None, "cartpole", "manual__1", {"build.train": "failed"})
    assert document["outcome"] == "failed"
    assert "build.train failed" in document["reason"]


@pytest.fixture
def release(mlflow_server: str, make_policy: MakePolicy) -> Release:
    return fabricated.candidate(make_policy())


def test_a_release_that_died_in_its_canary_is_ended_safely(release: Release) -> None:
    version = register(release)["version"]
    control = ControlPlane("a test")
    control.approve(release.policy, version)
    control.start_canary(release.policy, version, "generation-1", 0.05)

    document = report(release, release.policy, release.dag_run_id, DIED)

    state = control.state(release.policy)
    assert state["canary"] is None
    assert state["champion"] is None
    assert state["versions"][version]["validation_status"] == "aborted"
    assert (document["outcome"], document["version"]) == ("aborted", version)
    assert "canary.verdict failed" in document["reason"]
    assert release.get_json("report.json") == document
    run = client().get_run(release.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["airlock.outcome"] == "aborted"
    assert client().get_model_version(release.policy, version).description.startswith("## Aborted")


def test_a_promoted_release_is_left_serving_and_its_run_is_finished(release: Release) -> None:
    version = register(release)["version"]
    control = ControlPlane("a test")
    control.approve(release.policy, version)
    control.start_canary(release.policy, version, "generation-1", 0.05)
    control.promote(release.policy, "generation-1", "it is good enough")
    release.put_json("checklist/post_deployment.json", PASSED)

    first = report(release, release.policy, release.dag_run_id, {"canary.verdict": "success"})
    second = report(release, release.policy, release.dag_run_id, {"canary.verdict": "success"})

    assert (first["outcome"], first["reason"]) == ("promoted", "it is good enough")
    assert second["outcome"] == "promoted"
    assert control.state(release.policy)["champion"] == version
    assert client().get_run(release.run_id).info.status == "FINISHED"


def test_a_champion_whose_last_checklist_died_gives_way(release: Release) -> None:
    version = register(release)["version"]
    control = ControlPlane("a test")
    control.approve(release.policy, version)
    control.start_canary(release.policy, version, "generation-1", 0.05)
    control.promote(release.policy, "generation-1", "it is good enough")

    document = report(release, release.policy, release.dag_run_id, {"post_deployment.checklist": "failed"})

    assert document["outcome"] == "rolled_back"
    assert "post_deployment.checklist failed" in document["reason"]
    assert control.state(release.policy)["champion"] is None


def test_a_candidate_below_the_minimum_return_is_reported_as_rejected(release: Release) -> None:
    evaluation = release.get_json("evaluation/evaluation.json")
    release.put_json("evaluation/evaluation.json", evaluation | {"mean": 9.5, "passed": False})
    document = report(release, release.policy, release.dag_run_id, {"build.evaluate": "failed"})
    assert document["outcome"] == "rejected"
    assert "9.5" in document["reason"]
    assert client().get_run(release.run_id).info.status == "FAILED"
