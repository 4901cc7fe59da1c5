"""What a bundle holds, a release's documents, pictures and digests with a manifest of it all, and writing it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from typing import Any

from bentos import settings
from bentos.store import tables
from tasks.control import audit
from tasks.control.plane import ControlPlane
from tasks.reporting.bundle import archive
from tasks.tracking.release import SPEC, Release
from tasks.tracking.runs import Tracking

MANIFEST, README, REPORT, PACKAGE = "manifest.json", "README.md", "report.json", "package/policy.json"
SCHEMA_VERSION = 1
FOLDERS = ("", "benchmark", "canary", "card", "checklist", "evaluation", "export", "model", "quantize")
SUFFIXES = (".json", ".md", ".png")
LIBRARIES = (
    "apache-airflow",
    "bentoml",
    "gymnasium",
    "mlflow",
    "numpy",
    "onnx",
    "onnxruntime",
    "sb3-contrib",
    "stable-baselines3",
    "torch",
)
STORY = 200


def collect(release: Release, report: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file of the bundle by its path, manifest and README included. Raises RegistryUnavailable."""
    files = _artifacts(release)
    files[SPEC] = _json(_without_addresses(json.loads(files[SPEC])))
    files["environment.json"] = _json(_environment())
    files["registry.json"] = _json(_registry(release, report["version"]))
    events = audit.story(tables.connect(settings.database_url()), release.policy, STORY)
    files["story.json"] = _json(_story(events, release.tracked().started))
    files[README] = readme(report).encode()
    files[MANIFEST] = _json(manifest(files, report))
    return files


def manifest(files: Mapping[str, bytes], report: Mapping[str, Any]) -> dict[str, Any]:
    """What the bundle is of and the digest of each of its files."""
    named = {key: report.get(key) for key in ("policy", "version", "dag_run_id", "run_id", "outcome", "verdict", "at")}
    package = files.get(PACKAGE)
    return {
        "schema_version": SCHEMA_VERSION,
        **named,
        "package_sha256": hashlib.sha256(package).hexdigest() if package else None,
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in sorted(files.items())
        },
    }


def readme(report: Mapping[str, Any]) -> str:
    """What a reader who knows nothing of Airlock needs to know."""
    what = f"`{report['policy']}` version {report['version']}" if report["version"] else f"`{report['policy']}`"
    return f"""\
# Evidence of the release of {what}

It ended **{report["outcome"]}**: {report["reason"]}

DAG run `{report["dag_run_id"]}`, MLflow run `{report["run_id"]}`.

`airlock verify` checks this bundle without a network: every file against its digest in `{MANIFEST}`, both checklists'
gates from their checks, and the canary's verdict, reached again from its units. The sha256 of `{MANIFEST}` is the tag
`evidence_sha256` of the model version: compare it (`--sha256`) to know that this is the bundle that was written.

| file | holds |
|---|---|
| `card/card.md` | the model card, with its pictures |
| `report.json`, `story.json` | how the release ended, and what happened to the policy meanwhile, by whom |
| `spec.json`, `params.json` | the policy spec as it was released, and what the trigger form changed |
| `model/`, `evaluation/`, `export/`, `quantize/`, `benchmark/`, `selection.json` | what each stage measured |
| `{PACKAGE}` | the policy package's manifest, with the sha256 of every file of the package |
| `checklist/` | the checklists before and after deployment, each check with its evidence |
| `canary/` | the plan written before the canary, what the judge looked at (`judged.json`), and the verdict |
| `registry.json`, `environment.json` | tags and aliases at the end of the release; versions of Python and libraries |
"""


def _artifacts(release: Release) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with Tracking() as tracking:
        names: Iterable[str] = (
            name for folder in FOLDERS for name, is_folder in tracking.files(release.root, folder) if not is_folder
        )
        for name in [*names, PACKAGE]:
            content = tracking.read(release.root, name) if PurePosixPath(name).suffix in SUFFIXES else None
            if content is not None:
                found[name] = content
    return found


def _without_addresses(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with only the kind of each notification's address: the rest may hold a password."""
    alerts = dict(spec.get("alerts") or {})
    alerts["notify"] = [str(address).partition(":")[0] for address in alerts.get("notify") or []]
    return {**spec, "alerts": alerts}


def _environment() -> dict[str, Any]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": found,
    }


def _registry(release: Release, model_version: str | None) -> dict[str, Any]:
    state = ControlPlane(f"release {release.dag_run_id}").state(release.policy)
    aliases = {alias: state[alias] for alias in ("champion", "previous", "challenger")}
    return {"aliases": aliases, "tags": state["versions"].get(model_version or "", {})}


def _story(events: Iterable[audit.Event], since: float) -> list[dict[str, Any]]:
    """The events of the release's time, oldest first, without details: those name users."""
    told = [event for event in events if event.at >= since]
    return [{name: getattr(event, name) for name in ("at", "who", "what", "words")} for event in reversed(told)]


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


TAG = "evidence_sha256"
FOLDER = "evidence"


def path_of(release: Release, version: str | None) -> str:
    """Where the bundle lies among the run's artifacts; a release without a version is named by its run."""
    return f"{FOLDER}/{release.policy}-{version or release.run_id[:12]}.zip"


def publish(release: Release, report: Mapping[str, Any]) -> str:
    """Write the bundle and tag version and run with the sha256 of its manifest; returns that. Again: it is replaced."""
    files = collect(release, report)
    digest = hashlib.sha256(files[MANIFEST]).hexdigest()
    path = path_of(release, report["version"])
    with release.scratch() as scratch:
        local = scratch / path.rpartition("/")[2]
        local.write_bytes(archive.write(files))
        release.put_file(local, FOLDER)
    release.tag(**{TAG: digest})
    if report["version"] is not None:
        control = ControlPlane(f"release {release.dag_run_id}")
        control.annotate(release.policy, report["version"], {TAG: digest})
    return digest
