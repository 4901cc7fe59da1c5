"""The ceiling: bare uvicorn, msgspec and ONNX Runtime, doing nothing but answering."""

from __future__ import annotations

from benchmarks.serving.peers.peer import Script, Site
from benchmarks.serving.server import Launch


class Ceiling(Script):
    """What no server of this kind can be faster than, since it does nothing else."""

    name = app = "ceiling"
    title = "bare uvicorn + msgspec + ONNX Runtime (the ceiling)"

    def launch(self, site: Site) -> Launch:
        """As many workers as the site allows."""
        return Launch(site.app(self.app, self.served(site.policy), site.port, site.workers))
