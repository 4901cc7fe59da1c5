"""Providers: what ONNX Runtime runs a policy on, as the spec's `serve.provider` asks.

Only the CPU has been measured. A provider that is asked for and not there is an error: a policy that was planned for a
GPU is not to be served from a CPU, too late, without a word.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from bentos.package.manifest import PackageError, ProviderName

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
