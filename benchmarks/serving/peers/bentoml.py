"""BentoML's own APIs, one worker."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.serving.peers.peer import Observations, Peer, Site
from benchmarks.serving.server import Launch


class BentomlApi(Peer):
    """A plain `@bentoml.api`."""

    name = "bentoml"
    title = "BentoML @api"
    many_path = "/acts"

    def launch(self, site: Site) -> Launch:
        """One worker."""
        service = "benchmarks.serving.apps.bentoml_service:Policy"
        command = [site.python, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(site.port)]
        environment = {
            "BENTOML_HOME": str(site.directory / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "BENCHMARK_GRAPH": str(site.policy.graph),
        }
        return Launch(command, environment)


class BentomlBatchable(BentomlApi):
    """`@bentoml.api(batchable=True)`: BentoML gathers the observations of several requests."""

    name = "bentoml-batchable"
    title = "BentoML @api(batchable=True)"
    path = many_path = "/batched"

    def bodies(self, observations: Observations, url: str) -> list[bytes]:
        """A batch of one."""
        return [msgspec.json.encode({"observations": [observation]}) for observation in observations]

    def actions(self, answer: Any) -> list[int]:
        """A list."""
        return list(answer)
