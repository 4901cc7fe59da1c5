"""The ceiling: bare uvicorn, msgspec and ONNX Runtime, doing nothing but answering."""

from __future__ import annotations

from benchmarks.serving.peers.peer import Peer, Site
from benchmarks.serving.server import Launch


class Ceiling(Peer):
    """What no server of this kind can be faster than, since it does nothing else."""

    name = "ceiling"
    title = "bare uvicorn + msgspec + ONNX Runtime (the ceiling)"
    many_path = "/acts"

    def launch(self, site: Site) -> Launch:
        """One worker."""
        return Launch(site.app("ceiling", site.policy.graph, site.port))
