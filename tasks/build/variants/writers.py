"""The reduced-precision variants of an exported policy, and how each is written.

Whatever is not a layer on the way to the action stays in fp32: preparation (float64 normalizers too), masks, squashing,
the finiteness flag, the value and densities.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.build.export.graph import cast, dtypes, open_session
from tasks.build.variants.layers import DENSE, LAYERS, Layers, bare, float_values, is_within, set_apart, spell_out_relus
from tasks.errors import Misconfigured
from tasks.inputs import Array, Inputs, repeat, spread, take

if TYPE_CHECKING:
    from onnx import NodeProto

CALIBRATION_ROWS = 512
CALIBRATION_BATCH = 64
LARGEST_HALF = 65_504.0
HALF = ":fp16"


def write_fp16(source: Path, target: Path, given: Inputs) -> None:
    """Layers, and what lies between two of them, in float16. Raises Misconfigured for weights beyond its range."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = bare(source)
    graph = model.graph
    floats, core = float_values(model), Layers(graph).core()
    weights = {one.name: one for one in graph.initializer}
    asked = {output.name for output in graph.output}
    asked |= {name for node in graph.node if node.name not in core for name in node.input}
    nodes: list[NodeProto] = []
    halved: set[str] = set()
    for node in list(graph.node):
        if node.name not in core:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if name not in floats:
                continue
            if name not in halved and name in weights:
                value = numpy_helper.to_array(weights[name])
                if not is_within(value, LARGEST_HALF):
                    raise Misconfigured(f"{name} holds numbers beyond the range of float16")
                graph.initializer.append(numpy_helper.from_array(value.astype(np.float16), name + HALF))
            elif name not in halved:
                nodes.append(helper.make_node("Cast", [name], [name + HALF], name + HALF, to=TensorProto.FLOAT16))
            halved.add(name)
            node.input[index] = name + HALF
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in floats:
                halved.add(name)
                node.output[index] = name + HALF
                if name in asked:
                    nodes.append(helper.make_node("Cast", [name + HALF], [name], name + ":fp32", to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.save(model, target)


def write_int8_dynamic(source: Path, target: Path, given: Inputs) -> None:
    """Weights of dense layers in int8; activations quantized with a scale found anew for every batch.

    Convolutions stay in fp32: ONNX Runtime's ConvInteger is several times slower than its float kernel.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = bare(source)
    layers = Layers(model.graph).names(DENSE)
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=list(DENSE),
        # The quantizer splits a Gemm into a MatMul and an Add first, and looks for the MatMul's name.
        nodes_to_quantize=[*layers, *(f"{name}_MatMul" for name in layers)],
        per_channel=True,
        weight_type=QuantType.QUInt8,
    )


def write_int8_static(source: Path, target: Path, given: Inputs, inner: bool = False) -> None:
    """Weights and activations of the layers in int8, with scales calibrated on `given` (raw, on-policy).

    Weights are unsigned: signed ones overflow 16-bit sums on x86 CPUs without VNNI, and the same file would act
    differently from machine to machine. Sums of dense layers stay in fp32, so that logits and means are not rounded.
    With `inner`, the first and the last layers stay in fp32.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class OnPolicy(CalibrationDataReader):
        def __init__(self, batches: Iterator[dict[str, Array]]) -> None:
            self._batches = batches

        def get_next(self) -> dict[str, Array] | None:
            return next(self._batches, None)

    model = bare(source)
    layers = Layers(model.graph).names(inner=inner)
    set_apart(model.graph, layers)
    spell_out_relus(model.graph, layers)
    rows = cast(repeat(spread(given, CALIBRATION_ROWS), CALIBRATION_ROWS), dtypes(open_session(source)))
    quantize_static(
        model,
        target,
        OnPolicy(take(rows, slice(at, at + CALIBRATION_BATCH)) for at in range(0, CALIBRATION_ROWS, CALIBRATION_BATCH)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(LAYERS),
        nodes_to_quantize=layers,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": list(DENSE)},
    )


@dataclass(frozen=True)
class Variant:
    """One reduced-precision form of a policy: its file and how it is written."""

    file: str
    write: Callable[[Path, Path, Inputs], None]


VARIANTS = {
    "fp16": Variant("policy.fp16.onnx", write_fp16),
    "int8-dynamic": Variant("policy.int8-dynamic.onnx", write_int8_dynamic),
    "int8-static": Variant("policy.int8-static.onnx", write_int8_static),
    "int8-static-inner": Variant("policy.int8-static-inner.onnx", partial(write_int8_static, inner=True)),
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the quantizer's prints, and its warnings through the root logger, which say nothing about this graph."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
