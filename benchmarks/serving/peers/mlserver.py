"""MLServer, with a runtime of one's own for the ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from benchmarks.serving.peers.inference_protocol import InferenceProtocol
from benchmarks.serving.peers.peer import RUNTIME, Site
from benchmarks.serving.policy import NAME
from benchmarks.serving.server import Launch
from tasks.ports import free_port


class Mlserver(InferenceProtocol):
    """The model in the server's own process: for a model this small, handing it to another costs more."""

    name = "mlserver"
    title = "MLServer, a request at a time"
    environment = "mlserver"
    packages = ("mlserver==1.7.1", *RUNTIME)
    batching: ClassVar[dict[str, float]] = {}

    def launch(self, site: Site) -> Launch:
        """One process."""
        settings = {
            "host": "127.0.0.1",
            "http_port": site.port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": 0,
            "debug": False,
        }
        model = {
            "name": NAME,
            "implementation": "benchmarks.serving.apps.mlserver_runtime.Policy",
            "parameters": {"uri": str(site.policy.graph)},
            **self.batching,
        }
        for name, document in (("settings.json", settings), ("model-settings.json", model)):
            (site.directory / name).write_bytes(msgspec.json.encode(document))
        return Launch([str(Path(site.python).with_name("mlserver")), "start", str(site.directory)])


class MlserverBatched(Mlserver):
    """Its adaptive batching."""

    name = "mlserver-batched"
    title = "MLServer, batches of up to 64, 5 ms"
    batching: ClassVar[dict[str, float]] = {"max_batch_size": 64, "max_batch_time": 0.005}
