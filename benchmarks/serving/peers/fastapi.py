"""FastAPI on uvicorn, one worker: with ONNX Runtime, and with SB3's `predict` (the seed's way)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.peers.peer import Script
from benchmarks.serving.policy import Policy


class FastapiOnnx(Script):
    """What one would write first."""

    name = "fastapi-onnx"
    title = "FastAPI + ONNX Runtime"
    app = "fastapi_onnx"


class FastapiSb3(Script):
    """What one would write without ONNX."""

    name = "fastapi-sb3"
    title = "FastAPI + SB3 predict (the seed's way)"
    app = "fastapi_sb3"

    def served(self, policy: Policy) -> Path:
        """The whole model."""
        return policy.model
