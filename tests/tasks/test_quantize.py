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

from bentos.package import Space
from tasks.graph import decider, open_session
from tasks.inputs import Decide, Inputs
from tasks.parity import Difference
from tasks.quantize import Evidence, ReturnDifference, is_batch_invariant, judge, quantize_policy
from tasks.spec import Environment

Array = np.ndarray[Any, Any]
DISCRETE = Space("Discrete", "int64", n=2)
CARTPOLE = Environment(id="CartPole-v1")
SAME = ReturnDifference(32, 0.0, -1.0, 1.0)


@pytest.mark.parametrize(
    ("evidence", "discrete", "said"),
    [
        (Evidence(Difference(100, 0.994, 1, 1), SAME, True), True, "agrees with fp32 on 99.40% of actions"),
        (Evidence(Difference(100, 1, 0.5, 0.011), SAME, True), False, "99th percentile of its action error is 1.10%"),
        (Evidence(Difference(100, 1, 0.5, float("nan")), SAME, True), False, "99th percentile of its action error"),
        (Evidence(Difference(100, 1, 0, 0), SAME, False), True, "depends on which other observations share the batch"),
        (
            Evidence(Difference(100, 1, 0, 0), ReturnDifference(32, -2, -15.1, 3), True),
            True,
            "return differs by -2.00 [-15.10, 3.00], which does not exclude a loss of more than 15",
        ),
    ],
)
def test_each_way_of_being_unlike_fp32_rejects_a_variant_by_itself(
    evidence: Evidence, discrete: bool, said: str
) -> None:
    accepted, reason = judge(evidence, discrete, tolerated_loss=15)
    assert not accepted
    assert said in reason
    assert ";" not in reason


@pytest.mark.parametrize(
    "evidence",
    [Evidence(Difference(100, 0.995, 1, 0), SAME, True), Evidence(Difference(100, 1, 0.5, 0.01), SAME, True)],
)
def test_a_variant_at_every_limit_is_accepted(evidence: Evidence) -> None:
    assert judge(evidence, discrete=evidence.actions.agreement < 1, tolerated_loss=1.0)[0]


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


def test_three_variants_are_written_and_judged(quantized: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    directory, found = quantized
    assert set(found) == {"fp16", "int8-dynamic", "int8-static"}
    for entry in found.values():
        assert (directory / entry["file"]).stat().st_size == entry["size_bytes"]
        assert {"agreement", "return_difference", "batch_invariant", "reason"} <= set(entry)
        action = decider(directory / entry["file"])({"observation": np.zeros((3, 4), np.float32)})["action"]
        assert (action.dtype, action.shape) == (np.int64, (3,))


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
    from tasks import quantize

    def fail(source: Path, target: Path, given: Inputs) -> None:
        target.write_bytes(b"half")
        raise ValueError("no such operator")

    monkeypatch.setitem(quantize.VARIANTS, "fp16", quantize.Variant("policy.fp16.onnx", fail))
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


def test_quantizing_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys, tasks.quantize, tasks.select, tasks.measurement, onnxruntime.quantization, "
        "onnxruntime.transformers.float16\n"
        "sys.exit('torch' in sys.modules or 'stable_baselines3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
