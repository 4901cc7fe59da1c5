"""Sessions of ONNX Runtime: on which provider a policy runs, and one row's way through a graph in bound memory.

Only the CPU has been measured. A provider that is asked for and not there is an error: a policy that was planned for a
GPU is not to be served from a CPU, too late, without a word.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from bentos.package.manifest import Array, Manifest, PackageError, ProviderName


class Binding:
    """One row of every input, and `action` and `finite`, bound to a session. For one thread."""

    __slots__ = ("_binding", "_inputs", "_run", "action", "finite")

    def __init__(self, session: ort.InferenceSession, manifest: Manifest) -> None:
        tensors = {tensor.name: tensor for tensor in (*manifest.inputs, *manifest.outputs)}
        rows = {name: np.zeros((1, *tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        self._binding = session.io_binding()
        self._inputs = [(tensor.name, rows[tensor.name]) for tensor in manifest.inputs]
        self.action, self.finite = rows["action"], rows["finite"]
        for name, array in self._inputs:
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in (("action", self.action), ("finite", self.finite)):
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._run = session.run_with_iobinding

    def run(self, feeds: Mapping[str, Array]) -> tuple[Array, Array]:
        """`action` [1, ...] and `finite` [1], the caller's to keep."""
        for name, array in self._inputs:
            array[...] = feeds[name]
        self._run(self._binding)
        return self.action.copy(), self.finite.copy()


class Bindings(threading.local):
    """A binding for every thread that asks, made when it first does."""

    def __init__(self, session: ort.InferenceSession, manifest: Manifest) -> None:
        self.mine = Binding(session, manifest)


_NAMES: dict[ProviderName, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_PACKAGES: dict[ProviderName, str] = {"cpu": "onnxruntime", "cuda": "onnxruntime-gpu"}


def open_session(graph: Path, options: ort.SessionOptions, provider: ProviderName) -> ort.InferenceSession:
    """A session of a graph on a provider. What a GPU cannot run runs on the CPU. Raises PackageError."""
    name = _NAMES[provider]
    if name not in ort.get_available_providers():
        raise PackageError(
            f"serve.provider is {provider!r}, but this gateway's onnxruntime has no {name}: install "
            f"{_PACKAGES[provider]}, or set serve.provider to 'cpu'"
        )
    providers = list(dict.fromkeys((name, _NAMES["cpu"])))
    try:
        session = ort.InferenceSession(str(graph), options, providers=providers)
    except Exception as error:
        raise PackageError(f"{graph}: ONNX Runtime cannot load it: {error}") from error
    if name not in session.get_providers():
        raise PackageError(
            f"serve.provider is {provider!r}, and onnxruntime has {name}, but it found no device to run on: look at "
            "the driver, or set serve.provider to 'cpu'"
        )
    return session
