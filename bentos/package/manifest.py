"""The manifest of a policy package: `policy.json` as typed structures, and nothing but data."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from bentos.package.safety import Safety

SCHEMA_VERSION = 1

Array = npt.NDArray[Any]
ProviderName = Literal["cpu", "cuda"]
DistributionName = Literal["categorical", "bernoulli", "gaussian", "squashed_gaussian"]


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
    provider: ProviderName = "cpu"
    override_hook: str | None = None


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
    distribution: DistributionName | None = None
    """What stochastic actions are drawn from, by the graph's outputs; None where the policy has only one action."""
    served: dict[str, str] = {}
    """By variant, the file of the graph that is served: the variant's, cut to the outputs that serving asks for."""

    def served_file(self, variant: str) -> str:
        """The file that serving opens for a variant: its cut graph, or the whole one where the package has no cut."""
        return self.served.get(variant) or self.variants[variant]


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
    for variant, file in manifest.served.items():
        if variant not in manifest.variants or file not in manifest.files:
            raise PackageError(
                f"{origin}: {file!r} is served for {variant!r}; expected one of the files, for one of the variants "
                f"{sorted(manifest.variants)}"
            )
    return manifest
