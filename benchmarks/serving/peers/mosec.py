"""mosec: a Rust front that gathers requests for Python workers."""

from __future__ import annotations

from benchmarks.serving.peers.peer import RUNTIME, Peer, Site
from benchmarks.serving.server import Launch


class Mosec(Peer):
    """Batches of up to `batch` requests, waited for up to `wait_ms`."""

    name = "mosec"
    title = "mosec, a request at a time"
    environment = "mosec"
    packages = ("mosec==0.9.8", *RUNTIME)
    path = many_path = "/inference"

    def __init__(self, batch: int = 1, wait_ms: int = 1) -> None:
        self.batch, self.wait_ms = batch, wait_ms

    def launch(self, site: Site) -> Launch:
        """As many workers as the site allows, and the Rust front."""
        asked = {"GRAPH": site.policy.graph, "WORKERS": site.workers, "BATCH": self.batch, "WAIT_MS": self.wait_ms}
        environment = {f"BENCHMARK_{name}": str(value) for name, value in asked.items()}
        address = ("--address", "127.0.0.1", "--port", site.port)
        return Launch(site.app("mosec_worker", *address, "--log-level", "warning"), environment)


class MosecBatched(Mosec):
    """As its documentation would have a model served that gains from batches."""

    name = "mosec-batched"
    title = "mosec, batches of up to 64, 5 ms"

    def __init__(self) -> None:
        super().__init__(batch=64, wait_ms=5)
