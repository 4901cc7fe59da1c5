"""Measure one ONNX graph in a process of its own, which holds what a gateway holds and no more: NumPy, ONNX Runtime.

Run as `python -m tasks.measurement GRAPH …`; the measurements are one JSON document on stdout.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.graph import cast, dtypes, open_session
from tasks.inputs import Array, Inputs, repeat

WARM_UP_CALLS = 20
MINIMUM_CALLS = 200
MAXIMUM_CALLS = 3_000
SECONDS_A_BATCH = 0.06
INTERLEAVED_ROUNDS = 40
INTERLEAVED_CALLS = 20


def durations(call: Callable[[], Any], calls: int | None = None) -> Array:
    """Seconds of each call, after a warm-up; without `calls`, as many as fit into a fraction of a second."""
    for _ in range(WARM_UP_CALLS):
        call()
    taken: list[float] = []
    started = time.perf_counter()
    while len(taken) < (calls or MAXIMUM_CALLS):
        before = time.perf_counter()
        call()
        after = time.perf_counter()
        taken.append(after - before)
        if calls is None and len(taken) >= MINIMUM_CALLS and after - started > SECONDS_A_BATCH:
            break
    return np.array(taken)


def latency(call: Callable[[], Any], batch: int) -> dict[str, float]:
    """Median and 99th percentile of a call in microseconds, and rows a second at the mean."""
    taken = durations(call)
    return {
        "p50_us": round(float(np.quantile(taken, 0.5)) * 1e6, 2),
        "p99_us": round(float(np.quantile(taken, 0.99)) * 1e6, 2),
        "rows_per_second": round(batch / float(taken.mean()), 1),
    }


def relative_cost(call: Callable[[], Any], reference: Callable[[], Any]) -> float:
    """Median duration of a call as a multiple of the reference's, in turns, so that a busy machine slows both."""
    pairs = [
        (np.median(durations(call, INTERLEAVED_CALLS)), np.median(durations(reference, INTERLEAVED_CALLS)))
        for _ in range(INTERLEAVED_ROUNDS)
    ]
    return round(float(np.median([mine / other for mine, other in pairs])), 4)


def memory_mb() -> tuple[float, float]:
    """Resident memory of this process now and at its peak, MB.

    The peak is the kernel's VmHWM: `ru_maxrss` would be inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return peak, peak
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def measure(graph: Path, reference: Path, given: Inputs, batches: Sequence[int], served: int) -> dict[str, Any]:
    """Latency by batch size, load time, memory, size, and the cost beside `reference` at batch `served`."""
    runtime_mb, _ = memory_mb()
    before = time.perf_counter()
    session = open_session(graph)
    load_ms = (time.perf_counter() - before) * 1e3

    def caller(of: Any, batch: int) -> Callable[[], Any]:
        feeds = cast(repeat(given, batch), dtypes(of))
        return lambda: of.run(["action", "finite"], feeds)

    by_batch = {str(batch): latency(caller(session, batch), batch) for batch in batches}
    resident_mb, peak_mb = memory_mb()
    cost = (
        1.0 if graph == reference else relative_cost(caller(session, served), caller(open_session(reference), served))
    )
    return {
        "batch": by_batch,
        "load_ms": round(load_ms, 3),
        "runtime_rss_mb": round(runtime_mb, 1),
        "rss_mb": round(resident_mb, 1),
        "peak_rss_mb": round(peak_mb, 1),
        "size_bytes": graph.stat().st_size,
        "relative_cost": cost,
    }


def measure_apart(graph: Path, reference: Path, given: Path, batches: Sequence[int], served: int) -> dict[str, Any]:
    """`measure` in a fresh process; `given` is an .npz file of inputs by name.

    Raises CalledProcessError with its output.
    """
    command = [sys.executable, "-m", "tasks.measurement", str(graph), "--reference", str(reference)]
    command += ["--inputs", str(given), "--batches", *map(str, batches), "--served", str(served)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
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
