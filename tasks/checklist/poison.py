"""A package that breaks on one observation: the real graph, but its outputs turn to NaN there.

Served beside the real one, it shows that the fallback answers when the policy cannot, and only then.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bentos.package.digests import MANIFEST, digest_files, write_manifest
from bentos.package.manifest import Manifest
from tasks.inputs import Array, Inputs, only_observations

GRAPH = "policy.onnx"


def poison(package: Path, manifest: Manifest, marker: Inputs, into: Path) -> Path:
    """A copy of `package` in `into`, serving the whole fp32 graph, which fails on observations equal to `marker`.

    There every floating-point output is NaN and `finite` is false; everywhere else nothing changes. `marker` is one row
    of observations, in all their parts.
    """
    import onnx

    into.mkdir(parents=True)
    for name in manifest.files:
        shutil.copy2(package / name, into / name)
    shutil.copy2(package / MANIFEST, into / MANIFEST)
    model = onnx.load(package / manifest.variants["fp32"])
    dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs}
    _break(model, {name: np.asarray(row[0], dtypes[name]) for name, row in only_observations(marker).items()})
    onnx.checker.check_model(model)
    onnx.save_model(model, into / GRAPH)
    changed = msgspec.structs.replace(
        manifest, files=digest_files(into), variants={"fp32": GRAPH}, shipped_variant="fp32", served={}
    )
    write_manifest(into, changed)
    return into


def _break(model: Any, marker: Mapping[str, Array]) -> None:
    """Rewrite a graph so that it fails where every input named in `marker` has just that value [*shape]."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    nodes, hits = [], []
    for number, (source, value) in enumerate(marker.items()):
        place = f"poison_{number}"
        compared = source
        if value.dtype.kind in "iub":  # ONNX Runtime compares no small integers
            compared, value = f"{place}_wide", value.astype(np.int64)
            nodes.append(helper.make_node("Cast", [source], [compared], to=TensorProto.INT64))
        graph.initializer.append(numpy_helper.from_array(value[None], f"{place}_marker"))
        axes = np.arange(1, value.ndim + 1, dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(axes, f"{place}_axes"))
        nodes += [
            helper.make_node("Equal", [compared, f"{place}_marker"], [f"{place}_equal"]),
            helper.make_node("Cast", [f"{place}_equal"], [f"{place}_whole"], to=TensorProto.INT32),
            helper.make_node("ReduceMin", [f"{place}_whole", f"{place}_axes"], [f"{place}_all"], keepdims=0)
            if value.ndim
            else helper.make_node("Identity", [f"{place}_whole"], [f"{place}_all"]),
        ]
        hits.append(f"{place}_all")
    hit = "poison_hit"
    nodes += [
        helper.make_node("Min", hits, ["poison_least"]),
        helper.make_node("Cast", ["poison_least"], [hit], to=TensorProto.BOOL),
        helper.make_node("Not", [hit], ["poison_clear"]),
    ]
    for output in graph.output:
        kind = output.type.tensor_type.elem_type
        rank = len(output.type.tensor_type.shape.dim)
        inner = f"poison_inner_{output.name}"
        if output.name == "finite":
            _rename(graph, output.name, inner)
            nodes.append(helper.make_node("And", [inner, "poison_clear"], [output.name]))
        elif kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            _rename(graph, output.name, inner)
            nan = np.array(np.nan, dtype=helper.tensor_dtype_to_np_dtype(kind))
            shape = np.array([-1, *([1] * (rank - 1))], dtype=np.int64)
            graph.initializer.extend(
                [
                    numpy_helper.from_array(nan, f"poison_nan_{output.name}"),
                    numpy_helper.from_array(shape, f"poison_shape_{output.name}"),
                ]
            )
            nodes += [
                helper.make_node("Reshape", [hit, f"poison_shape_{output.name}"], [f"poison_hit_{output.name}"]),
                helper.make_node(
                    "Where", [f"poison_hit_{output.name}", f"poison_nan_{output.name}", inner], [output.name]
                ),
            ]
    graph.node.extend(nodes)


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
