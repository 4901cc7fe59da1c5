"""Small policy packages for tests, built with onnx.helper: a linear policy, discrete or continuous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bentos.package.digests import BASELINE, digest_files, write_manifest
from bentos.package.hooks import HOOK_FILE
from bentos.package.manifest import Manifest, Outcomes, Serve, Space, Tensor
from bentos.package.safety import Safety

OBSERVATION = Space("Box", shape=(4,), low=(None,) * 4, high=(None,) * 4)
DISCRETE = Space("Discrete", dtype="int64", n=2)
BOX = Space("Box", shape=(1,), low=(-2.0,), high=(2.0,))


def discrete_graph(weights: Any, bias: Any) -> onnx.ModelProto:
    """observation [n, 4] -> logits = observation @ weights + bias, action = argmax, finite = the logits are finite."""
    nodes = [
        helper.make_node("MatMul", ["observation", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=0),
        *_finite("logits"),
    ]
    outputs = [("action", TensorProto.INT64, ["n"]), ("logits", TensorProto.FLOAT, ["n", 2])]
    return _model(nodes, outputs, weights=np.asarray(weights, np.float32), bias=np.asarray(bias, np.float32))


def valued_graph() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """CartPole's policy with a `value`, its first logit, and the same without: what is served of it."""
    leaning = [[0, 0], [0, 0], [-1, 1], [-1, 1]]
    whole, served = discrete_graph(leaning, [0, 0]), discrete_graph(leaning, [0, 0])
    whole.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
    whole.graph.node.append(helper.make_node("Gather", ["logits", "first"], ["value"], axis=1))
    whole.graph.output.append(helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n"]))
    return whole, served


def box_graph(weights: Any, bias: Any) -> onnx.ModelProto:
    """observation [n, 4] -> action = observation @ weights + bias [n, 1]."""
    nodes = [
        helper.make_node("MatMul", ["observation", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["action"]),
        *_finite("action"),
    ]
    outputs = [("action", TensorProto.FLOAT, ["n", 1])]
    return _model(nodes, outputs, weights=np.asarray(weights, np.float32), bias=np.asarray(bias, np.float32))


def _finite(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceSum", [name, "axis"], ["total"], keepdims=0),
        helper.make_node("Sub", ["total", "total"], ["nothing"]),  # NaN where any entry is NaN or infinite
        helper.make_node("Equal", ["nothing", "zero"], ["finite"]),
    ]


def _model(nodes: list[onnx.NodeProto], outputs: list[tuple[str, int, list[Any]]], **constants: Any) -> onnx.ModelProto:
    constants |= {"axis": np.array([1], np.int64), "zero": np.array(0, np.float32)}
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["n", 4])],
        [
            *(helper.make_tensor_value_info(*output) for output in outputs),
            helper.make_tensor_value_info("finite", TensorProto.BOOL, ["n"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_package(
    directory: Path,
    *,
    name: str = "cartpole",
    graph: onnx.ModelProto | None = None,
    served: onnx.ModelProto | None = None,
    observation_space: Space = OBSERVATION,
    action_space: Space = DISCRETE,
    serve: Serve | None = None,
    safety: Safety | None = None,
    outcomes: Outcomes | None = None,
    baselines: dict[str, Any] | None = None,
    hook: str | None = None,
) -> str:
    """Write a package and return its digest. By default CartPole's: push right (1) when the pole leans right.

    With `served` it has that graph to serve beside the whole one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if graph is None:
        leaning = [[0, 0], [0, 0], [-1, 1], [-1, 1]]
        graph = (
            discrete_graph(leaning, [0, 0]) if action_space.type == "Discrete" else box_graph([[0]] * 3 + [[1]], [0])
        )
    onnx.checker.check_model(graph)
    onnx.save(graph, directory / "policy.onnx")
    if served is not None:
        onnx.save(served, directory / "policy.served.onnx")
    if hook is not None:
        (directory / HOOK_FILE).write_text(hook)
    actions = np.zeros((4, *action_space.shape), action_space.dtype)
    np.savez(directory / BASELINE, observation=np.zeros((4, 4), np.float32), actions=actions, returns=np.zeros(4))
    outputs = [Tensor("action", action_space.dtype, action_space.shape), Tensor("finite", "bool", ())]
    if action_space.type == "Discrete":
        outputs.append(Tensor("logits", "float32", (2,)))
    if "value" in {output.name for output in graph.graph.output}:
        outputs.append(Tensor("value", "float32", ()))
    manifest = Manifest(
        schema_version=1,
        name=name,
        algorithm="ppo",
        environment={"id": "CartPole-v1", "kwargs": {}},
        observation_space=observation_space,
        action_space=action_space,
        inputs=(Tensor("observation", "float32", (4,)),),
        outputs=tuple(outputs),
        opset=17,
        files=digest_files(directory),
        variants={"fp32": "policy.onnx"},
        shipped_variant="fp32",
        serve=serve or Serve(fallback={"constant": 0 if action_space.type == "Discrete" else [0.0]}),
        safety=safety or Safety(observation_range=(-10, 10)),
        outcomes=outcomes or Outcomes(return_range=(0, 500), abandoned_return=0),
        parity={},
        benchmark={},
        quantization={},
        selection={},
        baselines=baselines or {},
        training={},
        git_sha="0" * 40,
        served={} if served is None else {"fp32": "policy.served.onnx"},
        distribution="categorical" if action_space.type == "Discrete" else None,
    )
    return write_manifest(directory, manifest)


def constant_graph(action: int) -> onnx.ModelProto:
    """A discrete policy that always takes one action: tells versions apart."""
    return discrete_graph(np.zeros((4, 2)), [1 - action, action])
