"""The layers of an exported policy: what may be quantized, what lies between them, and what a variant must keep."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.build.export.graph import cast, dtypes, open_session
from tasks.errors import Misconfigured
from tasks.inputs import Inputs, repeat

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

DENSE = ("Gemm", "MatMul")
LAYERS = (*DENSE, "Conv")
ZERO = "zero:relu"
ANSWER = ("action", "finite", "next_state_h", "next_state_c")
"""What is judged. Layers that only `value` or a density comes from stay as they are: nothing judges them."""


class Layers:
    """The float32 layers that a policy's action is computed from, in order, and how they hang together."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes: list[NodeProto] = list(graph.node)
        self._producers = {output: node for node in self.nodes for output in node.output}
        weights = {one.name for one in graph.initializer if one.data_type == 1}
        judged = _names(self.above(name for name in ANSWER if name in self._producers))
        self.layers = [
            node
            for node in self.nodes
            if node.op_type in LAYERS and node.name in judged and any(name in weights for name in node.input[:2])
        ]
        names = _names(self.layers)
        above = {node.name: _names(self.above(node.input)) for node in self.layers}
        below = {name for ancestors in above.values() for name in ancestors}
        self.outermost = [node.name for node in self.layers if not above[node.name] & names or node.name not in below]
        """The first and the last layers: those without a layer before, or after, them."""
        self._before_a_layer = below | names
        self._layer_names = names

    def names(self, kinds: Iterable[str] = LAYERS, inner: bool = False) -> list[str]:
        """Names of the layers of these kinds; with `inner`, without the first and the last.

        Raises Misconfigured when there are none.
        """
        left = [n.name for n in self.layers if n.op_type in kinds and not (inner and n.name in self.outermost)]
        if not left:
            where = " between its first and its last" if inner else ""
            raise Misconfigured(f"the policy has no layer of type {', '.join(kinds)}{where}")
        return left

    def core(self) -> set[str]:
        """Names of the layers, and of the nodes between two layers: preparation and heads are not among them."""
        found = set(self._layer_names)
        for node in self.nodes:
            behind = any(producer.name in found for producer in map(self._producers.get, node.input) if producer)
            if behind and node.name in self._before_a_layer:
                found.add(node.name)
        return found

    def above(self, values: Iterable[str]) -> list[NodeProto]:
        """All nodes that the values are computed from."""
        found: dict[str, NodeProto] = {}
        waiting = list(values)
        while waiting:
            node = self._producers.get(waiting.pop())
            if node is not None and node.output[0] not in found:
                found[node.output[0]] = node
                waiting += node.input
        return list(found.values())


def _names(nodes: Iterable[NodeProto]) -> set[str]:
    return {node.name for node in nodes}


def bare(path: Path) -> ModelProto:
    """The model without stored intermediate shapes, on which ONNX's shape inference stumbles, and without notes."""
    import onnx

    model = onnx.load(path)
    del model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
    return model


def cut(model: ModelProto, outputs: Iterable[str]) -> ModelProto:
    """A model of these outputs alone, without the nodes and weights that only others need.

    ONNX Runtime computes every node of a graph at every call, whatever outputs are asked for.
    """
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph, wanted = found.graph, set(outputs)
    needed = {node.output[0] for node in Layers(graph).above(wanted)}
    nodes = [node for node in graph.node if node.output[0] in needed]
    used = {name for node in nodes for name in node.input}
    kept_outputs = [output for output in graph.output if output.name in wanted]
    weights = [one for one in graph.initializer if one.name in used]
    for field, kept in ((graph.node, nodes), (graph.output, kept_outputs), (graph.initializer, weights)):
        copies = [type(one).FromString(one.SerializeToString()) for one in kept]
        del field[:]
        field.extend(copies)
    return found


def set_apart(graph: GraphProto, layers: Iterable[str]) -> None:
    """Give these layers a copy of an input that other nodes read, too.

    Else the others would read it quantized: the value would be rounded, and the finiteness flag would no longer see a
    NaN, which quantization turns into a number.
    """
    from onnx import helper

    chosen = set(layers)
    others = {name for node in graph.node if node.name not in chosen for name in node.input}
    others |= {output.name for output in graph.output}
    copied: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name in chosen and node.input[0] in others:
            name = node.input[0]
            if name not in copied:
                copied.add(name)
                nodes.append(helper.make_node("Identity", [name], [f"{name}:layer"], f"{name}:layer"))
            node.input[0] = f"{name}:layer"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def spell_out_relus(graph: GraphProto, layers: Iterable[str]) -> None:
    """Write a dense layer's Relu as the maximum with 0, unless only these layers read it (it is then quantized away).

    ONNX Runtime joins a Gemm and its Relu before it looks for integer arithmetic, and then turns the weights back into
    floats at every call, which takes longer than fp32.
    """
    from onnx import helper, numpy_helper

    chosen = set(layers)
    dense = {name for node in graph.node if node.name in chosen and node.op_type in DENSE for name in node.output}
    others = {name for node in graph.node if node.name not in chosen for name in node.input}
    others |= {output.name for output in graph.output}
    found = [n for n in graph.node if n.op_type == "Relu" and n.input[0] in dense and n.output[0] in others]
    for node in found:
        node.CopyFrom(helper.make_node("Max", [node.input[0], ZERO], list(node.output), node.name))
    if found:
        graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), ZERO))


def check_interface(reference: Path, variant: Path, given: Inputs) -> None:
    """Run both on 1 row and on 3. Raises Misconfigured where names, dtypes or shapes are not the reference's."""
    ours, theirs = open_session(variant), open_session(reference)
    for kind, mine, wanted in (
        ("input", ours.get_inputs(), theirs.get_inputs()),
        ("output", ours.get_outputs(), theirs.get_outputs()),
    ):
        came, expected = [_signature(entry) for entry in mine], [_signature(entry) for entry in wanted]
        if came != expected:
            raise Misconfigured(f"its {kind}s are {came}; those of fp32 are {expected}")
    names = [output.name for output in theirs.get_outputs()]
    for rows in (1, 3):
        feeds = cast(repeat(given, rows), dtypes(theirs))
        for name, mine, wanted in zip(names, ours.run(names, feeds), theirs.run(names, feeds), strict=True):
            if (mine.dtype, mine.shape) != (wanted.dtype, wanted.shape):
                raise Misconfigured(
                    f"its output {name} is {mine.dtype}{mine.shape} for {rows} rows; "
                    f"that of fp32 is {wanted.dtype}{wanted.shape}"
                )


def _signature(entry: Any) -> tuple[str, str, tuple[int | None, ...]]:
    """Name, dtype and shape of an input or output; None stands for a dimension that is free."""
    return entry.name, entry.type, tuple(size if isinstance(size, int) else None for size in entry.shape)


def float_values(model: ModelProto) -> set[str]:
    """Names of all float32 values of a model: inputs, weights and what nodes put out."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT} | {
        one.name for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT
    }


def is_within(weights: Any, limit: float) -> bool:
    """Whether all weights are finite and no larger than `limit`."""
    return bool((np.abs(weights) <= limit).all())
