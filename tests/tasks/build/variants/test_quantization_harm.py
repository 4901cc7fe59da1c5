"""Public agents: where int8 would do harm, or gain nothing, the gate keeps it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.build.export.families import exporter_for
from tasks.build.export.formats import ONNX, write_formats
from tasks.build.training.agent import load_model
from tasks.build.training.environments import describe
from tasks.build.training.rollout import EVALUATION_SEED, play, thin
from tasks.build.training.zoo import find_vecnormalize
from tasks.build.variants.benchmark import measure_variants
from tasks.build.variants.quantize import quantize_policy
from tasks.build.variants.selection import choose
from tasks.spec.sections import Environment

AGENTS = Path(__file__).resolve().parents[5] / "shared" / "agents"
pytestmark = pytest.mark.skipif(
    not AGENTS.exists(), reason="the public agents (../shared/agents) are not on this machine"
)
INT8 = ("int8-dynamic", "int8-static", "int8-static-inner")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How the gate judges the variants of each agent, the loss tolerated being 1 % of fp32's mean return."""
    found = {}
    for name in ("dqn/CartPole-v1", "ppo/CartPole-v1", "ppo/MountainCarContinuous-v0", "sac/Pendulum-v1"):
        algorithm, environment = name.split("/")
        zip_path = AGENTS / algorithm / f"{environment}_1" / f"{environment}.zip"
        directory = tmp_path_factory.mktemp(name.replace("/", "-"))
        agent = load_model(zip_path, find_vecnormalize(zip_path), algorithm)
        exporter = exporter_for(agent)
        write_formats(exporter, directory)
        playground = Environment(id=environment)
        given = thin(
            play(playground, agent.decide, range(EVALUATION_SEED, EVALUATION_SEED + 16), exporter.inputs), 4_096
        ).inputs
        space = describe(exporter.action_space)
        found[name] = {
            "directory": directory,
            "given": given,
            "variants": quantize_policy(
                directory / ONNX, given, space, exporter.inputs, playground, None, directory, episodes=16
            ),
        }
    return found


@pytest.mark.parametrize("variant", INT8)
def test_int8_of_dqn_cartpole_is_rejected_for_its_actions(judged: dict[str, Any], variant: str) -> None:
    entry = judged["dqn/CartPole-v1"]["variants"][variant]
    assert not entry["accepted_actions"]
    assert "of actions weighted by their margin" in entry["reason"]
    assert entry["weighted_agreement"] < 0.95


def test_some_int8_of_dqn_cartpole_loses_most_of_its_return(judged: dict[str, Any]) -> None:
    entry = judged["dqn/CartPole-v1"]["variants"]["int8-static-inner"]
    assert entry["return_difference"]["upper"] < -100
    assert "its return differs by -" in entry["reason"]


@pytest.mark.parametrize("name", ["ppo/CartPole-v1", "sac/Pendulum-v1", "ppo/MountainCarContinuous-v0"])
def test_dynamic_int8_is_rejected_because_its_actions_depend_on_the_batch(judged: dict[str, Any], name: str) -> None:
    entry = judged[name]["variants"]["int8-dynamic"]
    assert entry["batch_invariant"] is False
    assert entry["return_difference"] is None
    assert not entry["accepted_actions"]


@pytest.mark.parametrize("variant", INT8)
def test_int8_of_a_small_sac_policy_is_rejected_for_its_errors(judged: dict[str, Any], variant: str) -> None:
    entry = judged["sac/Pendulum-v1"]["variants"][variant]
    assert not entry["accepted_actions"]
    assert "of its action error is" in entry["reason"]


def test_a_variant_that_acts_like_fp32_but_gains_nothing_is_rejected_for_that(judged: dict[str, Any]) -> None:
    found = judged["ppo/CartPole-v1"]
    inner = found["variants"]["int8-static-inner"]
    assert inner["accepted_actions"], inner["reason"]
    directory = found["directory"]
    graphs = {"fp32": directory / ONNX, "int8-static-inner": directory / inner["file"]}
    measured = measure_variants(graphs, directory / ONNX, found["given"], 64, directory)
    selection = choose(measured, {"int8-static-inner": inner}, 64, slo_ms=10_000)
    assert selection.accepted == ["fp32"]
    assert "int8-static-inner was rejected: gains nothing" in selection.reason
