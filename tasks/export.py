"""Export a candidate: ONNX, TorchScript and `.pt2`, each proved equal to the original on real observations."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from bentos.package import Space, Tensor
from tasks import parity, runs
from tasks.errors import Rejected
from tasks.graph import decider

if TYPE_CHECKING:
    import torch

    from tasks.exporters import Exporter
    from tasks.importing import Agent

EXPORT = "export/export.json"
ONNX, TORCHSCRIPT, PT2 = "policy.onnx", "policy.ts", "policy.pt2"
OPSET = 18
TRACE_BATCH = 3

Array = npt.NDArray[Any]

log = logging.getLogger(__name__)


class Exported(msgspec.Struct, frozen=True):
    """`export.json`: the graph's interface and the proof that all formats equal the original."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    observation_space: Space
    action_space: Space
    parity: dict[str, Any]


def write_formats(exporter: Exporter, directory: Path) -> None:
    """Write the three formats of a policy into `directory`; the ONNX file has passed `onnx.checker`."""
    import onnx
    import torch

    for noisy in ("onnx_ir", "onnxscript", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    graph, dummy = exporter.graph(), exporter.dummy(TRACE_BATCH)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (dummy,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, directory / PT2)
        torch.onnx.export(
            program,
            (),
            str(directory / ONNX),
            input_names=[tensor.name for tensor in exporter.inputs],
            output_names=list(exporter.outputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        traced = torch.jit.freeze(torch.jit.trace(graph, (dummy,), check_trace=False))
        torch.jit.save(traced, str(directory / TORCHSCRIPT))
    onnx.checker.check_model(onnx.load(directory / ONNX), full_check=True)


def torch_decider(module: torch.nn.Module, dtype: str) -> Callable[[Array], Array]:
    """The policy in a torch module: raw observations [n, ...] -> env-ready actions [n, ...]."""
    import torch

    def decide(observations: Array) -> Array:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(np.ascontiguousarray(observations, dtype=dtype)))[0].numpy())

    return decide


def load_formats(directory: Path, dtype: str) -> dict[str, Callable[[Array], Array]]:
    """Deciders of the three written formats, read back from their files."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "onnx": decider(directory / ONNX),
            "torchscript": torch_decider(torch.jit.load(str(directory / TORCHSCRIPT)), dtype),
            "pt2": torch_decider(torch.export.load(directory / PT2).module(), dtype),
        }


def describe_outputs(path: Path) -> tuple[tuple[Tensor, ...], int]:
    """Outputs of an ONNX file as it really puts them out (batch dimension left out), and its opset."""
    import onnx

    model = onnx.load(path)
    outputs = tuple(
        Tensor(
            value.name,
            str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]),
        )
        for value in model.graph.output
    )
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return outputs, int(opset)


def export_policy(agent: Agent, observations: Array, directory: Path, raw_space: Any = None) -> Exported:
    """Write all formats of `agent` into `directory` and prove them on `observations` [n, ...] (raw, on-policy).

    Raises Misconfigured for a policy that no exporter takes. Whether the formats are equal is in `parity["equal"]`.
    """
    from tasks.exporters import exporter_for
    from tasks.exporters.spaces import describe

    exporter = exporter_for(agent, raw_space)
    write_formats(exporter, directory)
    outputs, opset = describe_outputs(directory / ONNX)
    action_space = describe(exporter.action_space)
    proof = parity.prove(
        action_space,
        agent.predict,
        load_formats(directory, exporter.inputs[0].dtype),
        observations.astype(exporter.inputs[0].dtype),
    )
    return Exported(exporter.inputs, outputs, opset, describe(exporter.observation_space), action_space, proof)


def export(release: runs.Release) -> dict[str, Any]:
    """The stage: export the release's model. The files and the proof are kept before an unequal one raises Rejected."""
    import torch

    from tasks.benchmark import ORIGINALS, alone, compare_with_originals
    from tasks.environments import make
    from tasks.evaluate import ROLLOUT, load_rollout
    from tasks.importing import fetch_agent

    torch.set_num_threads(1)
    with release.scratch() as scratch:
        observations, _ = load_rollout(release.fetch(ROLLOUT, scratch))
        agent = fetch_agent(release, scratch)
        environment = make(release.spec.environment)
        directory = scratch / "export"
        directory.mkdir()
        exported = export_policy(agent, observations, directory, environment.observation_space)
        environment.close()
        release.put_directory(directory, "export")
        sample = observations.astype(exported.inputs[0].dtype)
        with alone():
            release.put_json(ORIGINALS, compare_with_originals(agent, directory / TORCHSCRIPT, sample))
    release.put_json(EXPORT, msgspec.to_builtins(exported))
    release.tag(stage="exported")
    if not exported.parity["equal"]:
        raise Rejected(f"the exported policy does not act as the original: {parity.worst(exported.parity)}")
    log.info("ONNX, TorchScript and pt2 equal the original on %d observations", len(observations))
    return {
        "outputs": [output.name for output in exported.outputs],
        "opset": exported.opset,
        "observations": len(observations),
        "equal": True,
    }
