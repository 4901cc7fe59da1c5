"""Quantization: a variant is accepted when it acts, returns and batches like fp32, and says why when it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bentos.package.manifest import Space
from tasks.build.export.graph import decider, open_session
from tasks.build.variants.quantize import compare_actions, is_batch_invariant, keeps_flags, margins, quantize_policy
from tasks.inputs import Decide, Inputs
from tasks.spec.sections import Environment

Array = np.ndarray[Any, Any]
DISCRETE = Space("Discrete", "int64", n=2)
CARTPOLE = Environment(id="CartPole-v1")


def _linear_policy(path: Path, weights: Array) -> Path:
    """An ONNX policy of one layer, logits = observation · weights, in the shape that the exporter gives."""
    nodes = [
        helper.make_node("MatMul", ["observation", "weights"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=0),
        helper.make_node("Sub", ["logits", "logits"], ["zero"]),
        helper.make_node("ReduceSum", ["zero", "axis"], ["sum"], keepdims=0),
        helper.make_node("Equal", ["sum", "nothing"], ["finite"]),
    ]
    constants = {"weights": weights, "axis": np.array([1]), "nothing": np.float32(0)}
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [
            helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("finite", TensorProto.BOOL, ["batch"]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weights.shape[1]]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Variants of a CartPole policy that leans on the small differences that int8 loses."""
    directory = tmp_path_factory.mktemp("quantized")
    weights = np.array([[-0.5, 0.5], [-1, 1], [-8, 8], [-2, 2]], np.float32)
    reference = _linear_policy(directory / "policy.onnx", weights)
    generator = np.random.default_rng(0)
    observations = (generator.normal(size=(2048, 4)) * [1.0, 1.0, 0.1, 1.0]).astype(np.float32)
    found = quantize_policy(reference, {"observation": observations}, DISCRETE, (), CARTPOLE, 15, directory, episodes=8)
    return directory, found


def test_every_variant_is_written_and_judged(quantized: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    directory, found = quantized
    assert set(found) == {"fp16", "int8-dynamic", "int8-static", "int8-static-inner"}
    for name in ("fp16", "int8-dynamic", "int8-static"):
        entry = found[name]
        assert (directory / entry["file"]).stat().st_size == entry["size_bytes"]
        assert {"agreement", "weighted_agreement", "return_difference", "batch_invariant", "reason"} <= set(entry)
        action = decider(directory / entry["file"])({"observation": np.zeros((3, 4), np.float32)})["action"]
        assert (action.dtype, action.shape) == (np.int64, (3,))


def test_a_policy_of_one_layer_has_none_inside(quantized: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    inner = quantized[1]["int8-static-inner"]
    assert inner["file"] is None
    assert "no layer of type Gemm, MatMul, Conv between its first and its last" in inner["reason"]


def test_fp16_keeps_the_dtypes_of_inputs_and_outputs(quantized: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    session = open_session(quantized[0] / "policy.fp16.onnx")
    assert session.get_inputs()[0].type == "tensor(float)"
    assert {output.name: output.type for output in session.get_outputs()} == {
        "action": "tensor(int64)",
        "finite": "tensor(bool)",
        "logits": "tensor(float)",
    }


def test_int8_whose_scale_depends_on_the_batch_is_rejected_for_it(
    quantized: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    dynamic = quantized[1]["int8-dynamic"]
    assert dynamic["batch_invariant"] is False
    assert dynamic["accepted_actions"] is False
    assert "depends on which other observations share the batch" in dynamic["reason"]
    assert quantized[1]["int8-static"]["batch_invariant"] is True


def test_a_policy_that_looks_at_its_neighbours_is_not_batch_invariant() -> None:
    given = {"observation": np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)}

    def above(threshold: Callable[[Array], Any]) -> Decide:
        return lambda rows: {"action": (rows["observation"][:, 0] > threshold(rows["observation"])).astype(np.int64)}

    assert is_batch_invariant(DISCRETE, above(lambda _: 0.0), given)
    assert not is_batch_invariant(DISCRETE, above(lambda rows: rows.mean()), given)


def test_a_graph_that_a_converter_cannot_take_loses_only_that_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.build.variants.writers import VARIANTS, Variant

    def fail(source: Path, target: Path, given: Inputs) -> None:
        target.write_bytes(b"half")
        raise ValueError("no such operator")

    monkeypatch.setitem(VARIANTS, "fp16", Variant("policy.fp16.onnx", fail))
    reference = _linear_policy(tmp_path / "policy.onnx", np.eye(4, 2, dtype=np.float32))
    observations = np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32)
    found = quantize_policy(reference, {"observation": observations}, DISCRETE, (), CARTPOLE, 15, tmp_path, episodes=2)
    assert found["fp16"] == {
        "accepted_actions": False,
        "reason": "cannot be made for this graph: ValueError: no such operator",
        "file": None,
    }
    assert not (tmp_path / "policy.fp16.onnx").exists()
    assert found["int8-static"]["file"]


def test_without_its_environment_no_variant_is_accepted(tmp_path: Path) -> None:
    reference = _linear_policy(tmp_path / "policy.onnx", np.eye(4, 2, dtype=np.float32))
    observations = np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32)
    for environment, said in (
        (None, "its return was not measured: the environment is not known"),
        (Environment(id="Nowhere-v0"), "its return was not measured: environment 'Nowhere-v0' cannot be made"),
    ):
        found = quantize_policy(
            reference, {"observation": observations}, DISCRETE, (), environment, None, tmp_path, episodes=2
        )
        assert not any(entry["accepted_actions"] for entry in found.values())
        assert said in found["fp16"]["reason"]


def test_a_loss_within_one_percent_is_tolerated_where_no_spec_says_how_much(tmp_path: Path) -> None:
    weights = np.array([[0, 0], [-0.1, 0.1], [-1, 1], [-0.6, 0.6]], np.float32)
    reference = _linear_policy(tmp_path / "policy.onnx", weights)
    observations = np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32)
    found = quantize_policy(reference, {"observation": observations}, DISCRETE, (), CARTPOLE, None, tmp_path, 2)
    assert found["fp16"]["accepted_actions"], found["fp16"]["reason"]


@pytest.mark.parametrize(
    ("space", "outputs", "expected"),
    [
        (DISCRETE, {"logits": [[3.0, 1.0], [0.0, 0.5]]}, [[2.0], [0.5]]),
        (DISCRETE, {"q_values": [[3.0, -1e8], [0.0, 0.5]]}, [[0.5], [0.5]]),
        (Space("MultiDiscrete", "int64", (2,), nvec=(2, 3)), {"logits": [[1.0, 0.0, 1.0, 4.0, 2.0]]}, [[1.0, 2.0]]),
        (Space("MultiBinary", "int8", (2,), n=2), {"logits": [[-3.0, 0.5]]}, [[3.0, 0.5]]),
        (Space("MultiBinary", "int8", (2,), n=2), {"logits": [[0.0, 3.0, 0.5, 0.0]]}, [[3.0, 0.5]]),
        (Space("MultiBinary", "int8", (2,), n=2), {}, [[1.0, 1.0]]),
    ],
)
def test_a_margin_is_how_far_the_best_is_ahead_of_the_runner_up(
    space: Space, outputs: dict[str, Any], expected: list[list[float]]
) -> None:
    given = {name: np.array(value) for name, value in outputs.items()}
    given["action"] = np.zeros((len(expected), *space.shape), np.int64)
    assert margins(space, given).tolist() == expected


def test_a_disagreement_weighs_what_fp32s_margin_is() -> None:
    reference = {"action": np.array([1, 1]), "logits": np.array([[0.0, 9.0], [0.0, 1.0]])}
    close, clear = (compare_actions(DISCRETE, reference, np.array(actions)) for actions in ([1, 0], [0, 1]))
    assert (close.agreement, clear.agreement) == (0.5, 0.5)
    assert close.weighted_agreement == pytest.approx(0.9)
    assert clear.weighted_agreement == pytest.approx(0.1)


def test_a_variant_that_trusts_what_fp32_does_not_loses_its_flags() -> None:
    given = {"observation": np.ones((4, 3), np.float32)}

    def strict(rows: Inputs) -> Inputs:
        return {"finite": np.isfinite(rows["observation"]).all(axis=1)}

    def trusting(rows: Inputs) -> Inputs:
        return {"finite": ~np.isnan(rows["observation"]).any(axis=1)}

    def doubting(rows: Inputs) -> Inputs:
        return {"finite": np.zeros(len(rows["observation"]), bool)}

    assert keeps_flags(strict, strict, given)
    assert not keeps_flags(strict, trusting, given)
    assert not keeps_flags(strict, doubting, given)


def test_quantizing_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys, tasks.build.variants.quantize, tasks.build.packaging.assemble, tasks.build.variants.measure\n"
        "import onnxruntime.quantization\n"
        "sys.exit('torch' in sys.modules or 'stable_baselines3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
