"""The package made to break: NaN on one observation, untouched on all others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper

from bentos.package.digests import digest_files, write_manifest
from bentos.package.loader import load
from bentos.package.session import Policy
from tasks.checklist.fuzz import bad_requests, extreme_questions
from tasks.checklist.poison import _break, poison
from tasks.inputs import take


@pytest.fixture
def broken(package: Policy, tmp_path: Path) -> Policy:
    marker = take(package.baseline().inputs, slice(7, 8))
    return load(poison(package.directory, package.manifest, marker, tmp_path / "broken"))


def test_the_marked_observation_alone_is_not_finite(package: Policy, broken: Policy) -> None:
    observations = package.baseline().inputs["observation"][:32]
    outputs = broken.run({"observation": observations})
    expected = np.ones(32, dtype=bool)
    expected[7] = False
    assert (outputs["finite"] == expected).all()
    assert np.isnan(outputs["logits"][7]).all()


def test_a_package_with_a_graph_of_its_own_to_serve_breaks_where_it_is_served(package: Policy, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(package.directory, whole)
    shutil.copy(whole / "policy.onnx", whole / "policy.served.onnx")
    manifest = structs.replace(package.manifest, files=digest_files(whole), served={"fp32": "policy.served.onnx"})
    write_manifest(whole, manifest)
    inputs = package.baseline().inputs
    broken = load(poison(whole, manifest, take(inputs, slice(7, 8)), tmp_path / "broken"))
    with pytest.raises(ValueError, match="not finite"):
        broken.predict(inputs["observation"][7])


def test_everywhere_else_nothing_changed(package: Policy, broken: Policy) -> None:
    observations = np.delete(package.baseline().inputs["observation"][:500], 7, axis=0)
    whole, changed = package.run({"observation": observations}), broken.run({"observation": observations})
    for name, values in whole.items():
        np.testing.assert_array_equal(values, changed[name])


def test_the_original_package_is_left_alone(package: Policy, broken: Policy) -> None:
    assert load(package.directory).predict(package.baseline().inputs["observation"][7]) is not None
    assert package.manifest.files["policy.onnx"] != broken.manifest.files["policy.onnx"]


def test_continuous_actions_break_too() -> None:
    weights = numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "weights")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["observation", "weights"], ["action"]),
            helper.make_node("ReduceSum", ["observation", "axes"], ["total"], keepdims=0),
            helper.make_node("Equal", ["total", "total"], ["finite"]),
        ],
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("finite", TensorProto.BOOL, ["batch"]),
        ],
        [weights, numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    marker = np.array([1, 2, 3], dtype=np.float32)
    _break(model, {"observation": marker})
    onnx.checker.check_model(model)
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString())
    action, finite = session.run(["action", "finite"], {"observation": np.stack([marker, marker + 1])})
    assert finite.tolist() == [False, True]
    assert np.isnan(action[0]).all()
    assert action[1].tolist() == [2.0, 3.0]


def test_extreme_observations_stay_valid_and_reach_far(package: Policy) -> None:
    questions = extreme_questions(package.baseline().inputs, package.manifest, 2_000)
    found, masks = questions["observation"], questions["action_mask"]
    assert found.shape == (2_000, 4)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert abs(found).max() > 1e5
    assert (found == 0).all(axis=1).any()
    assert masks.any(axis=1).all()
    assert not masks.all(axis=0).any(), "every action is forbidden somewhere"


def test_bad_requests_differ_and_cover_every_route_that_takes_a_body(package: Policy) -> None:
    found = list(bad_requests(package.manifest, [0.0] * 4, stateful=True))
    assert len({bad.name for bad in found}) == len(found) > 30
    assert {bad.path.rsplit("/", 1)[1] for bad in found} >= {"act", "outcomes", "episodes"}
