"""A binding: one row's way through a graph in memory bound once, so that a call makes no arrays for ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from bentos.package.manifest import Array, Manifest


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
