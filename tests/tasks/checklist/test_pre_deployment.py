"""The pre-deployment checklist on a real Bento: it passes a good package, and shuts the gate on a bad one."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import psutil
import pytest

from bentos.package.digests import write_manifest
from bentos.package.loader import load
from tasks.errors import Misconfigured, Rejected
from tasks.spec.params import Params
from tasks.spec.sections import PRE_DEPLOYMENT
from tasks.stages.checklist import pre_deployment
from tasks.stages.register import register
from tasks.tracking.release import Release, client
from tests.tasks import fabricated

MakePolicy = Callable[..., str]
SERVED = ("memory_profiled", "input_validation", "action_bounds", "fallback_configured", "metrics_defined")


def _tags(release: Release) -> dict[str, str]:
    return dict(client().get_model_version(release.policy, "1").tags)


def _servers() -> set[int]:
    """Processes of BentoML below this one; other tests of the session may keep some."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if "bentoml" in " ".join(child.cmdline())}


def test_a_good_candidate_passes_every_check_and_is_approved(mlflow_server: str, make_policy: MakePolicy) -> None:
    release = fabricated.candidate(make_policy())
    register(release)
    before = _servers()

    assert pre_deployment(release) == {"verdict": "pass", "reasons": []}

    document = release.get_json("checklist/pre_deployment.json")
    assert document["verdict"] == "pass"
    checks = {check["id"]: check for check in document["checks"]}
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(PRE_DEPLOYMENT, "pass")
    assert checks["input_validation"]["sample_size"] > 30
    assert checks["action_bounds"]["sample_size"] >= 4_000
    assert checks["action_bounds"]["evidence"]["sources"] == {"policy": 4_000}
    assert checks["fallback_configured"]["evidence"]["sources"] == ["policy", "fallback", "policy"]
    assert checks["logging_configured"]["evidence"]["line"]["policy"] == release.policy
    tags = _tags(release)
    assert tags["validation_status"] == "approved"
    assert {name: tags[f"check.{name}"] for name in PRE_DEPLOYMENT} == dict.fromkeys(PRE_DEPLOYMENT, "pass")
    assert "10 of 10 passed" in client().get_model_version(release.policy, "1").description
    assert _servers() <= before


def _spoilt(policy: str, params: Params | None = None) -> Release:
    """A registered release whose package has no `policy.pt2` and an unproved parity."""
    release = fabricated.candidate(policy, params=params)
    with release.scratch() as scratch:
        package = load(release.fetch("package", scratch))
        files = {name: file for name, file in package.manifest.files.items() if name != "policy.pt2"}
        changed = msgspec.structs.replace(package.manifest, files=files, parity={"equal": False})
        write_manifest(package.directory, changed)
        release.put_file(package.directory / "policy.json", "package")
    register(release)
    return release


OFFLINE = dict.fromkeys((*SERVED, "logging_configured"), "off")


def test_a_failed_check_rejects_the_candidate_with_its_reason(mlflow_server: str, make_policy: MakePolicy) -> None:
    release = _spoilt(make_policy(checks=OFFLINE))

    with pytest.raises(Rejected, match=r"exported: fail: no policy\.pt2"):
        pre_deployment(release)

    tags = _tags(release)
    assert tags["validation_status"] == "rejected"
    assert (tags["check.exported"], tags["check.ab_plan"]) == ("fail", "pass")
    document = release.get_json("checklist/pre_deployment.json")
    assert document["verdict"] == "fail"
    assert {check["mode"] for check in document["checks"]} == {"enforce", "off"}
    assert client().get_model_version(release.policy, "1").description.startswith("## Rejected")


def test_a_candidate_with_other_spaces_than_the_champion_is_rejected(
    mlflow_server: str, make_policy: MakePolicy
) -> None:
    policy = make_policy(checks=OFFLINE)
    register(fabricated.candidate(policy))
    client().set_registered_model_alias(policy, "champion", "1")
    same, other = (fabricated.candidate(policy, f"manual__{number}") for number in (2, 3))
    register(same)
    assert pre_deployment(same)["verdict"] == "pass"
    with other.scratch() as scratch:
        package = load(other.fetch("package", scratch))
        wider = msgspec.structs.replace(package.manifest.observation_space, high=(None,) * 4)
        write_manifest(package.directory, msgspec.structs.replace(package.manifest, observation_space=wider))
        other.put_file(package.directory / "policy.json", "package")
    register(other)
    with pytest.raises(Rejected, match="ab_plan: fail: champion 1 has other observation or action spaces"):
        pre_deployment(other)


def test_in_dry_run_the_same_failure_is_shown_and_does_not_gate(mlflow_server: str, make_policy: MakePolicy) -> None:
    release = _spoilt(make_policy(checks=OFFLINE), Params(dry_run_checks=["exported"]))
    assert pre_deployment(release)["verdict"] == "pass"
    assert (_tags(release)["check.exported"], _tags(release)["validation_status"]) == ("fail", "approved")


def test_where_a_person_approves_a_pass_leaves_the_candidate_to_them(
    mlflow_server: str, make_policy: MakePolicy
) -> None:
    release = fabricated.candidate(make_policy(checks=OFFLINE), params=Params(approval=True))
    register(release)
    assert pre_deployment(release)["verdict"] == "pass"
    assert _tags(release)["validation_status"] == "candidate"


def test_a_release_without_a_version_has_nothing_to_check(mlflow_server: str, make_policy: MakePolicy) -> None:
    with pytest.raises(Misconfigured, match="registered no version"):
        pre_deployment(fabricated.candidate(make_policy()))
