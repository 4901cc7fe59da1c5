"""The policy package: a directory with a manifest (`policy.json`), graphs and baselines, every file digested.

Reading a package never unpickles: the manifest is JSON, graphs are ONNX, baselines are plain NumPy arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

MANIFEST = "policy.json"
BASELINE = "baseline.npz"
SCHEMA_VERSION = 1

Array = npt.NDArray[Any]


class PackageError(Exception):
    """A package that cannot be trusted or understood: says which file, what was expected and what came."""


class Space(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Gymnasium space as JSON. `low`/`high` are flat, in C order; null stands for unbounded."""

    type: Literal["Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict"]
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None
    n: int | None = None
    start: int = 0
    nvec: tuple[int, ...] | None = None
    spaces: dict[str, Space] | None = None

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of a Box, float64, shape `shape`; unbounded entries are infinite."""
        if self.low is None or self.high is None:
            raise PackageError(f"a {self.type} space has no bounds")
        low = np.array([-np.inf if v is None else v for v in self.low], dtype=np.float64)
        high = np.array([np.inf if v is None else v for v in self.high], dtype=np.float64)
        return low.reshape(self.shape), high.reshape(self.shape)


class Tensor(msgspec.Struct, frozen=True):
    """One input or output of the graph. `shape` leaves the batch dimension out."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class File(msgspec.Struct, frozen=True):
    """A file of the package: SHA-256 of its bytes (hex) and its size in bytes."""

    sha256: str
    size: int


class Serve(msgspec.Struct, frozen=True):
    """How the gateway serves the policy; the spec's `serve` section. Durations in milliseconds."""

    batch_size: int = 32
    max_wait_ms: float = 0.0
    deadline_ms: float = 50.0
    latency_slo_ms: float = 10.0
    fallback: dict[str, Any] | None = None
    max_errors: int = 5
    explore: bool = False


class Safety(msgspec.Struct, frozen=True):
    """The envelope no action leaves; the spec's `safety` section."""

    action_bounds: tuple[float | list[float], float | list[float]] | None = None
    safety_margin: float = 0.0
    rate_limit: float | list[float] | None = None
    acceleration_limit: dict[str, Any] | None = None
    constraints: list[dict[str, Any]] = []
    action_mask: Any = None
    observation_range: tuple[float, float] | None = None


def unsupported(serve: Serve, safety: Safety) -> list[str]:
    """Fields that ask for what this gateway does not enforce yet: such a policy is refused, never served without."""
    asked = {
        "safety.acceleration_limit": safety.acceleration_limit,
        "safety.constraints": safety.constraints,
        "safety.action_mask": safety.action_mask,
        "serve.explore": serve.explore,
    }
    return sorted(name for name, value in asked.items() if value)


class Outcomes(msgspec.Struct, frozen=True):
    """What the gateway must know of outcomes: the allowed range of a return and how long an episode may run."""

    return_range: tuple[float, float] | None = None
    abandoned_return: float | None = None
    episode_ttl_seconds: float = 900.0


class Manifest(msgspec.Struct, frozen=True):
    """`policy.json`. Free-form evidence (parity, benchmark, ...) is plain JSON written by the task that measured it."""

    schema_version: int
    name: str
    algorithm: str
    environment: dict[str, Any]
    observation_space: Space
    action_space: Space
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    files: dict[str, File]
    variants: dict[str, str]
    shipped_variant: str
    serve: Serve
    safety: Safety
    outcomes: Outcomes
    parity: dict[str, Any]
    benchmark: dict[str, Any]
    quantization: dict[str, Any]
    selection: dict[str, Any]
    baselines: dict[str, Any]
    training: dict[str, Any]
    git_sha: str


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON; the same manifest always gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def decode_manifest(data: bytes, origin: str) -> Manifest:
    """Parse `policy.json`. Raises PackageError naming `origin` and the field that does not fit."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise PackageError(f"{origin}: not a policy manifest: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise PackageError(
            f"{origin}: schema_version {manifest.schema_version}, this Airlock reads {SCHEMA_VERSION}; "
            "export the policy again with this version"
        )
    if manifest.variants.get(manifest.shipped_variant) not in manifest.files:
        raise PackageError(
            f"{origin}: the shipped variant {manifest.shipped_variant!r} is not among the package's files"
        )
    return manifest


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
    draft = directory / f".{MANIFEST}"
    draft.write_bytes(data)
    draft.replace(directory / MANIFEST)
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
    """A loaded package: the in-process policy, without torch. Thread-safe: `run` may be called concurrently."""

    def __init__(self, directory: Path, manifest: Manifest, variant: str | None = None) -> None:
        self.directory = directory
        self.manifest = manifest
        self.variant = variant or manifest.shipped_variant
        if self.variant not in manifest.variants:
            raise PackageError(f"{directory}: no variant {self.variant!r}; it has {sorted(manifest.variants)}")
        graph = verify_file(directory, manifest, manifest.variants[self.variant])
        try:
            self.session = ort.InferenceSession(str(graph), session_options(), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise PackageError(f"{graph}: ONNX Runtime cannot load it: {error}") from error
        self.output_names = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, Array], outputs: list[str] | None = None) -> dict[str, Array]:
        """Run the graph on a batch: input name -> array [n, ...] in the graph's dtype. Returns output name -> array."""
        names = outputs or self.output_names
        return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))

    def inputs(self, observation: Any) -> tuple[dict[str, Array], bool]:
        """Feeds of the graph for one observation or a batch, and whether it was a batch.

        `observation` is an array (or a dict of arrays for a Dict space), with or without a leading batch dimension.
        Raises ValueError that names the shape expected and the one that came.
        """
        feeds: dict[str, Array] = {}
        batched: bool | None = None
        for tensor in self.manifest.inputs:
            if tensor.name == "observation":
                value = observation
            elif tensor.name.startswith("observation."):
                value = observation[tensor.name.removeprefix("observation.")]
            else:
                continue
            array = np.asarray(value, dtype=tensor.dtype)
            if array.shape == tensor.shape:
                many, array = False, array[None]
            elif array.shape[1:] == tensor.shape and array.ndim == len(tensor.shape) + 1:
                many = True
            else:
                raise ValueError(
                    f"{tensor.name}: expected shape {tensor.shape} or (n, *{tensor.shape}), came {array.shape}"
                )
            if batched is not None and batched != many:
                raise ValueError("some parts of the observation are a batch and some are not")
            batched = many
            feeds[tensor.name] = np.ascontiguousarray(array)
        return feeds, bool(batched)

    def predict(self, observation: Any) -> Array:
        """The deterministic action(s), exactly what `env.step` takes: one for one observation, [n, ...] for a batch."""
        feeds, batched = self.inputs(observation)
        action = self.run(feeds, ["action"])["action"]
        return action if batched else action[0]

    def baseline(self) -> Baseline:
        """What the package was made from, read from `baseline.npz`."""
        path = verify_file(self.directory, self.manifest, BASELINE)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return Baseline(actions=arrays.pop("actions"), returns=arrays.pop("returns"), inputs=arrays)


def load(directory: str | Path, package_sha256: str | None = None, variant: str | None = None) -> Policy:
    """Load a policy package. Digests of the manifest (if given) and of the graph are checked. Raises PackageError."""
    path = Path(directory)
    return Policy(path, read_manifest(path, package_sha256), variant)
