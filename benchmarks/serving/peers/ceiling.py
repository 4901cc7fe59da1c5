"""The ceiling: bare uvicorn, msgspec and ONNX Runtime, doing nothing but answering."""

from __future__ import annotations

from benchmarks.serving.peers.peer import Script


class Ceiling(Script):
    """What no server of this kind can be faster than, since it does nothing else."""

    name = app = "ceiling"
    title = "bare uvicorn + msgspec + ONNX Runtime (the ceiling)"
