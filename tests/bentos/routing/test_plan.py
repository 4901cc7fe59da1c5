"""What a picture of the registry asks of a gateway: gates cannot be skipped, and a stale canary is no canary."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bentos.package.manifest import PackageError
from bentos.routing.plan import plan
from bentos.routing.registry import Picture, artifact_path, verify
from tests.bentos.policy_packages import write_package


def canary(**change: Any) -> str:
    return json.dumps({"generation": "g", "champion": "1", "version": "2", "weight": 0.25, "salt": "00", **change})


def picture(statuses: dict[str, str], **about: Any) -> Picture:
    values: dict[str, Any] = {"champion": None, "previous": None, "challenger": None, "canary": None, **about}
    tags = {version: {"validation_status": status} for version, status in statuses.items()}
    return Picture(policy="p", newest=max(statuses, default=None), versions=tags, **values)


def test_champion_previous_challenger_and_an_approved_newcomer_are_loaded() -> None:
    asked = plan(
        picture(
            {"1": "promoted", "2": "promoted", "3": "approved", "4": "approved"},
            champion="2",
            previous="1",
            challenger="3",
        )
    )
    assert (asked.champion, set(asked.wanted), asked.refused) == ("2", {"1", "2", "3", "4"}, {})


@pytest.mark.parametrize("status", ["candidate", "rejected", "aborted", "rolled_back", "inconclusive", "none"])
def test_an_alias_moved_by_hand_to_a_version_that_passed_no_gate_is_refused(status: str) -> None:
    asked = plan(picture({"1": "promoted", "2": status, "3": "candidate"}, champion="2", previous="1"))
    assert asked.wanted == ("1",)
    assert status in asked.refused["2"]


def test_a_canary_against_another_champion_is_ignored_and_says_so() -> None:
    asked = plan(picture({"1": "promoted", "2": "approved", "3": "promoted"}, champion="3", canary=canary()))
    assert asked.canary is None
    assert "the champion now is 3" in str(asked.problem)


def test_a_canary_of_an_unapproved_version_is_ignored() -> None:
    assert plan(picture({"1": "promoted", "2": "candidate"}, champion="1", canary=canary())).canary is None


@pytest.mark.parametrize("tag", ["", "null", "{}", "not json", canary(weight=3)])
def test_a_broken_canary_tag_leaves_the_champion_alone(tag: str) -> None:
    asked = plan(picture({"1": "promoted", "2": "approved"}, champion="1", canary=tag or None))
    assert (asked.canary, asked.champion) == (None, "1")


def test_a_first_release_has_a_canary_and_no_champion() -> None:
    asked = plan(picture({"2": "approved"}, canary=canary(champion=None)))
    assert asked.canary is not None
    assert (asked.canary.version, asked.champion) == ("2", None)


def test_after_a_first_release_was_rolled_back_its_fallback_is_still_there() -> None:
    assert plan(picture({"2": "rolled_back"})).wanted == ("2",)


def test_packages_come_through_mlflows_proxy_only() -> None:
    assert artifact_path("mlflow-artifacts:/1/abc/artifacts/package") == "1/abc/artifacts/package"
    assert artifact_path("mlflow-artifacts://host:5000/1/abc/artifacts/package/") == "1/abc/artifacts/package"
    for uri in ("s3://bucket/package", "file:///etc", "/etc", ""):
        with pytest.raises(PackageError, match="mlflow-artifacts"):
            artifact_path(uri)


@pytest.mark.parametrize("file", ["policy.json", "policy.onnx", "baseline.npz"])
def test_one_changed_byte_anywhere_is_a_digest_mismatch(tmp_path: Path, file: str) -> None:
    digest = write_package(tmp_path)
    verify(tmp_path, digest)
    data = bytearray((tmp_path / file).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / file).write_bytes(data)
    with pytest.raises(PackageError, match="digest mismatch"):
        verify(tmp_path, digest)


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    write_package(tmp_path)
    text = (tmp_path / "policy.json").read_text().replace('"fp32": "policy.onnx"', '"fp32": "../policy.onnx"')
    text = text.replace('"policy.onnx": {', '"../policy.onnx": {')
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(PackageError, match="unsafe"):
        verify(tmp_path, hashlib.sha256(text.encode()).hexdigest())
