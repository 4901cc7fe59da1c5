"""Checking a bundle offline: its files against the manifest, and what follows from them reached again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bentos.package.digests import sha256, verify_file
from bentos.package.manifest import PackageError, decode_manifest
from tasks.analysis.judge.plan import CanaryPlan
from tasks.canary import record
from tasks.canary.lifecycle import PLAN, VERDICT
from tasks.checklist.run import decide
from tasks.checklist.types import PHASES, Checklist
from tasks.reporting.bundle import archive
from tasks.reporting.bundle.archive import BundleError
from tasks.reporting.bundle.contents import MANIFEST, PACKAGE, REPORT, SCHEMA_VERSION

TOLERANCE = 1e-9
"""Relative: another machine's arithmetic may differ in the last digits of a bound."""


@dataclass
class Found:
    """What a check of a bundle came to: problems as {"what", "file", "detail"}, notes that are none, facts."""

    problems: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def problem(self, what: str, file: str, detail: str) -> None:
        """`what`: changed, missing, added, wrong (it says what does not follow) or unreadable."""
        self.problems.append({"what": what, "file": file, "detail": detail})


def verify(bundle: Path, manifest_sha256: str | None = None, package: Path | None = None) -> dict[str, Any]:
    """Check a bundle: {"ok", "bundle", "manifest_sha256", "policy", "version", "outcome", "files", "checklists",
    "verdict", "problems", "notes"}.

    `manifest_sha256` is what the model version's tag `evidence_sha256` says; `package` a policy package's directory,
    whose files are checked against the bundle. Raises BundleError where there is nothing to check: no zip, no manifest.
    """
    files = archive.read(bundle)
    manifest = _manifest(files)
    found = Found()
    came = hashlib.sha256(files[MANIFEST]).hexdigest()
    if manifest_sha256 is None:
        found.notes.append(
            f"the manifest's sha256 is {came}: compare it with the tag `evidence_sha256` of the model version "
            "(--sha256), without which only the bundle's agreement with itself is known"
        )
    elif came != manifest_sha256.strip().lower():
        found.problem("changed", MANIFEST, f"its sha256 is {came}, expected was {manifest_sha256}")
    _digests(files, manifest["files"], found)
    for phase in PHASES:
        _guarded(_checklist, files, f"checklist/{phase}.json", found)
    _guarded(_verdict, files, VERDICT, found)
    _guarded(_report, files, REPORT, found, manifest)
    _guarded(_package, files, PACKAGE, found, manifest.get("package_sha256"), package)
    return {
        "ok": not found.problems,
        "bundle": str(bundle),
        "manifest_sha256": came,
        **{key: manifest.get(key) for key in ("policy", "version", "outcome")},
        "files": len(files),
        "checklists": {},
        "verdict": None,
        **found.facts,
        "problems": found.problems,
        "notes": found.notes,
    }


def _manifest(files: Mapping[str, bytes]) -> dict[str, Any]:
    if MANIFEST not in files:
        raise BundleError(f"the archive has no {MANIFEST}: it is no evidence bundle, or that was taken out of it")
    try:
        manifest = json.loads(files[MANIFEST])
        entries = {name: (entry["sha256"], entry["size"]) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} cannot be read: {type(error).__name__}: {error}") from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
            f"the bundle was written by another version of Airlock: schema_version {manifest.get('schema_version')!r}, "
            f"this one reads {SCHEMA_VERSION}"
        )
    return {**manifest, "files": entries}


def _digests(files: Mapping[str, bytes], entries: Mapping[str, tuple[str, int]], found: Found) -> None:
    for name, (digest, size) in sorted(entries.items()):
        content = files.get(name)
        if content is None:
            found.problem("missing", name, f"the manifest lists it ({size:,} bytes), the archive does not hold it")
        elif (came := hashlib.sha256(content).hexdigest()) != digest:
            sizes = f"{len(content):,} bytes" if len(content) == size else f"{len(content):,} bytes for {size:,}"
            found.problem("changed", name, f"sha256 {came}, the manifest says {digest}; {sizes}")
    for name in sorted(set(files) - set(entries) - {MANIFEST}):
        found.problem("added", name, "the archive holds it, the manifest does not list it")


def _guarded(check: Any, files: Mapping[str, bytes], name: str, found: Found, *more: Any) -> None:
    """Run a check of one file, if it is there; one that cannot be read is a problem, and nothing worse."""
    if name not in files:
        return
    try:
        check(files, json.loads(files[name]), name, found, *more)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, PackageError) as error:
        found.problem("unreadable", name, f"{type(error).__name__}: {error}")


def _checklist(files: Mapping[str, bytes], document: Any, name: str, found: Found) -> None:
    """The gate's verdict must follow from the checks."""
    checklist = Checklist.from_json(document)
    decision = decide(PHASES[checklist.phase], checklist.checks)
    found.facts.setdefault("checklists", {})[checklist.phase] = decision.verdict
    if decision.verdict != checklist.verdict:
        why = "; ".join(decision.reasons) or "every enforced check passed"
        found.problem("wrong", name, f"it says {checklist.verdict}, its checks say {decision.verdict}: {why}")


def _verdict(files: Mapping[str, bytes], document: Any, name: str, found: Found) -> None:
    """The verdict must follow from what the judge looked at, by the plan that was written before."""
    missing = [needed for needed in (PLAN, record.ARTIFACT) if needed not in files]
    if missing:
        found.problem("missing", missing[0], "without it the canary's verdict cannot be reached again")
        return
    plan = CanaryPlan.from_json(json.loads(files[PLAN]))
    verdict, reason, judgement = record.again(plan, json.loads(files[record.ARTIFACT]))
    recorded = str(document["verdict"])
    found.facts["verdict"] = {
        "recorded": recorded,
        "recomputed": verdict,
        "units": judgement.units,
        "difference": judgement.difference.to_json(),
        "reason": reason,
    }
    if recorded != verdict:
        if recorded == "inconclusive" and verdict == "promote":
            found.notes.append(f"the units say promote; the champion was moved meanwhile: {document.get('reason')}")
        else:
            found.problem("wrong", name, f"it says {recorded}, the units say {verdict}: {reason}")
    if document["units"] != judgement.units:
        found.problem("wrong", name, f"it counts {document['units']} units, the judge counts {judgement.units}")
    for bound, value in judgement.difference.to_json().items():
        said = document["difference"].get(bound)
        if not _same(said, value):
            found.problem("wrong", name, f"its difference has {bound} {said}, the units give {value}")


def _report(files: Mapping[str, bytes], document: Any, name: str, found: Found, manifest: Mapping[str, Any]) -> None:
    """The report must tell of this release, and its outcome must go with the verdict."""
    for key in ("policy", "version", "dag_run_id", "run_id", "outcome"):
        if document[key] != manifest.get(key):
            found.problem("wrong", name, f"{key} is {document[key]!r}, the manifest says {manifest.get(key)!r}")
    ended = json.loads(files[VERDICT])["verdict"] if VERDICT in files else None
    may = {
        "promote": {"promoted", "rolled_back", "failed", "aborted"},
        "roll_back": {"rolled_back"},
        "inconclusive": {"inconclusive"},
    }
    if document["outcome"] == "promoted" and ended is None:
        found.problem("wrong", name, "it says promoted, and the bundle holds no verdict of a canary")
    elif ended in may and document["outcome"] not in may[ended]:
        found.problem("wrong", name, f"it says {document['outcome']}, the canary's verdict was {ended}")


def _package(
    files: Mapping[str, bytes], document: Any, name: str, found: Found, digest: str | None, directory: Path | None
) -> None:
    """The package's manifest must be the one the version stands for; each file of a package given must be its own."""
    if (came := hashlib.sha256(files[name]).hexdigest()) != digest:
        found.problem("wrong", name, f"its sha256 is {came}, the manifest says the package is {digest}")
    if directory is None:
        return
    manifest = decode_manifest(files[name], name)
    if not (directory / "policy.json").is_file() or sha256(directory / "policy.json") != came:
        found.problem("changed", str(directory / "policy.json"), "it is not the manifest that the bundle holds")
    for file in sorted(manifest.files):
        try:
            verify_file(directory, manifest, file)
        except PackageError as error:
            found.problem("changed", str(directory / file), str(error))


def _same(said: Any, value: Any) -> bool:
    if not isinstance(said, int | float) or not isinstance(value, int | float) or isinstance(value, bool):
        return bool(said == value)
    return abs(said - value) <= TOLERANCE * max(1.0, abs(said), abs(value))
