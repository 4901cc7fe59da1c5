"""A package whose graph is not what its manifest says, or asks for what nobody knows, is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bentos.package.digests import read_manifest, write_manifest
from bentos.package.loader import load
from bentos.package.manifest import PackageError, Tensor
from tests.bentos.policy_packages import discrete_graph, write_package


def _graph(inputs: list[tuple[str, int, list[Any]]], outputs: list[tuple[str, int, list[Any]]]) -> onnx.ModelProto:
    model = discrete_graph(np.zeros((4, 2)), [0, 0])
    model.graph.input.extend(helper.make_tensor_value_info(*one) for one in inputs)
    for name, kind, shape in outputs:
        model.graph.node.append(helper.make_node("Identity", ["logits"], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return model


def _declare(directory: Path, **changes: Any) -> None:
    write_manifest(directory, msgspec.structs.replace(read_manifest(directory), **changes))


OBSERVATION = Tensor("observation", "float32", (4,))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((OBSERVATION, Tensor("temperature", "float32", ())), r"declares unknown inputs \['temperature'\]"),
        ((), r"missing inputs \['observation'\]"),
        ((Tensor("observation.x", "float32", (4,)),), r"unknown inputs \['observation.x'\] and missing"),
        ((Tensor("observation", "float32", (3,)),), "its spaces ask for"),
        ((OBSERVATION, Tensor("action_mask", "bool", (3,))), r"shape=\(2,\)"),
        ((OBSERVATION, Tensor("action_mask", "bool", (2,))), r"the graph has missing inputs \['action_mask'\]"),
        ((OBSERVATION, Tensor("state_h", "float32", (1, 8))), r"missing inputs \['episode_start', 'state_c'\]"),
    ],
)
def test_inputs_that_nobody_can_feed_are_named(tmp_path: Path, inputs: tuple[Tensor, ...], words: str) -> None:
    write_package(tmp_path / "package")
    _declare(tmp_path / "package", inputs=inputs)
    with pytest.raises(PackageError, match=words):
        load(tmp_path / "package")


def test_an_input_of_the_graph_alone_is_named(tmp_path: Path) -> None:
    write_package(tmp_path / "package", graph=_graph([("noise", TensorProto.FLOAT, ["n", 1])], []))
    with pytest.raises(PackageError, match=r"the graph has unknown inputs \['noise'\]"):
        load(tmp_path / "package")


def test_an_unknown_output_is_named(tmp_path: Path) -> None:
    write_package(tmp_path / "package", graph=_graph([], [("mood", TensorProto.FLOAT, ["n", 2])]))
    with pytest.raises(PackageError, match=r"unknown outputs \['mood'\]; known are \['action'"):
        load(tmp_path / "package")


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ((Tensor("action", "int64", ()), Tensor("finite", "bool", ())), r"unknown outputs \['logits'\]"),
        (
            (Tensor("action", "int32", ()), Tensor("finite", "bool", ()), Tensor("logits", "float32", (2,))),
            "expected the output .*int64",
        ),
    ],
)
def test_outputs_must_be_as_declared(tmp_path: Path, outputs: tuple[Tensor, ...], words: str) -> None:
    write_package(tmp_path / "package")
    _declare(tmp_path / "package", outputs=outputs)
    with pytest.raises(PackageError, match=words):
        load(tmp_path / "package")
