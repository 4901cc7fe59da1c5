"""Writing a release's bundle where its evidence is, and what tells that it is the one that was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from tasks.control.plane import ControlPlane
from tasks.reporting.bundle import archive
from tasks.reporting.bundle.contents import MANIFEST, collect
from tasks.tracking.release import Release

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
