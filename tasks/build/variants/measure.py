"""Measure one ONNX graph in a process of its own, which holds what a gateway holds and no more: NumPy, ONNX Runtime.

Run as `python -m tasks.build.variants.measure GRAPH …`; the measurements are one JSON document on stdout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.build.export.graph import cast, dtypes, open_session
from tasks.build.variants.timing import latency, memory_mb, relative_cost
from tasks.inputs import Inputs, repeat

if TYPE_CHECKING:
    import onnxruntime as ort

ASKED = ("action", "finite")
ACCELERATORS = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
"""Execution providers beside the CPU's that are measured where this ONNX Runtime has them, and their devices."""
LARGEST_BATCH_BYTES = 64_000_000
"""Of observations, as float32: batches beyond are left out, since activations are several times as large."""
_ROOT = Path(__file__).resolve().parents[3]


def affordable(given: Inputs, batches: Sequence[int], served: int) -> list[int]:
    """The batch sizes whose observations fit into memory comfortably, and the served one, sorted."""
    row = sum(value[0].size for value in given.values()) * 4
    return sorted({served, *(batch for batch in batches if batch * row <= LARGEST_BATCH_BYTES)})


def caller(session: ort.InferenceSession, given: Inputs, batch: int) -> Callable[[], Any]:
    """A call of `session.run` for `batch` rows."""
    feeds = cast(repeat(given, batch), dtypes(session))
    return lambda: session.run(list(ASKED), feeds)


def bound_caller(session: ort.InferenceSession, given: Inputs, batch: int, device: str = "cpu") -> Callable[[], Any]:
    """A call with io-binding for `batch` rows: inputs bound once, outputs left on the device."""
    binding = session.io_binding()
    for name, value in cast(repeat(given, batch), dtypes(session)).items():
        binding.bind_cpu_input(name, value)
    for name in ASKED:
        binding.bind_output(name, device)
    return lambda: session.run_with_iobinding(binding)


def on_accelerator(graph: Path, given: Inputs, batches: Sequence[int], provider: str) -> dict[str, Any]:
    """Latency by batch size with an execution provider, outputs on its device; or why it was not measured."""
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        return {"not_measured": "this ONNX Runtime does not have it"}
    try:
        session = ort.InferenceSession(str(graph), providers=[provider, "CPUExecutionProvider"])
        if provider not in session.get_providers():
            return {"not_measured": "it is installed, but found no device to run on"}
        device = ACCELERATORS.get(provider, "cpu")
        return {"batch": {str(n): latency(bound_caller(session, given, n, device), n) for n in batches}}
    except Exception as error:  # noqa: BLE001 - a driver that fails costs its own row, never the benchmark
        return {"not_measured": f"{type(error).__name__}: {error}"}


def measure(graph: Path, reference: Path, given: Inputs, batches: Sequence[int], served: int) -> dict[str, Any]:
    """Latency by batch size (plain and with io-binding), load time, memory, size, and cost beside `reference`.

    The cost is compared at batch `served`. Batches whose observations would be too large are left out.
    """
    runtime_mb, _ = memory_mb()
    before = time.perf_counter()
    session = open_session(graph)
    load_ms = (time.perf_counter() - before) * 1e3
    sizes = affordable(given, batches, served)
    by_batch = {str(batch): latency(caller(session, given, batch), batch) for batch in sizes}
    bound = {str(batch): latency(bound_caller(session, given, batch), batch) for batch in sizes}
    resident_mb, peak_mb = memory_mb()
    cost, interval = 1.0, (1.0, 1.0)
    if graph != reference:
        other = open_session(reference)
        cost, interval = relative_cost(caller(session, given, served), caller(other, given, served))
    return {
        "batch": by_batch,
        "io_binding": bound,
        "load_ms": round(load_ms, 3),
        "runtime_rss_mb": round(runtime_mb, 1),
        "rss_mb": round(resident_mb, 1),
        "peak_rss_mb": round(peak_mb, 1),
        "size_bytes": graph.stat().st_size,
        "relative_cost": cost,
        "cost_interval": interval,
        "providers": {name: on_accelerator(graph, given, sizes, name) for name in ACCELERATORS},
    }


def measure_apart(graph: Path, reference: Path, given: Path, batches: Sequence[int], served: int) -> dict[str, Any]:
    """`measure` in a fresh process; `given` is an .npz file of inputs by name.

    Raises CalledProcessError with its output.
    """
    command = [sys.executable, "-m", "tasks.build.variants.measure", str(graph.absolute())]
    command += ["--reference", str(reference.absolute()), "--inputs", str(given.absolute())]
    command += ["--batches", *map(str, batches), "--served", str(served)]
    # the working directory may hold another `tasks`, and Python would find that first
    done = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _main() -> None:
    parser = argparse.ArgumentParser(description="Measure one ONNX graph.")
    parser.add_argument("graph", type=Path)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", required=True)
    parser.add_argument("--served", type=int, required=True)
    given = parser.parse_args()
    with np.load(given.inputs, allow_pickle=False) as archive:
        rows = {name: archive[name] for name in archive.files}
    json.dump(measure(given.graph, given.reference, rows, given.batches, given.served), sys.stdout)


if __name__ == "__main__":
    _main()
