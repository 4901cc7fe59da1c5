"""Airlock's gateway, with everything on that a release turns on."""

from __future__ import annotations

import httpx
import msgspec

from benchmarks.serving.peers.peer import Observations, Peer, Site
from benchmarks.serving.policy import NAME
from benchmarks.serving.server import Launch


def environment(site: Site) -> dict[str, str]:
    """What a gateway needs to stand alone: a home, secrets, and a BENTOML_HOME of its own."""
    return {
        "AIRLOCK_HOME": str(site.directory),
        "BENTOML_HOME": str(site.directory / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "AIRLOCK_ADMIN_TOKEN": "of-the-benchmark",
        "AIRLOCK_EPISODE_KEY": "of-the-benchmark",
        "AIRLOCK_WORKERS": str(site.workers),
    }


def command(site: Site, service: str = "bentos.service:Gateway") -> list[str]:
    """The command line that serves the gateway."""
    served = [site.python, "-m", "bentoml", "serve", service]
    return [*served, "--host", "127.0.0.1", "--port", str(site.port)]


class Gateway(Peer):
    """One policy package, no registry."""

    name = "gateway"
    title = "Airlock's gateway, everything on"
    path = many_path = f"/v1/policies/{NAME}/act"

    def launch(self, site: Site) -> Launch:
        """`bentoml serve` in single mode."""
        return Launch(command(site), {**environment(site), "AIRLOCK_PACKAGE": str(site.policy.package)})


class GatewayEpisodes(Gateway):
    """The same, asked as an application asks: each observation belongs to an episode, named by its signed id."""

    name = "gateway-episodes"
    title = "the same, with episode ids"

    def bodies(self, observations: Observations, url: str) -> list[bytes]:
        """An episode for every observation."""
        return [
            msgspec.json.encode({"observation": observation, "episode_id": episode})
            for observation, episode in zip(observations, _episodes(url, len(observations)), strict=True)
        ]

    def many(self, observations: Observations, url: str) -> bytes:
        """An episode for every observation."""
        return msgspec.json.encode({"observations": observations, "episode_ids": _episodes(url, len(observations))})


def _episodes(url: str, count: int) -> list[str]:
    answer = httpx.post(f"{url}/v1/policies/{NAME}/episodes", json={"user_ids": [None] * count}, timeout=30)
    answer.raise_for_status()
    return [episode["episode_id"] for episode in answer.json()["episodes"]]
