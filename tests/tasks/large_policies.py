"""Large policies that work, made without training: random features and a last layer fitted to what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnx
from gymnasium import spaces
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tasks.build.export.graph import decider
from tasks.inputs import Array

BRIGHT_SIDE = "AirlockBrightSide-v0"
SHAPE = (4, 84, 84)
CONVOLUTIONS = ((32, 4, 8, 4), (64, 32, 4, 2), (64, 64, 3, 1))
"""Filters, channels, kernel and stride of the three convolutions of Mnih et al. 2015."""


class BrightSide(gymnasium.Env[Any, Any]):
    """Ten noisy images, each with a bright square on its left (0) or its right (1); a reward for saying which."""

    observation_space = spaces.Box(0, 255, SHAPE, np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 10
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.side)
        self.left -= 1
        return self._look(), reward, self.left == 0, False, {}

    def _look(self) -> Any:
        image, self.side = bright_square(self.np_random)
        return image


if BRIGHT_SIDE not in gymnasium.registry:
    gymnasium.register(BRIGHT_SIDE, BrightSide)


def bright_square(generator: np.random.Generator) -> tuple[Array, int]:
    """One image and the side of its square."""
    side = int(generator.integers(2))
    image = generator.integers(0, 64, SHAPE, dtype=np.uint8)
    row, column = generator.integers(0, 60), generator.integers(0, 18) + 42 * side
    image[:, row : row + 20, column : column + 20] += 128
    return image, side


def wide(path: Path, width: int = 1_024) -> Path:
    """A CartPole policy of two hidden layers that pushes towards where the pole falls."""
    generator = np.random.default_rng(0)
    nodes, weights = [], {}
    value, size = "observation", 4
    for layer in range(2):
        weights[f"w{layer}"] = generator.normal(size=(width, size)) * (1.0 if layer == 0 else size**-0.5)
        weights[f"b{layer}"] = generator.normal(size=width) * 0.1
        nodes.append(_gemm(value, layer))
        nodes.append(helper.make_node("Tanh", [f"sum{layer}"], [f"tanh{layer}"], f"tanh{layer}"))
        value, size = f"tanh{layer}", width
    rows = (generator.normal(size=(4_096, 4)) * [1.0, 1.0, 0.1, 1.0]).astype(np.float32)
    wanted = rows @ np.array([0.0, 0.1, 1.0, 0.6])
    return _fit(path, nodes, weights, (4,), TensorProto.FLOAT, rows, np.stack([-wanted, wanted], axis=1))


def convolutional(path: Path) -> Path:
    """A policy of Mnih et al.'s network that tells on which side the square is."""
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["observation"], ["float"], "float", to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "white"], ["scaled"], "scaled"),
    ]
    weights: dict[str, Array] = {"white": np.array(255.0), "flat": np.array([-1, 3136])}
    value = "scaled"
    for layer, (filters, channels, kernel, stride) in enumerate(CONVOLUTIONS):
        shape = (filters, channels, kernel, kernel)
        weights[f"w{layer}"] = generator.normal(size=shape) * (2.0 / np.prod(shape[1:])) ** 0.5
        weights[f"b{layer}"] = np.zeros(filters)
        names = [value, f"w{layer}", f"b{layer}"]
        nodes.append(helper.make_node("Conv", names, [f"sum{layer}"], f"layer{layer}", strides=[stride, stride]))
        value = f"relu{layer}"
        nodes.append(helper.make_node("Relu", [f"sum{layer}"], [value], value))
    nodes.append(helper.make_node("Reshape", [value, "flat"], ["features"], "features"))
    weights["w3"], weights["b3"] = generator.normal(size=(512, 3136)) * (2.0 / 3136) ** 0.5, np.zeros(512)
    nodes += [_gemm("features", 3), helper.make_node("Relu", ["sum3"], ["relu3"], "relu3")]
    looked = [bright_square(generator) for _ in range(768)]
    wanted = np.eye(2)[[side for _, side in looked]]
    return _fit(path, nodes, weights, SHAPE, TensorProto.UINT8, np.stack([image for image, _ in looked]), wanted)


def _gemm(value: str, layer: int) -> NodeProto:
    return helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [f"sum{layer}"], f"layer{layer}", transB=1)


def _fit(
    path: Path,
    nodes: list[NodeProto],
    weights: dict[str, Array],
    shape: tuple[int, ...],
    kind: int,
    rows: Array,
    wanted: Array,
) -> Path:
    """Write the policy whose last layer is the ridge regression of `wanted` [n, 2] on the last features."""
    features = nodes[-1].output[0]
    _save(
        path, nodes, weights, shape, kind, [helper.make_tensor_value_info(features, TensorProto.FLOAT, ["batch", None])]
    )
    parts = [decider(path)({"observation": rows[at : at + 64]})[features] for at in range(0, len(rows), 64)]
    seen = np.concatenate(parts).astype(np.float64)
    seen = np.concatenate([seen, np.ones((len(seen), 1))], axis=1)
    ridge = 1e-3 * float((seen**2).mean()) * len(seen) * np.eye(seen.shape[1])
    solved = np.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted)
    weights = {**weights, "w9": solved[:-1].T, "b9": solved[-1], "axis": np.array([1]), "nothing": np.array(0.0)}
    watched = ["logits", "observation"] if kind == TensorProto.FLOAT else ["logits"]
    last = [
        helper.make_node("Gemm", [features, "w9", "b9"], ["logits"], "layer9", transB=1),
        helper.make_node("ArgMax", ["logits"], ["action"], "chosen", axis=1, keepdims=0),
        helper.make_node("Concat", watched, ["watched"], "watched", axis=1),
        helper.make_node("Sub", ["watched", "watched"], ["doubt"], "doubt"),
        helper.make_node("ReduceSum", ["doubt", "axis"], ["doubts"], "doubts", keepdims=0),
        helper.make_node("Equal", ["doubts", "nothing"], ["finite"], "finite"),
    ]
    outputs = [
        helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("finite", TensorProto.BOOL, ["batch"]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2]),
    ]
    return _save(path, [*nodes, *last], weights, shape, kind, outputs)


def _save(
    path: Path, nodes: list[NodeProto], weights: dict[str, Array], shape: tuple[int, ...], kind: int, outputs: list[Any]
) -> Path:
    observation = helper.make_tensor_value_info("observation", kind, ["batch", *shape])
    stored = [
        numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    graph = helper.make_graph(nodes, "policy", [observation], outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
