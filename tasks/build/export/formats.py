"""Export a candidate: ONNX, TorchScript and `.pt2`, each proved equal to the original on real observations."""

from __future__ import annotations

import functools
import logging
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bentos.package.manifest import DistributionName, Space, Tensor
from tasks.build.export import parity
from tasks.build.export.cases import cases
from tasks.build.export.graph import decider
from tasks.build.export.onnx import convert
from tasks.inputs import Decide, Inputs, Outputs

if TYPE_CHECKING:
    import torch

    from tasks.build.export.families.base import Exporter
    from tasks.build.training.agent import Agent

ONNX, TORCHSCRIPT, PT2 = "policy.onnx", "policy.ts", "policy.pt2"
TRACE_BATCH = 3

log = logging.getLogger(__name__)


class Exported(msgspec.Struct, frozen=True):
    """`export.json`: the graph's interface and the proof that all formats equal the original."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    observation_space: Space
    action_space: Space
    parity: dict[str, Any]
    distribution: DistributionName | None = None


def write_formats(exporter: Exporter, directory: Path) -> None:
    """Write the three formats of a policy into `directory`; the ONNX file has passed `onnx.checker`."""
    write_torch_formats(exporter, directory)
    convert(*conversion(exporter, directory))


def conversion(exporter: Exporter, directory: Path) -> tuple[Path, Path, list[str], list[str]]:
    """What is to be converted by `tasks.build.export.onnx.convert` once the `.pt2` file is in `directory`."""
    return directory / PT2, directory / ONNX, [tensor.name for tensor in exporter.inputs], list(exporter.outputs)


def write_torch_formats(exporter: Exporter, directory: Path) -> None:
    """Write the TorchScript and the `.pt2` file of a policy into `directory`."""
    import torch

    graph, dummy = exporter.graph(), exporter.dummy(TRACE_BATCH)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, dummy, dynamic_shapes=(tuple({0: batch} for _ in dummy),))
        _forget_sources(program.graph_module)
        torch.export.save(program, directory / PT2)
        traced = torch.jit.freeze(torch.jit.trace(graph, dummy, check_trace=False))
        torch.jit.save(traced, str(directory / TORCHSCRIPT))
    _leave_out_debug_records(directory / TORCHSCRIPT)


def _forget_sources(graph: torch.fx.GraphModule) -> None:
    """Take the places in source files out of a graph: what is exported names no path of this machine."""
    for node in graph.graph.nodes:
        node.meta.pop("stack_trace", None)


def _leave_out_debug_records(path: Path) -> None:
    """Write a TorchScript archive again without its debug records, which hold the paths of source files."""
    draft = path.with_suffix(".draft")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(entry, source.read(entry))
    draft.replace(path)


def torch_decider(module: torch.nn.Module, exporter: Exporter) -> Decide:
    """The policy in a torch module."""
    import torch

    def decide(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            outputs = module(*exporter.tensors(inputs))
        return {name: output.numpy() for name, output in zip(exporter.outputs, outputs, strict=True)}

    return decide


def load_formats(directory: Path, exporter: Exporter, wait: Callable[[], None] | None = None) -> dict[str, Decide]:
    """Deciders of the three written formats, read back from their files.

    The last is ONNX. Its file may still be written: when it is first asked it does `wait`, and raises what that raises.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formats = {
            "torchscript": torch_decider(torch.jit.load(str(directory / TORCHSCRIPT)), exporter),
            "pt2": torch_decider(torch.export.load(directory / PT2).module(), exporter),
        }

    @functools.cache
    def converted() -> Decide:
        if wait is not None:
            wait()
        return decider(directory / ONNX)

    return {**formats, "onnx": lambda inputs: converted()(inputs)}


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


def export_policy(agent: Agent, directory: Path, raw_space: Any = None, on_policy: Inputs | None = None) -> Exported:
    """Write all formats of `agent` into `directory` and prove them, on `on_policy` inputs where there are any.

    Raises Misconfigured for a policy that no exporter takes. Whether the formats are equal is in `parity["equal"]`.
    """
    from tasks.build.export.families import exporter_for

    exporter = exporter_for(agent, raw_space)
    write_formats(exporter, directory)
    return prove_formats(agent, exporter, directory, on_policy)


def prove_formats(
    agent: Agent,
    exporter: Exporter,
    directory: Path,
    on_policy: Inputs | None = None,
    wait: Callable[[], None] | None = None,
) -> Exported:
    """Prove the formats in `directory`, ONNX last: its file need not be there before `wait` returns."""
    from tasks.build.training.environments import describe

    action_space = describe(exporter.action_space)
    proved_on = cases(
        exporter.observation_space, exporter.inputs, agent.normalizer, on_policy, parity.groups(action_space)
    )
    proof = parity.prove(
        action_space,
        parity.Original(agent.decide, exporter.original_parameters),
        load_formats(directory, exporter, wait),
        proved_on,
    )
    outputs, opset = describe_outputs(directory / ONNX)
    observation_space = describe(exporter.observation_space)
    return Exported(exporter.inputs, outputs, opset, observation_space, action_space, proof, exporter.distribution)
