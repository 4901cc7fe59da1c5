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
from benchmarks.serving.start_peer import asked
from tasks.ports import free_port

POLICIES, STARTS, ASKED_EACH = 10, 3, 50
_WORKER = "_bentoml_impl.worker.service"


class Start(msgspec.Struct, frozen=True):
    """Seconds from process start until `/readyz` says yes and until all policies answer, and a worker's RSS in MB."""

    ready: float
    answering: float
    megabytes: float


class Standing(msgspec.Struct, frozen=True):
    """Medians of some starts (memory: the largest) of a gateway with one package, with ten policies that it fetches
    from the registry, and with ten that it has on disk."""

    single: Start
    fetching: Start
    again: Start


def standing(policy: Policy, scratch: Path) -> Standing:
    """Start gateways and ask each of their policies. Raises NotServing."""
    names = [f"policy-{number}" for number in range(POLICIES)]
    package = {"AIRLOCK_PACKAGE": str(policy.package)}
    singles = [_start(policy, scratch / f"single-{turn}", package, [policies.NAME]) for turn in range(STARTS)]
    with Registry(scratch / "registry") as registry:
        for name in names:
            digest = policies.copy(policy.package, scratch / name, name)
            registry.champion(name, scratch / name, digest)
        follows = {"MLFLOW_TRACKING_URI": registry.url}
        fetching = [_start(policy, scratch / f"ten-{turn}", follows, names) for turn in range(STARTS)]
        again = [_start(policy, scratch / f"ten-{turn}", follows, names) for turn in range(STARTS)]
    return Standing(_middle(singles), _middle(fetching), _middle(again))


def _middle(starts: Sequence[Start]) -> Start:
    return Start(
        ready=statistics.median(start.ready for start in starts),
        answering=statistics.median(start.answering for start in starts),
        megabytes=max(start.megabytes for start in starts),
    )


def _start(policy: Policy, home: Path, extra: dict[str, str], names: Sequence[str]) -> Start:
    """Start a gateway once, ask every policy some questions, and weigh its worker."""
    home.mkdir(exist_ok=True)
    site = Site(PROJECT_PYTHON, free_port(), policy, home)
    urls = [f"{site.url}/v1/policies/{name}/act" for name in names]
    with (
        httpx.Client(base_url=site.url, timeout=5) as client,
        Server(Launch(command(site), {**environment(site), **extra}), home / "server.log") as server,
    ):
        ready = server.wait(lambda: _ready(client))
        answering = server.wait(lambda: all(_answers(url, policy) for url in urls))
        for url in urls:
            for turn, observation in enumerate(asked(policy)[:ASKED_EACH]):
                action = post(url, msgspec.json.encode({"observation": observation}))["action"]
                if action != policy.actions[turn]:
                    raise NotServing(f"{url} answers wrongly: expected {policy.actions[turn]}, came {action}")
        workers = [one for one in server.family() if _WORKER in " ".join(one.cmdline())] or server.family()[:1]
        return Start(ready, answering, max(worker.memory_info().rss for worker in workers) / 1e6)


def _answers(url: str, policy: Policy) -> bool:
    try:
        post(url, msgspec.json.encode({"observation": asked(policy)[0]}))
    except httpx.HTTPError:
        return False
    return True


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False
