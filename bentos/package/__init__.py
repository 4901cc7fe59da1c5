"""The policy package: a directory with a manifest (`policy.json`), graphs and baselines, every file digested.

Reading a package never unpickles: the manifest is JSON, graphs are ONNX, baselines are plain NumPy arrays. The names
below are the public ones. They are imported when first used, so that a manifest can be read without ONNX Runtime.
Imports only the flat modules of `bentos`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bentos.package.digests import (
        BASELINE,
        MANIFEST,
        digest_files,
        read_manifest,
        sha256,
        verify_file,
        write_manifest,
    )
    from bentos.package.loader import load
    from bentos.package.manifest import (
        SCHEMA_VERSION,
        File,
        Manifest,
        Outcomes,
        PackageError,
        Serve,
        Space,
        Tensor,
        decode_manifest,
        encode_manifest,
    )
    from bentos.package.safety import Safety
    from bentos.package.session import Baseline, Policy, session_options

__all__ = [
    "BASELINE",
    "MANIFEST",
    "SCHEMA_VERSION",
    "Baseline",
    "File",
    "Manifest",
    "Outcomes",
    "PackageError",
    "Policy",
    "Safety",
    "Serve",
    "Space",
    "Tensor",
    "decode_manifest",
    "digest_files",
    "encode_manifest",
    "load",
    "read_manifest",
    "session_options",
    "sha256",
    "verify_file",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("manifest", "safety", "digests", "session", "loader"):
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
