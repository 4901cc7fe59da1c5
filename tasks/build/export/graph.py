"""An exported graph in ONNX Runtime, as the gateway runs it: one thread, no spinning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from bentos.package.session import session_options
from tasks.inputs import Decide, Inputs, Outputs

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint64)": "uint64",
    "tensor(uint32)": "uint32",
    "tensor(uint16)": "uint16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def open_session(path: Path) -> ort.InferenceSession:
    """A CPU session of an ONNX file with the gateway's options."""
    return ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])


def dtypes(session: ort.InferenceSession) -> dict[str, str]:
    """The NumPy name of the dtype that the graph takes each of its inputs in."""
    return {entry.name: _DTYPES[entry.type] for entry in session.get_inputs()}


def cast(inputs: Inputs, to: Mapping[str, str]) -> Inputs:
    """The inputs of a graph, contiguous and in its dtypes; others are left out."""
    return {name: np.ascontiguousarray(inputs[name], dtype=dtype) for name, dtype in to.items()}


def decider(path: Path) -> Decide:
    """The policy in an ONNX file."""
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    to = dtypes(session)

    def decide(inputs: Inputs) -> Outputs:
        return dict(zip(names, session.run(names, cast(inputs, to)), strict=True))

    return decide
