"""Triton, by pytriton."""

from __future__ import annotations

from benchmarks.serving.peers.inference_protocol import InferenceProtocol
from benchmarks.serving.peers.peer import Site
from benchmarks.serving.server import Launch
from tasks.ports import free_port


class TritonServer(InferenceProtocol):
    """Its dynamic batcher takes what waits, and waits for nothing."""

    name = "triton"
    title = "Triton (pytriton), batches of what waits"
    environment = "triton"
    embeds_python = True
    # It asks for an older NumPy than the ONNX Runtime of the others takes.
    packages = ("nvidia-pytriton==0.7.0", "onnxruntime==1.32.0")

    def launch(self, site: Site) -> Launch:
        """One server, one Python process."""
        return Launch(site.app("triton_model", site.policy.graph, site.port, free_port(), free_port()))
