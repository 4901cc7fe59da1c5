"""An exported graph in ONNX Runtime, as the gateway runs it: one thread, no spinning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bentos.package import session_options

Array = npt.NDArray[Any]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def open_session(path: Path) -> ort.InferenceSession:
    """A CPU session of an ONNX file with the gateway's options."""
    return ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])


def input_dtype(session: ort.InferenceSession) -> str:
    """The NumPy name of the dtype that the graph takes observations in."""
    return _DTYPES[session.get_inputs()[0].type]


def decider(path: Path) -> Callable[[Array], Array]:
    """The policy in an ONNX file: raw observations [n, ...] -> env-ready actions [n, ...]."""
    session = open_session(path)
    dtype = input_dtype(session)

    def decide(observations: Array) -> Array:
        return np.asarray(session.run(["action"], {"observation": np.ascontiguousarray(observations, dtype=dtype)})[0])

    return decide
