"""The pre-deployment checklist: ten checks of the package as it is served, before anyone is served by it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bentos.package import Policy, load
from tasks import server
from tasks.bento import assemble
from tasks.checklist import packaged, served
from tasks.checklist.poison import poison
from tasks.checklist.run import run_all
from tasks.checklist.served import Served
from tasks.checklist.types import Finding
from tasks.checklist.verdict import record, show
from tasks.errors import Misconfigured, Rejected
from tasks.promote import ControlPlane
from tasks.register import version_of
from tasks.runs import Release


def pre_deployment(release: Release) -> dict[str, Any]:
    """Run the checklist and act on its gate: {"verdict", "reasons"}.

    A pass approves the version, unless a person must do that. Raises Rejected on a fail, with every reason; the
    version is rejected then, and the champion untouched.
    """
    version = version_of(release)
    if version is None:
        raise Misconfigured(f"the release {release.dag_run_id} has registered no version to check")
    who = f"release {release.dag_run_id}"
    control = ControlPlane(who)
    with release.scratch() as scratch:
        package = load(release.fetch("package", scratch))
        bento = assemble(release, version, package, scratch / "context")
        with _servers(package, bento, scratch) as ask:
            checks = _checks(release, package, ask, control.state(release.policy)["champion"])
            checklist, decision = run_all(release.policy, version, "pre_deployment", checks, release.spec.mode, who)
    record(release, control, checklist)
    if decision.verdict == "fail":
        reason = f"pre-deployment checklist: {'; '.join(decision.reasons)}"
        control.reject(release.policy, version, reason)
        show(release, checklist)
        raise Rejected(reason)
    if release.spec.approval == "none":
        control.approve(release.policy, version)
    show(release, checklist)
    return {"verdict": decision.verdict, "reasons": list(decision.reasons)}


def _checks(
    release: Release, package: Policy, ask: Callable[[], Served], champion: str | None
) -> dict[str, Callable[[], Finding]]:
    spec, returns = release.spec, package.manifest.baselines["returns"]
    return {
        "exported": partial(packaged.exported, package),
        "latency_benchmarked": partial(packaged.latency_benchmarked, package, spec),
        "memory_profiled": lambda: packaged.memory_profiled(package, ask().server.rss_mb()),
        "input_validation": lambda: served.input_validation(ask()),
        "action_bounds": lambda: served.action_bounds(ask()),
        "fallback_configured": lambda: served.fallback_configured(ask()),
        "metrics_defined": lambda: served.metrics_defined(ask()),
        "alert_thresholds": partial(packaged.alert_thresholds, spec),
        "logging_configured": lambda: served.logging_configured(ask()),
        "ab_plan": partial(packaged.ab_plan, spec, returns, champion),
    }


@contextlib.contextmanager
def _servers(package: Policy, bento: Path, scratch: Path) -> Iterator[Callable[[], Served]]:
    """Serve the Bento, and beside it the same Bento with a graph that breaks; yields what waits for both.

    A server that does not start fails the checks that need it, not the stage.
    """
    observations = package.baseline()["observations"]
    marker = observations[len(observations) // 2]
    broken = poison(package.directory, package.manifest, marker, scratch / "poisoned")
    whole = server.start(bento, scratch / "server")
    breaking = server.start(bento, scratch / "broken", {"AIRLOCK_PACKAGE": str(broken)})
    started = (whole, breaking)

    def ready() -> Served:
        for one in started:
            one.wait_ready()
        return Served(package, observations, whole, breaking, marker)

    try:
        yield ready
    finally:
        for one in started:
            one.process.terminate()
        for one in started:
            one.stop()
