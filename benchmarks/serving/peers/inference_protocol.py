"""The Open Inference Protocol's JSON, as MLServer and Triton speak it."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.serving.peers.peer import Observations, Peer
from benchmarks.serving.policy import NAME


class InferenceProtocol(Peer):
    """One input tensor, one output tensor."""

    path = many_path = f"/v2/models/{NAME}/infer"

    def bodies(self, observations: Observations, url: str) -> list[bytes]:
        """Batches of one."""
        return [self.many([observation], url) for observation in observations]

    def many(self, observations: Observations, url: str) -> bytes:
        """A batch, its numbers in a row."""
        flat = [number for observation in observations for number in observation]
        shape = [len(observations), len(observations[0])]
        tensor = {"name": "observation", "shape": shape, "datatype": "FP32", "data": flat}
        return msgspec.json.encode({"inputs": [tensor]})

    def actions(self, answer: Any) -> list[int]:
        """The first output's data."""
        return [int(action) for action in answer["outputs"][0]["data"]]
