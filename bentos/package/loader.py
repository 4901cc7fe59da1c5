"""Loading, verifying and writing policy packages: `policy.json`, graphs and baselines, every file digested.

Reading a package never unpickles. Of a quarantined one only the manifest is read.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime as ort

from bentos import files
from bentos.package import interface
from bentos.package import session as providers
from bentos.package.feeds import Feeds
from bentos.package.manifest import (
    Array,
    File,
    Manifest,
    PackageError,
    ProviderName,
    decode_manifest,
    encode_manifest,
)
from bentos.package.session import Bindings

MANIFEST = "policy.json"
BASELINE = "baseline.npz"

_ANSWER = ["action", "finite"]
_FALSE = b"\0"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(directory: Path) -> dict[str, File]:
    """Digests of every file of a package directory but the manifest itself, by name, sorted."""
    return {
        path.name: File(sha256(path), path.stat().st_size)
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != MANIFEST
    }


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Write `policy.json` and return its SHA-256: the digest of the whole package, since it holds all others."""
    data = encode_manifest(manifest)
    files.replace(directory / MANIFEST, data)
    return hashlib.sha256(data).hexdigest()


def read_manifest(directory: Path, package_sha256: str | None = None) -> Manifest:
    """Read `policy.json`; with `package_sha256`, refuse any other content (PackageError)."""
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror}; is this a policy package?") from error
    came = hashlib.sha256(data).hexdigest()
    if package_sha256 is not None and came != package_sha256:
        raise PackageError(f"{path}: digest mismatch: expected sha256 {package_sha256}, came {came}")
    return decode_manifest(data, str(path))


def verify_file(directory: Path, manifest: Manifest, name: str) -> Path:
    """The path of one file of the package after its digest was checked. Raises PackageError."""
    entry = manifest.files.get(name)
    if entry is None or Path(name).name != name:
        raise PackageError(f"{directory}: the manifest has no file {name!r}")
    path = directory / name
    if not path.is_file():
        raise PackageError(f"{path}: missing; the manifest lists it")
    came = sha256(path)
    if came != entry.sha256:
        raise PackageError(f"{path}: digest mismatch: expected sha256 {entry.sha256}, came {came}")
    return path


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
        session = providers.open_session(graph, session_options(), self._provider)
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


def load(
    directory: str | Path,
    package_sha256: str | None = None,
    variant: str | None = None,
    provider: ProviderName | None = "cpu",
) -> Policy:
    """Load a policy package. Digests of the manifest (if given) and of the graph are checked. Raises PackageError.

    It runs on the CPU, wherever it is to be served; `provider` None takes the one that it is to be served on.
    """
    path = Path(directory)
    manifest = read_manifest(path, package_sha256)
    return Policy(path, manifest, variant, provider or manifest.serve.provider)


class Unopened(Policy):
    """A package whose graph must not be opened: whoever asks it gets an exception, and so the fallback's answer."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.variant = manifest.shipped_variant
        self.output_names = [output.name for output in manifest.outputs]
        self.served_names = self.output_names
        self.session: Any = self

    def run(self, inputs: Any, outputs: Any = None) -> NoReturn:
        """Raises RuntimeError."""
        raise RuntimeError("the package is quarantined: its graph is not opened")

    def run_one(self, inputs: Mapping[str, Array]) -> NoReturn:
        """Raises RuntimeError."""
        self.run(inputs)
