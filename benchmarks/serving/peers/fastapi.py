"""FastAPI on uvicorn, one worker: with ONNX Runtime, and with SB3's `predict` (the seed's way)."""

from __future__ import annotations

from benchmarks.serving.peers.peer import Peer, Site
from benchmarks.serving.server import Launch


class FastapiOnnx(Peer):
    """What one would write first."""

    name = "fastapi-onnx"
    title = "FastAPI + ONNX Runtime"
    many_path = "/acts"

    def launch(self, site: Site) -> Launch:
        """One worker."""
        return Launch(site.app("fastapi_onnx", site.policy.graph, site.port))


class FastapiSb3(Peer):
    """What one would write without ONNX."""

    name = "fastapi-sb3"
    title = "FastAPI + SB3 predict (the seed's way)"
    many_path = "/acts"

    def launch(self, site: Site) -> Launch:
        """One worker."""
        return Launch(site.app("fastapi_sb3", site.policy.model, site.port))
