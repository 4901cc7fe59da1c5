"""How soon a gateway is ready, and what it weighs: one packaged policy, and ten that it follows in the registry."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec

from benchmarks.serving import policy as policies
from benchmarks.serving.peers.gateway import command, environment
from benchmarks.serving.peers.peer import PROJECT_PYTHON, Site, post
from benchmarks.serving.policy import Policy
from benchmarks.serving.registry import Registry
from benchmarks.serving.server import Launch, NotServing, Server
from benchmarks.serving.serving import asked
from tasks.stack.ports import free_port

POLICIES, STARTS, ASKED_EACH = 10, 3, 50
_WORKER = "_bentoml_impl.worker.service"


class Standing(msgspec.Struct, frozen=True):
    """Seconds from process start until `/readyz` says yes (medians), and a worker's memory (RSS) in MB.

    `first` fetches ten packages from the registry; `again` has them on disk. Ready means that all policies answer.
    """

    single_seconds: float
    first_seconds: float
    again_seconds: float
    single_mb: float
    ten_mb: float


def standing(policy: Policy, scratch: Path) -> Standing:
    """Start gateways and ask each of their policies. Raises NotServing."""
    names = [f"policy-{number}" for number in range(POLICIES)]
    singles = [
        _start(policy, scratch / f"single-{turn}", {"AIRLOCK_PACKAGE": str(policy.package)}, [policies.NAME])
        for turn in range(STARTS)
    ]
    with Registry(scratch / "registry") as registry:
        for name in names:
            digest = policies.copy(policy.package, scratch / name, name)
            registry.champion(name, scratch / name, digest)
        follows = {"MLFLOW_TRACKING_URI": registry.url}
        firsts = [_start(policy, scratch / f"ten-{turn}", follows, names) for turn in range(STARTS)]
        agains = [_start(policy, scratch / f"ten-{turn}", follows, names) for turn in range(STARTS)]
    return Standing(
        single_seconds=statistics.median(seconds for seconds, _ in singles),
        first_seconds=statistics.median(seconds for seconds, _ in firsts),
        again_seconds=statistics.median(seconds for seconds, _ in agains),
        single_mb=max(size for _, size in singles),
        ten_mb=max(size for _, size in (*firsts, *agains)),
    )


def _start(policy: Policy, home: Path, extra: dict[str, str], names: Sequence[str]) -> tuple[float, float]:
    """Seconds until ready, and the worker's RSS in MB after every policy answered some questions."""
    home.mkdir(exist_ok=True)
    site = Site(PROJECT_PYTHON, free_port(), policy, home)
    with Server(Launch(command(site), {**environment(site), **extra}), home / "server.log") as server:
        seconds = server.wait(lambda: _ready(site.url))
        for name in names:
            url = f"{site.url}/v1/policies/{name}/act"
            for turn, observation in enumerate(asked(policy)[:ASKED_EACH]):
                action = post(url, msgspec.json.encode({"observation": observation}))["action"]
                if action != policy.actions[turn]:
                    raise NotServing(f"{name} answers wrongly: expected {policy.actions[turn]}, came {action}")
        workers = [one for one in server.family() if _WORKER in " ".join(one.cmdline())] or server.family()[:1]
        return seconds, max(worker.memory_info().rss for worker in workers) / 1e6


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
