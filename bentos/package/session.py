"""A loaded package: its graph in a session of ONNX Runtime on its provider, one row of it in bound memory.

Only the CPU has been measured. A provider that is asked for and not there is an error: a policy that was planned for a
GPU is not to be served from a CPU, too late, without a word.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bentos.package import interface
from bentos.package.digests import BASELINE, verify_file
from bentos.package.feeds import Feeds
from bentos.package.manifest import (
    Array,
    Manifest,
    PackageError,
    ProviderName,
)


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


_ANSWER = ["action", "finite"]


_FALSE = b"\0"


def session_options() -> ort.SessionOptions:
    """One thread, sequential, no spinning: same median as the defaults, a tail a hundred times shorter (docs)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


@dataclass(frozen=True)
class Baseline:
    """What the original policy was asked and answered: `inputs` [n, ...] by name (raw, mask and state included),
    `actions` [n, ...], and the `returns` [episodes] it was seen to earn (none where its environment could not run).
    """

    inputs: dict[str, Array]
    actions: Array
    returns: Array


class Policy:
    """A loaded package: the in-process policy, without torch. Thread-safe: every method may be called concurrently."""

    def __init__(
        self, directory: Path, manifest: Manifest, variant: str | None = None, provider: ProviderName = "cpu"
    ) -> None:
        """Raises PackageError for a graph that is not the manifest's, or with inputs or outputs nobody knows."""
        self.directory = directory
        self.manifest = manifest
        self.variant = variant or manifest.shipped_variant
        if self.variant not in manifest.variants:
            raise PackageError(f"{directory}: no variant {self.variant!r}; it has {sorted(manifest.variants)}")
        self._provider = provider
        self.session = self._open(manifest.served_file(self.variant), served=self.variant in manifest.served)
        """The graph that is served: where the package has one, that without the outputs serving never asks for."""
        self.served_names = [output.name for output in self.session.get_outputs()]
        self.output_names = [output.name for output in manifest.outputs]
        self._whole: ort.InferenceSession | None = None if self.variant in manifest.served else self.session
        self._opening = threading.Lock()
        self._feeds = Feeds(manifest)
        self._bindings = Bindings(self.session, manifest)
        self._answers = [*_ANSWER, *(f"{interface.NEXT}{tensor.name}" for tensor in self._feeds.states)]

    def run(self, inputs: Mapping[str, Array], outputs: list[str] | None = None) -> dict[str, Array]:
        """Run the graph on a batch: input name -> array [n, ...] in the graph's dtype. Returns output name -> array.

        By default all outputs. The first call that asks for one that is not served opens the whole graph, and raises
        PackageError where that is not at hand: a gateway fetches only what it serves.
        """
        names = outputs or self.output_names
        session = self.session if set(names) <= set(self.served_names) else self.whole()
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    def run_one(self, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """`action` [1, ...] and `finite` bool [1] of one row of a policy without recurrent state."""
        return self._bindings.mine.run(inputs)

    def whole(self) -> ort.InferenceSession:
        """The variant's graph with all outputs, opened and checked by the first call. Raises PackageError."""
        with self._opening:
            if self._whole is None:
                self._whole = self._open(self.manifest.variants[self.variant], served=False)
            return self._whole

    def _open(self, name: str, served: bool) -> ort.InferenceSession:
        graph = verify_file(self.directory, self.manifest, name)
        session = open_session(graph, session_options(), self._provider)
        interface.check(self.manifest, session.get_inputs(), session.get_outputs(), str(graph), served=served)
        return session

    def predict(self, observation: Any, action_mask: Any = None) -> Any:
        """The deterministic action(s), exactly what `env.step` takes: one for one observation, [n, ...] for a batch.

        `observation` is an array (or a mapping of arrays for a Dict space), with or without a leading batch dimension;
        an image of bytes may have its channels first or last. `action_mask` is for maskable policies; by default all is
        allowed. A recurrent policy answers as at an episode's start; `step` carries its state. Raises ValueError for
        what is no observation of the policy's space, NaN and numbers outside a Discrete space included.
        """
        if self._feeds.states:
            return self.step(observation, action_mask=action_mask)[0]
        feeds, batched = self._feeds.read(observation, action_mask)
        if batched:
            action, finite = self.session.run(_ANSWER, feeds)
            if _FALSE in finite.tobytes():  # a tenth of the time that finite.all() takes
                raise ValueError(self._feeds.doubt(feeds, finite))
            return action
        action, finite = self._bindings.mine.run(feeds)
        if not finite[0]:
            raise ValueError(self._feeds.doubt(feeds, finite))
        return action[0]

    def step(
        self, observation: Any, state: Any = None, episode_start: Any = None, action_mask: Any = None
    ) -> tuple[Any, Any]:
        """`predict` with memory, as SB3's predictors have it: (action, state to give with the next observation).

        `state` is None at first, later what the last call returned: for a recurrent policy a pair of float32 arrays
        [layers, n, hidden]; others give back what they got. `episode_start` [n] bool says where an episode begins and
        the state is forgotten. Raises ValueError as `predict` does.
        """
        if not self._feeds.states:
            return self.predict(observation, action_mask), state
        feeds, batched = self._feeds.read(observation, action_mask)
        size = len(next(iter(feeds.values())))
        self._feeds.recall(feeds, size, state, episode_start)
        action, finite, *states = self.session.run(self._answers, feeds)
        if not finite.all():
            raise ValueError(self._feeds.doubt(feeds, finite))
        return action if batched else action[0], tuple(array.swapaxes(0, 1) for array in states)

    def baseline(self) -> Baseline:
        """What the package was made from, read from `baseline.npz`."""
        path = verify_file(self.directory, self.manifest, BASELINE)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return Baseline(actions=arrays.pop("actions"), returns=arrays.pop("returns"), inputs=arrays)
