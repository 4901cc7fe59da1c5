"""ONNX Runtime as every peer runs it: one thread, no spinning, which is fastest for a small graph."""

from __future__ import annotations

import onnxruntime as ort


def open_session(graph: str, kind: type[ort.InferenceSession] = ort.InferenceSession) -> ort.InferenceSession:
    """The graph, on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return kind(graph, options, providers=["CPUExecutionProvider"])
