"""The pre-deployment checklist: ten checks of the package as it is served, before anyone is served by it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType

import msgspec

from bentos.package.manifest import Manifest
from bentos.package.session import Policy
from bentos.routing.version import same_questions
from tasks.build.packaging import scratch_server
from tasks.build.packaging.scratch_server import Server
from tasks.checklist import envelope, served
from tasks.checklist import package as packaged
from tasks.checklist.poison import poison
from tasks.checklist.served import Served
from tasks.checklist.types import Finding
from tasks.inputs import only_observations, size, take
from tasks.tracking.registry import Registry
from tasks.tracking.release import Release


def checks(
    release: Release, package: Policy, ask: Callable[[], Served], champion: str | None
) -> dict[str, Callable[[], Finding]]:
    """The checks by id, in order. `ask` gives the served Bento; `champion` is the version it would be compared with."""
    spec, returns = release.spec, package.manifest.baselines["returns"]
    comparable = champion is None or _comparable(release.policy, champion, package.manifest)
    return {
        "exported": partial(packaged.exported, package),
        "latency_benchmarked": partial(packaged.latency_benchmarked, package, spec),
        "memory_profiled": lambda: packaged.memory_profiled(package, ask().server.rss_mb()),
        "input_validation": lambda: served.input_validation(ask()),
        "action_bounds": lambda: envelope.action_bounds(ask()),
        "fallback_configured": lambda: served.fallback_configured(ask()),
        "metrics_defined": lambda: served.metrics_defined(ask()),
        "alert_thresholds": partial(packaged.alert_thresholds, spec),
        "logging_configured": lambda: served.logging_configured(ask()),
        "ab_plan": partial(packaged.ab_plan, spec, returns, champion, comparable),
    }


def _comparable(policy: str, champion: str, manifest: Manifest) -> bool:
    """Whether gateways put the version into a canary beside the champion; one whose spaces are unknown passes."""
    with Registry() as registry:
        found = registry.version(policy, champion)
        known = registry.artifact(found.run_id, "package/policy.json") if found else None
    return known is None or same_questions(msgspec.convert(known, Manifest), manifest)


class Servers:
    """The Bento served, and beside it the same Bento with a graph that breaks; started together when first asked for.

    Servers that do not start fail the checks that need them, not the stage.
    """

    def __init__(self, package: Policy, bento: Path, scratch: Path) -> None:
        self._package, self._bento, self._scratch = package, bento, scratch
        self._started: list[Server] = []
        self._served: Served | None = None
        self._failure: RuntimeError | None = None

    def __enter__(self) -> Callable[[], Served]:
        return self._get

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in self._started:
            one.process.terminate()
        for one in self._started:
            one.stop()

    def _get(self) -> Served:
        if self._failure is not None:
            raise self._failure
        if self._served is None:
            try:
                self._served = self._start()
            except RuntimeError as error:
                self._failure = error
                raise
        return self._served

    def _start(self) -> Served:
        package = self._package
        given = package.baseline().inputs
        marker = only_observations(take(given, slice(size(given) // 2, size(given) // 2 + 1)))
        broken = poison(package.directory, package.manifest, marker, self._scratch / "poisoned")
        whole = scratch_server.start(self._bento, self._scratch / "server")
        self._started.append(whole)
        breaking = scratch_server.start(self._bento, self._scratch / "broken", {"AIRLOCK_PACKAGE": str(broken)})
        self._started.append(breaking)
        for one in self._started:
            one.wait_ready()
        return Served(package, given, whole, breaking, marker)
