"""Loading policy packages; of a quarantined one only the manifest is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from bentos.package.digests import read_manifest
from bentos.package.manifest import (
    Array,
    Manifest,
    ProviderName,
)
from bentos.package.session import Policy


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
