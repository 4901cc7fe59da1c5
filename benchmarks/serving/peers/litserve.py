"""LitServe: FastAPI in one process, the model in another."""

from __future__ import annotations

from benchmarks.serving.peers.peer import RUNTIME, Peer, Site
from benchmarks.serving.server import Launch


class Litserve(Peer):
    """One model process, a request at a time."""

    name = "litserve"
    title = "LitServe, a request at a time"
    environment = "litserve"
    packages = ("litserve==0.2.19", *RUNTIME)
    many_path: str | None = "/act"
    batch, wait_seconds = 1, 0.0

    def launch(self, site: Site) -> Launch:
        """One API process, one model process."""
        return Launch(site.app("litserve_api", site.policy.graph, site.port, self.batch, self.wait_seconds))


class LitserveBatched(Litserve):
    """Requests gathered. Many observations in one request cannot be batched again."""

    name = "litserve-batched"
    title = "LitServe, batches of up to 64, 5 ms"
    many_path = None
    batch, wait_seconds = 64, 0.005
