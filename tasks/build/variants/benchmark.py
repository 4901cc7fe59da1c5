"""Benchmark every variant: latency over batch sizes, load time, memory and size, one family of variants a task."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.settings import home
from tasks.build.variants.measure import affordable, measure_apart
from tasks.build.variants.served_graph import write_served
from tasks.build.variants.timing import latency
from tasks.inputs import Inputs, repeat, spread

if TYPE_CHECKING:
    from bentos.package.manifest import Tensor
    from tasks.build.training.agent import Agent

MEMBERS = {
    "fp32": ("fp32",),
    "fp16": ("fp16",),
    "int8": ("int8-dynamic", "int8-static", "int8-static-inner"),
}
BATCHES = (1, 8, 32, 64, 256, 1024)
MEASURED_ROWS = 1_024

log = logging.getLogger(__name__)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One benchmark at a time on this machine, so that parallel tasks do not measure each other."""
    with (home() / "benchmark.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def measure_variants(
    graphs: dict[str, Path], reference: Path, given: Inputs, served: int, scratch: Path, explore: bool = False
) -> dict[str, Any]:
    """Measurements of each graph as it is served (cut to what serving asks for), by variant, each in a fresh process.

    `served` is the batch size that costs are compared at: the spec's, where it gives one.
    """
    sample = scratch / "inputs.npz"
    arrays: dict[str, Any] = {**spread(given, MEASURED_ROWS)}
    np.savez(sample, **arrays)
    batches = sorted({*BATCHES, served})
    reference_served = write_served(reference, arrays, scratch, explore)
    found: dict[str, Any] = {}
    for name, graph in graphs.items():
        measured = reference_served if graph == reference else write_served(graph, arrays, scratch, explore)
        found[name] = measure_apart(measured, reference_served, sample, batches, served)
    return found


def compare_with_originals(
    agent: Agent, torchscript: Path, interface: Sequence[Tensor], given: Inputs
) -> dict[str, Any]:
    """Latency of what one would serve otherwise, in this process: SB3's `predict`, the graph in torch, and the formats
    beside ONNX, of which `torchscript` lies next to the `.pt2`."""
    import torch

    from tasks.build.export.families import exporter_for
    from tasks.build.export.formats import PT2

    torch.set_num_threads(1)
    exporter = exporter_for(agent)
    script = torch.jit.load(str(torchscript))
    program = torch.export.load(torchscript.with_name(PT2)).module()
    modules = {"torch": exporter.graph(), "torchscript": script, "pt2": program}
    found: dict[str, Any] = {name: {"batch": {}} for name in ("sb3_predict", *modules)}
    for batch in affordable(given, BATCHES, 1):
        rows = repeat(given, batch)
        tensors = [torch.from_numpy(rows[tensor.name].astype(tensor.dtype)) for tensor in interface]
        found["sb3_predict"]["batch"][str(batch)] = latency(partial(agent.decide, rows), batch)
        with torch.no_grad():
            for name, module in modules.items():
                found[name]["batch"][str(batch)] = latency(partial(module, *tensors), batch)
    return found
