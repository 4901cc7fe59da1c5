"""Variants: every kind of policy keeps its inputs, outputs, masks, memory, normalizer and flags in every precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from gymnasium import spaces
from onnx import TensorProto, numpy_helper

from bentos.package.manifest import Space
from bentos.package.session import session_options
from tasks.build.export.cases import cases
from tasks.build.export.families import exporter_for
from tasks.build.export.formats import ONNX, write_formats
from tasks.build.export.graph import decider
from tasks.build.export.parity import groups
from tasks.build.training.agent import Agent
from tasks.build.training.environments import describe
from tasks.build.variants.layers import ANSWER, Layers, bare, check_interface, cut
from tasks.build.variants.quantize import compare_actions, is_batch_invariant, keeps_flags
from tasks.build.variants.writers import VARIANTS, quiet, write_fp16
from tasks.errors import Misconfigured
from tasks.inputs import MASK, Inputs, in_batches, take
from tests.tasks.agents import DICT, IMAGE, VECTOR, agent


def _normalized() -> Agent:
    """A policy under statistics that float32, let alone float16, has no digits for: mean 1e6, deviation 0.1."""
    found = agent("ppo", spaces.Discrete(4), VECTOR, normalize={})
    assert found.normalizer is not None
    found.normalizer.obs_rms.mean[:] = 1e6
    found.normalizer.obs_rms.var[:] = 0.01
    return found


AGENTS: dict[str, Callable[[], Agent]] = {
    "masked": lambda: agent("ppo_mask", spaces.Discrete(4)),
    "recurrent": lambda: agent("ppo_lstm", spaces.Discrete(4), policy="MlpLstmPolicy"),
    "image": lambda: agent("dqn", spaces.Discrete(4), IMAGE, policy="CnnPolicy"),
    "dict": lambda: agent("ppo", spaces.Discrete(4), DICT, policy="MultiInputPolicy"),
    "normalized": _normalized,
}


@dataclass(frozen=True)
class Written:
    """A policy and its variants as files, and rows to ask them with."""

    kind: str
    directory: Path
    given: Inputs
    space: Space

    def path(self, variant: str = "fp32") -> Path:
        return self.directory / (ONNX if variant == "fp32" else VARIANTS[variant].file)


@pytest.fixture(scope="module", params=AGENTS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    directory = tmp_path_factory.mktemp(request.param)
    policy = AGENTS[request.param]()
    exporter = exporter_for(policy)
    write_formats(exporter, directory)
    space = describe(exporter.action_space)
    rows = cases(exporter.observation_space, exporter.inputs, policy.normalizer, None, groups(space)).usual
    found = Written(request.param, directory, take(rows, slice(512)), space)
    for name, variant in VARIANTS.items():
        with quiet():
            variant.write(found.path(), found.path(name), found.given)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_keeps_the_interface_and_the_flags_and_acts_much_like_fp32(written: Written, variant: str) -> None:
    onnx.checker.check_model(onnx.load(written.path(variant)))
    check_interface(written.path(), written.path(variant), written.given)
    exact, decide = decider(written.path()), decider(written.path(variant))
    assert keeps_flags(exact, decide, written.given)
    reference, outputs = (in_batches(one, written.given, 64) for one in (exact, decide))
    assert compare_actions(written.space, reference, outputs["action"]).weighted_agreement > 0.98
    assert any((outputs[name] != reference[name]).any() for name in outputs), "the variant is fp32 itself"


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_the_action_does_not_come_from_is_left_as_it_is(written: Written, variant: str) -> None:
    rows = take(written.given, slice(64))
    reference, outputs = decider(written.path())(rows), decider(written.path(variant))(rows)
    if "value" in outputs and written.kind != "dict":  # the parts of a Dict share a features extractor with the action
        assert outputs["value"] == pytest.approx(reference["value"], rel=1e-6)
    if MASK in rows:
        assert (rows[MASK][np.arange(64), outputs["action"]]).all()
        assert (outputs["logits"][~rows[MASK]] == np.float32(-1e8)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_normalizer_keeps_computing_in_float64(written: Written, variant: str) -> None:
    if written.kind != "normalized":
        pytest.skip("has no statistics")
    weights = {one.name: one.data_type for one in onnx.load(written.path(variant)).graph.initializer}
    assert [kind for name, kind in weights.items() if "normalize" in name] == [TensorProto.DOUBLE] * 2


@pytest.mark.parametrize("variant", ["int8-dynamic", "int8-static", "int8-static-inner"])
def test_integer_weights_are_unsigned_so_that_no_machine_overflows(written: Written, variant: str) -> None:
    kinds = {one.data_type for one in onnx.load(written.path(variant)).graph.initializer if len(one.dims) > 1}
    assert TensorProto.UINT8 in kinds
    assert TensorProto.INT8 not in kinds


def test_static_int8_does_not_depend_on_the_batch(written: Written) -> None:
    assert is_batch_invariant(written.space, decider(written.path("int8-static")), written.given)


@pytest.mark.parametrize("variant", ["int8-static", "int8-static-inner"])
def test_integer_layers_are_computed_in_integers(written: Written, variant: str, tmp_path: Path) -> None:
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(written.path(variant)), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    weights = [node for node in nodes if node.op_type in ("QGemm", "QLinearConv", "MatMulIntegerToFloat")]
    assert len(weights) == len(Layers(bare(written.path()).graph).names(inner="inner" in variant))


def test_the_first_and_the_last_layers_stay_in_fp32_inside(written: Written) -> None:
    layers = Layers(bare(written.path()).graph)
    names = [node.name for node in layers.layers]
    assert len(set(layers.outermost)) >= 2
    assert set(layers.names(inner=True)) == set(names) - set(layers.outermost)
    kept = {one.name for one in onnx.load(written.path("int8-static-inner")).graph.initializer if one.data_type == 1}
    for node in layers.layers:
        assert (node.input[1] in kept) == (node.name in layers.outermost)


def test_weights_beyond_float16_are_refused(written: Written, tmp_path: Path) -> None:
    model = onnx.load(written.path())
    name = Layers(model.graph).layers[0].input[1]
    (weights,) = [one for one in model.graph.initializer if one.name == name]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1e8), name))
    onnx.save(model, tmp_path / ONNX)
    with pytest.raises(Misconfigured, match="beyond the range of float16"):
        write_fp16(tmp_path / ONNX, tmp_path / "fp16.onnx", written.given)


def test_a_variant_with_another_interface_is_named(written: Written, tmp_path: Path) -> None:
    model = onnx.load(written.path())
    del model.graph.output[-1]
    onnx.save(model, tmp_path / ONNX)
    with pytest.raises(Misconfigured, match="its outputs are"):
        check_interface(written.path(), tmp_path / ONNX, written.given)


def test_a_graph_cut_to_what_is_served_answers_the_same_with_less(written: Written, tmp_path: Path) -> None:
    model = bare(written.path())
    served = [name for name in ANSWER if name in {output.name for output in model.graph.output}]
    smaller = cut(model, served)
    onnx.save(smaller, tmp_path / ONNX)
    onnx.checker.check_model(smaller)
    rows = take(written.given, slice(64))
    expected, outputs = decider(written.path())(rows), decider(tmp_path / ONNX)(rows)
    assert list(outputs) == served
    for name in served:
        assert outputs[name] == pytest.approx(expected[name], abs=1e-6)
    assert len(smaller.graph.node) < len(model.graph.node) or written.kind == "image"
