"""The evidence bundle: checked offline, each tampering named, hostile archives refused; and written by a release."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bentos.package.digests import read_manifest
from tasks.analysis.judge.guardrails import ArmStats
from tasks.analysis.judge.units import Start, analyse
from tasks.analysis.judge.verdict import Evidence, judge
from tasks.canary import record
from tasks.checklist.run import run_all
from tasks.checklist.types import PHASES, Finding
from tasks.cli.app import app
from tasks.reporting.bundle import archive
from tasks.reporting.bundle.archive import BundleError
from tasks.reporting.bundle.contents import manifest
from tasks.reporting.bundle.verify import verify
from tasks.stages.register import register
from tasks.stages.report import report
from tests.tasks import fabricated
from tests.tasks.analysis.plans import PLAN

Files = dict[str, bytes]


def _evidence(shift: float = 0.0, **rest: Any) -> Evidence:
    generator = np.random.default_rng(4)
    starts = []
    for number in range(600):
        arm = ("control", "challenger")[int(generator.random() < 0.5)]
        value = float(generator.normal(300, 20)) + shift * (arm == "challenger")
        event = ("adjustment",) if number % 97 == 0 else ()
        starts.append(Start(number, f"user {number}", arm, value, False, event, None if number % 5 else 0.1 * number))
    return Evidence(analyse(starts), ArmStats(decisions=900), ArmStats(decisions=950), **rest)


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


@pytest.fixture
def files() -> Files:
    """A bundle's files: a promotion by superior returns, with a checklist that passed."""
    evidence = _evidence(shift=30.0)
    found = judge(evidence, PLAN)
    assert found.verdict == "promote"
    checks = {name: (lambda: Finding("pass", "seen")) for name in PHASES["pre_deployment"]}
    checklist, _ = run_all("cartpole", "4", "pre_deployment", checks, lambda name: "enforce", "a test")
    ended = {"policy": "cartpole", "version": "4", "dag_run_id": "manual__1", "run_id": "f00", "outcome": "promoted"}
    return {
        "report.json": _json(ended),
        "canary/plan.json": PLAN.to_json().encode(),
        "canary/judged.json": _json(record.document(evidence, None)),
        "canary/verdict.json": _json(found.to_json()),
        "checklist/pre_deployment.json": _json(checklist.to_json()),
        "card/card.md": b"# A card\n",
    }


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Path]:
    """Seal the files with a manifest, then let `tamper` change them, and write the archive."""

    def make(files: Files, tamper: Callable[[Files], Any] = lambda files: None) -> Path:
        sealed = {**files, "manifest.json": _json(manifest(files, json.loads(files["report.json"])))}
        tamper(sealed)
        path = tmp_path / "bundle.zip"
        path.write_bytes(archive.write(sealed))
        return path

    return make


def _named(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(problem["what"], problem["file"]) for problem in document["problems"]]


def test_a_good_bundle_is_whole_and_its_verdict_follows(files: Files, pack: Callable[..., Path]) -> None:
    document = verify(pack(files))
    assert (document["ok"], document["problems"]) == (True, [])
    assert document["verdict"]["recomputed"] == document["verdict"]["recorded"] == "promote"
    assert document["checklists"] == {"pre_deployment": "pass"}
    assert verify(pack(files), document["manifest_sha256"].upper())["ok"]


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (lambda files: files.update({"card/card.md": b"# A Card\n"}), [("changed", "card/card.md")]),
        (lambda files: files.pop("card/card.md"), [("missing", "card/card.md")]),
        (lambda files: files.update({"card/more.md": b""}), [("added", "card/more.md")]),
        (
            lambda files: files.update({"canary/plan.json": replace(PLAN, alpha=0.01).to_json().encode()}),
            [("changed", "canary/plan.json"), ("wrong", "canary/verdict.json")],
        ),
        (lambda files: files.pop("canary/judged.json"), [("missing", "canary/judged.json")]),
        (
            lambda files: files.update({"report.json": b"[]"}),
            [("changed", "report.json"), ("unreadable", "report.json")],
        ),
    ],
)
def test_what_was_changed_after_the_manifest_was_written_is_named(
    files: Files, pack: Callable[..., Path], tamper: Callable[[Files], Any], named: list[tuple[str, str]]
) -> None:
    document = verify(pack(files, tamper))
    assert document["ok"] is False
    assert set(_named(document)) == set(named)


def _judged(files: Files, **changes: Any) -> None:
    document = json.loads(files["canary/judged.json"])
    document["units"].update(changes)
    files["canary/judged.json"] = _json(document)


def _check(files: Files, **changes: Any) -> None:
    document = json.loads(files["checklist/pre_deployment.json"])
    document["checks"][3].update(changes)
    files["checklist/pre_deployment.json"] = _json(document)


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (lambda files: _judged(files, returns=[1.0] * 600), ("wrong", "canary/verdict.json")),
        (lambda files: _judged(files, returns=[1.0]), ("unreadable", "canary/verdict.json")),
        (lambda files: _judged(files, returns="many"), ("unreadable", "canary/verdict.json")),
        (lambda files: _check(files, status="fail"), ("wrong", "checklist/pre_deployment.json")),
        (lambda files: files.pop("canary/verdict.json"), ("wrong", "report.json")),
    ],
)
def test_a_forger_who_also_writes_the_manifest_is_found_by_what_does_not_follow(
    files: Files, pack: Callable[..., Path], forge: Callable[[Files], Any], named: tuple[str, str]
) -> None:
    honest = hashlib.sha256(zipfile.ZipFile(pack(files)).read("manifest.json")).hexdigest()
    forge(files)
    document = verify(pack(files))
    assert named in _named(document)
    assert ("changed", "manifest.json") in _named(verify(pack(files), honest))


def test_a_worse_challenger_that_is_called_promoted_is_found(files: Files, pack: Callable[..., Path]) -> None:
    evidence = _evidence(shift=-30.0)
    forged = {**judge(evidence, PLAN).to_json(), "verdict": "promote"}
    files.update({"canary/judged.json": _json(record.document(evidence, None)), "canary/verdict.json": _json(forged)})
    (problem,) = verify(pack(files))["problems"]
    assert (problem["what"], problem["file"]) == ("wrong", "canary/verdict.json")
    assert problem["detail"].startswith("it says promote, the units say roll_back")


@pytest.mark.parametrize("shift", [30.0, 0.0, -30.0])
def test_the_judge_says_the_same_of_what_was_written_down(shift: float) -> None:
    evidence = _evidence(shift, hours=2.5, events=("breaker: five in a row",), step=1)
    written = json.loads(json.dumps(record.document(evidence, None)))
    assert judge(record.evidence(written)[0], PLAN).to_json() == judge(evidence, PLAN).to_json()
    assert "user" not in json.dumps(written)


def test_an_earlier_look_that_stopped_the_canary_is_part_of_what_was_judged() -> None:
    seen = {"verdict": "roll_back", "reason": "guardrail latency: too slow"}
    evidence = Evidence(analyse([]))
    assert record.again(PLAN, record.document(evidence, None))[0] == "continue"
    assert record.again(PLAN, record.document(evidence, seen))[:2] == ("roll_back", "guardrail latency: too slow")


def test_the_same_files_give_the_same_bytes(files: Files) -> None:
    assert archive.write(files) == archive.write(dict(reversed(files.items())))


def _zip(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members:
            made.writestr(name, content)
    return buffer.getvalue()


def _link() -> bytes:
    info = zipfile.ZipInfo("manifest.json")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return _zip((info, b"/etc/passwd"))


def _lying() -> bytes:
    """Its table of contents says one byte; the member unpacks to a million."""
    content = bytearray(_zip(("manifest.json", b"0" * 1_000_000)))
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = (1).to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: b"this is no zip", "not a whole zip archive"),
        (lambda: b"", "not a whole zip archive"),
        (lambda: _zip(("manifest.json", b"0" * 5000))[:-60], "not a whole zip archive"),
        (lambda: _zip(("card.md", b"")), "has no manifest.json"),
        (lambda: _zip(("manifest.json", b"{")), "manifest.json cannot be read"),
        (lambda: _zip(("manifest.json", b"[" * 100_000)), "manifest.json cannot be read"),
        (lambda: _zip(("manifest.json", b'{"files": {"a": 1}}')), "manifest.json cannot be read"),
        (lambda: _zip(("manifest.json", b'{"schema_version": 9, "files": {}}')), "another version of Airlock"),
        (lambda: _zip(("../manifest.json", b"")), "leads out of it"),
        (lambda: _zip(("/manifest.json", b"")), "leads out of it"),
        (lambda: _zip(("a\\..\\b", b"")), "leads out of it"),
        (lambda: _zip(("folder/", b"")), "leads out of it"),
        (lambda: _zip(*((f"{n}", b"") for n in range(1001))), "1001 files"),
        (lambda: _zip(("manifest.json", bytes(65_000_000))), "65,000,000 bytes, at most 64,000,000"),
        (lambda: _zip(*((f"{n}", bytes(60_000_000)) for n in range(5))), "300,000,000 bytes unpacked"),
        (_link, "a link"),
        (_lying, "not a whole zip archive"),
    ],
)
def test_what_is_no_bundle_is_refused_with_its_reason(tmp_path: Path, content: Callable[[], bytes], said: str) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(content())
    with pytest.raises(BundleError, match=said):
        verify(path)


def test_the_command_exits_by_what_it_found_and_says_it(
    files: Files, pack: Callable[..., Path], tmp_path: Path
) -> None:
    good = CliRunner().invoke(app, ["verify", str(pack(files))])
    assert good.exit_code == 0
    assert "judged again from its units" in good.stdout
    bad = CliRunner().invoke(app, ["verify", str(pack(files, lambda all: all.pop("card/card.md"))), "--json"])
    assert bad.exit_code == 1
    assert _named(json.loads(bad.stdout)) == [("missing", "card/card.md")]
    (tmp_path / "no.zip").write_bytes(b"no")
    hostile = CliRunner().invoke(app, ["verify", str(tmp_path / "no.zip"), "--json"])
    assert (hostile.exit_code, json.loads(hostile.stdout)["ok"]) == (1, False)
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "nothing.zip")]).exit_code == 2
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "no.zip"), "--sha256", "short"]).exit_code == 2


def test_a_release_writes_its_bundle_tags_its_digest_and_links_it(
    mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path
) -> None:
    release = fabricated.candidate(make_policy(alerts={"notify": ["mailto://me:secret@example.org"]}))
    version = register(release)["version"]
    document = report(release, release.policy, release.dag_run_id, {"package.bento": "failed"})
    assert document["outcome"] == "aborted"

    bundle = release.fetch(f"evidence/{release.policy}-{version}.zip", tmp_path)
    package = release.fetch("package", tmp_path)
    checked = verify(bundle, release.tracked().tags["airlock.evidence_sha256"], package)
    assert (checked["problems"], checked["outcome"]) == ([], "aborted")
    with zipfile.ZipFile(bundle) as opened:
        names = set(opened.namelist())
        held = b"".join(opened.read(name) for name in names)
        told = json.loads(opened.read("story.json"))
    assert {"report.json", "package/policy.json", "card/card.md", "card/latency.png", "environment.json"} <= names
    assert b"secret" not in held
    assert "abort" in {event["what"] for event in told}
    assert f"get-artifact?path=evidence/{release.policy}-{version}.zip" in release.fetch(
        "card/card.md", tmp_path
    ).read_text(encoding="utf-8")

    graph = package / read_manifest(package).variants["fp32"]
    graph.write_bytes(graph.read_bytes() + b"\0")
    assert _named(verify(bundle, package=package)) == [("changed", str(graph))]


def test_a_release_that_never_registered_has_a_bundle_too(
    mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path
) -> None:
    release = fabricated.candidate(make_policy())
    report(release, release.policy, release.dag_run_id, {"build.evaluate": "failed"})
    bundle = release.fetch(f"evidence/{release.policy}-{release.run_id[:12]}.zip", tmp_path)
    assert verify(bundle)["outcome"] == "failed"
