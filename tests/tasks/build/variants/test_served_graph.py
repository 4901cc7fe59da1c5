"""Served graphs: cut where that changes no bit of what serving asks for, and the whole graph elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from onnx import ModelProto, numpy_helper

from tasks.build.export.cases import cases
from tasks.build.export.families import exporter_for
from tasks.build.export.formats import ONNX, write_formats
from tasks.build.export.graph import decider
from tasks.build.export.parity import groups
from tasks.build.training.agent import Agent
from tasks.build.training.environments import describe
from tasks.build.variants import layers, served_graph
from tasks.build.variants.served_graph import differing, write_served
from tasks.inputs import Inputs, take
from tests.tasks.agents import ASYMMETRIC, DICT, agent

AGENTS: dict[str, Any] = {
    "masked": lambda: agent("ppo_mask", spaces.Discrete(4)),
    "recurrent": lambda: agent("ppo_lstm", spaces.Discrete(4), policy="MlpLstmPolicy"),
    "dict": lambda: agent("ppo", spaces.Discrete(4), DICT, policy="MultiInputPolicy"),
    "squashed": lambda: agent("sac", ASYMMETRIC),
}
SERVED = {
    "masked": ["action", "finite", "logits"],
    "recurrent": ["action", "finite", "logits", "next_state_h", "next_state_c"],
    "dict": ["action", "finite", "logits"],
    "squashed": ["action", "finite", "mean"],
}


def _written(policy: Agent, directory: Path) -> tuple[Path, Inputs]:
    exporter = exporter_for(policy)
    write_formats(exporter, directory)
    space = describe(exporter.action_space)
    rows = cases(exporter.observation_space, exporter.inputs, policy.normalizer, None, groups(space)).usual
    return directory / ONNX, take(rows, slice(300))


@pytest.mark.parametrize("kind", AGENTS)
def test_a_served_graph_has_what_serving_asks_for_bit_for_bit(kind: str, tmp_path: Path) -> None:
    graph, given = _written(AGENTS[kind](), tmp_path)
    served = write_served(graph, given, tmp_path)
    assert served == tmp_path / "policy.served.onnx"
    onnx.checker.check_model(onnx.load(served))
    expected, found = decider(graph)(given), decider(served)(given)
    assert list(found) == SERVED[kind]
    assert set(expected) - set(found) <= {"value", "log_prob", "log_std"}
    for name, values in found.items():
        assert values.tobytes() == expected[name].tobytes()
    assert len(onnx.load(served).graph.node) < len(onnx.load(graph).graph.node)
    again = served.read_bytes()
    assert write_served(graph, given, tmp_path).read_bytes() == again


def test_a_policy_that_explores_keeps_its_deviation(tmp_path: Path) -> None:
    graph, given = _written(AGENTS["squashed"](), tmp_path)
    assert list(decider(write_served(graph, given, tmp_path, explore=True))(given)) == [*SERVED["squashed"], "log_std"]


def test_a_graph_with_nothing_to_leave_out_is_served_whole(tmp_path: Path) -> None:
    graph, given = _written(agent("dqn", spaces.Discrete(3)), tmp_path)
    assert write_served(graph, given, tmp_path) == graph
    assert not (tmp_path / "policy.served.onnx").exists()


def test_a_graph_that_answers_otherwise_once_it_is_cut_is_served_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graph, given = _written(AGENTS["squashed"](), tmp_path)

    def cut(model: ModelProto, outputs: list[str]) -> ModelProto:
        found = layers.cut(model, outputs)
        name = layers.Layers(found.graph).layers[-1].input[2]
        (bias,) = [one for one in found.graph.initializer if one.name == name]
        bias.CopyFrom(numpy_helper.from_array(np.nextafter(numpy_helper.to_array(bias), np.float32(9)), name))
        return found

    monkeypatch.setattr(served_graph, "cut", cut)
    assert write_served(graph, given, tmp_path) == graph
    assert not (tmp_path / "policy.served.onnx").exists()
    assert "policy.onnx is served whole: cut, it answers with another action, mean" in caplog.text


def test_two_graphs_of_one_policy_differ_in_nothing(tmp_path: Path) -> None:
    graph, given = _written(AGENTS["masked"](), tmp_path)
    assert differing(graph, graph, given) == []
