"""Unopened: of a quarantined package only the manifest is read, so that its spec's fallback can still answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from bentos.package.loader import Policy
from bentos.package.manifest import Array, Manifest


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
