"""The stage `bento`: build the version's Bento, serve it by itself, and compare its actions."""

from __future__ import annotations

import logging
import time
from typing import Any

from bentos.package.loader import load
from tasks.build.packaging import bento_store
from tasks.build.packaging.bento import assemble, smoke_test
from tasks.build.packaging.scratch_server import serving
from tasks.control.plane import ControlPlane
from tasks.errors import Misconfigured
from tasks.stages.artifacts import ROLLOUT
from tasks.tracking.release import Release, version_of

log = logging.getLogger(__name__)


def build(release: Release) -> dict[str, Any]:
    """Build `<policy>:<version>`, serve it alone, compare its actions: {"bento_tag", "bento_path", ...}.

    A Bento that is there with the same package is kept, another one replaced. Raises Rejected when the served Bento
    does not act as the package and as the evaluated policy did.
    """
    version = version_of(release)
    if version is None:
        raise Misconfigured(f"the release {release.dag_run_id} has registered no version to package")
    tag = f"{release.policy}:{version}"
    with release.scratch() as scratch:
        package = load(release.fetch("package", scratch))
        started = time.monotonic()
        path = assemble(release, version, package, scratch / "context")
        built = time.monotonic()
        rollout = release.fetch(ROLLOUT, scratch)
        with serving(path, scratch / "server") as server:
            smoke = smoke_test(server, package, rollout)
        served = time.monotonic()
    ControlPlane(f"release {release.dag_run_id}").annotate(release.policy, version, {"bento_tag": tag})
    for gone in bento_store.evict():
        log.info("evicted the Bento %s", gone)
    log.info("built %s in %.1f s; served and asked in %.1f s: %s", tag, built - started, served - built, smoke)
    return {"bento_tag": tag, "bento_path": str(path), **smoke}
