"""Benchmark every variant: latency over batch sizes, load time, memory and size, one family of variants a task."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bentos.home import home
from tasks import runs
from tasks.errors import Misconfigured
from tasks.measurement import latency, measure_apart, rows

FAMILIES = ("fp32", "fp16", "int8")
MEMBERS = {"fp32": ("fp32",), "fp16": ("fp16",), "int8": ("int8-dynamic", "int8-static")}
BATCHES = (1, 8, 32, 64, 256, 1024)
COMPARED_BATCHES = (1, 64)
ORIGINALS = "benchmark/originals.json"
"""Latency of SB3 and TorchScript, measured where torch is loaded anyway: by the export."""

log = logging.getLogger(__name__)


def artifact(family: str) -> str:
    """Where a family's measurements are kept in the run."""
    return f"benchmark/{family}.json"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One benchmark at a time on this machine, so that parallel tasks do not measure each other."""
    with (home() / "benchmark.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def measure_variants(
    graphs: dict[str, Path], reference: Path, observations: npt.NDArray[Any], served: int, scratch: Path
) -> dict[str, Any]:
    """Measurements of each graph, by variant, each in a fresh process. `served` is the spec's batch size."""
    sample = scratch / "observations.npy"
    np.save(sample, observations[:1024])
    batches = sorted({*BATCHES, served})
    return {name: measure_apart(graph, reference, sample, batches, served) for name, graph in graphs.items()}


def compare_with_originals(agent: Any, torchscript: Path, observations: npt.NDArray[Any]) -> dict[str, Any]:
    """Latency of what one would serve otherwise: SB3's `predict` and TorchScript, in this process."""
    import torch

    torch.set_num_threads(1)
    script = torch.jit.load(str(torchscript))
    found: dict[str, Any] = {"sb3_predict": {"batch": {}}, "torchscript": {"batch": {}}}
    for batch in COMPARED_BATCHES:
        observed = rows(observations, batch)
        tensor = torch.from_numpy(observed)
        found["sb3_predict"]["batch"][str(batch)] = latency(lambda given=observed: agent.predict(given), batch)  # type: ignore[misc]
        with torch.no_grad():
            found["torchscript"]["batch"][str(batch)] = latency(lambda given=tensor: script(given), batch)  # type: ignore[misc]
    return found


def benchmark(release: runs.Release, family: str) -> dict[str, Any]:
    """The stage, once a family: measure its variants; beside fp32 stands what the export measured of the originals."""
    from tasks.evaluate import ROLLOUT, load_rollout
    from tasks.export import ONNX
    from tasks.quantize import QUANTIZATION

    if family not in FAMILIES:
        raise Misconfigured(f"unknown family {family!r}; expected one of {FAMILIES}")
    written = release.get_json(QUANTIZATION) or {}
    with release.scratch() as scratch:
        observations, _ = load_rollout(release.fetch(ROLLOUT, scratch))
        observations = observations.astype("float32" if observations.dtype == np.float64 else observations.dtype)
        reference = release.fetch(f"export/{ONNX}", scratch)
        graphs = {
            name: reference if name == "fp32" else release.fetch(f"quantize/{written[name]['file']}", scratch)
            for name in MEMBERS[family]
            if name == "fp32" or written[name]["file"]
        }
        with alone():
            found = measure_variants(graphs, reference, observations, release.spec.serve.batch_size, scratch)
    if family == "fp32":
        found["fp32"]["compared_with"] = release.get_json(ORIGINALS)
    release.put_json(artifact(family), found)
    served = str(release.spec.serve.batch_size)
    release.log_metrics(
        {f"benchmark/{name}/p50_us": entry["batch"][served]["p50_us"] for name, entry in found.items()}
        | {f"benchmark/{name}/p99_us": entry["batch"][served]["p99_us"] for name, entry in found.items()}
        | {f"benchmark/{name}/peak_rss_mb": entry["peak_rss_mb"] for name, entry in found.items()}
    ) if found else None
    release.tag(stage="benchmarked")
    for name, entry in found.items():
        log.info("%s: p50 %.1f us, p99 %.1f us at batch %s", name, *list(entry["batch"][served].values())[:2], served)
    return {name: entry["batch"][served] for name, entry in found.items()}
