"""Export: all formats act as SB3's `predict` does, whatever the algorithm, the spaces and the normalization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gymnasium import spaces

from tasks.build.export.cases import cases
from tasks.build.export.families import exporter_for
from tasks.build.export.formats import Exported, export_policy, load_formats
from tasks.build.export.graph import open_session
from tasks.build.training.agent import Agent
from tasks.errors import Misconfigured, Rejected
from tasks.inputs import Inputs, Outputs
from tasks.spec.params import Params
from tasks.stages.artifacts import EXPORT, fetch_agent
from tasks.stages.evaluate import evaluate
from tasks.stages.export import export
from tasks.stages.train import train
from tasks.tracking.release import Release
from tests.tasks.agents import ASYMMETRIC, DICT, VECTOR, agent

Array = np.ndarray[Any, Any]


def _observations(rows: int = 512) -> Array:
    return np.random.default_rng(3).normal(scale=2.0, size=(rows, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("algorithm", "action_space", "options"),
    [
        ("ppo", ASYMMETRIC, {"normalize": {}}),
        ("qrdqn", spaces.Discrete(4), {"normalize": {}, "policy_kwargs": {"n_quantiles": 7}}),
        (
            "sac",
            ASYMMETRIC,
            {"observation_space": DICT, "policy": "MultiInputPolicy", "normalize": {"norm_obs_keys": ["vector"]}},
        ),
        ("ppo_mask", spaces.MultiDiscrete([2, 3]), {}),
        ("ppo_lstm", ASYMMETRIC, {"policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_hidden_size": 8}}),
    ],
)
def test_every_format_acts_as_predict_does(
    algorithm: str, action_space: spaces.Space[Any], options: dict[str, Any], tmp_path: Path
) -> None:
    subject = agent(algorithm, action_space, **options)
    exported = export_policy(subject, tmp_path)
    assert exported.parity["equal"], exported.parity
    assert exported.parity["observations"] >= 4_096
    assert set(exported.parity["formats"]) == {"onnx", "torchscript", "pt2"}
    assert set(exported.parity["formats"]["onnx"]) == {"1", "2", "7", "64"}
    assert exported.outputs[0].shape == action_space.shape
    assert not list(tmp_path.glob("*.data"))


def test_the_proof_says_where_its_observations_come_from() -> None:
    exporter = exporter_for(agent("ppo", spaces.Discrete(2), normalize={}))
    space, interface, normalizer = exporter.observation_space, exporter.inputs, exporter.agent.normalizer
    few, many = ({"observation": _observations(rows)} for rows in (100, 5_000))
    assert cases(space, interface, normalizer, many).source == "on-policy"
    assert cases(space, interface, normalizer, few).source == "on-policy, 3996 of them perturbed"
    assert cases(space, interface, normalizer).source == "VecNormalize statistics"
    assert cases(space, interface).source == "observation space"


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_distribution_parameters_and_values_are_those_of_sb3(algorithm: str, tmp_path: Path) -> None:
    subject = agent(algorithm, ASYMMETRIC)
    export_policy(subject, tmp_path)
    session = open_session(tmp_path / "policy.onnx")
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"observation": _observations(64)}), strict=True))
    policy, tensor = subject.model.policy, torch.as_tensor(_observations(64))
    with torch.no_grad():
        if algorithm == "ppo":
            distribution = policy.get_distribution(tensor)
            mean, std = distribution.distribution.mean, distribution.distribution.stddev
            log_prob = distribution.log_prob(mean)
            assert np.allclose(found["value"], policy.predict_values(tensor).numpy().flatten(), atol=1e-5)
        else:
            mean, log_std, _ = policy.actor.get_action_dist_params(tensor)
            std = log_std.exp()
            # SB3's own formula in float64: in float32 it cancels where tanh saturates.
            gaussian = torch.distributions.Normal(mean.double(), std.double()).log_prob(mean.double()).sum(dim=1)
            log_prob = gaussian - torch.log(1 - torch.tanh(mean.double()) ** 2 + 1e-6).sum(dim=1)
    assert np.allclose(found["mean"], mean.numpy(), atol=1e-5)
    assert np.allclose(np.exp(found["log_std"]), std.numpy(), rtol=1e-4)
    assert np.allclose(found["log_prob"], log_prob.numpy(), atol=1e-3)


@pytest.fixture(scope="module")
def discrete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """An exported PPO policy of three discrete actions."""
    directory = tmp_path_factory.mktemp("discrete")
    return directory, export_policy(agent("ppo", spaces.Discrete(3)), directory)


def test_nan_and_infinity_raise_the_flag_of_their_own_row_only(discrete: tuple[Path, Exported]) -> None:
    observations = _observations(5)
    observations[1, 2], observations[3, 0], observations[4, 4] = np.nan, np.inf, -np.inf
    finite = open_session(discrete[0] / "policy.onnx").run(["finite"], {"observation": observations})[0]
    assert finite.tolist() == [True, False, True, False, False]


def test_the_onnx_file_has_a_dynamic_batch_and_says_its_outputs(discrete: tuple[Path, Exported]) -> None:
    directory, exported = discrete
    model = onnx.load(directory / "policy.onnx")
    assert {entry.version for entry in model.opset_import if not entry.domain} == {exported.opset}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in exported.outputs} == {
        "action": ("int64", ()),
        "finite": ("bool", ()),
        "logits": ("float32", (3,)),
        "log_prob": ("float32", ()),
        "value": ("float32", ()),
    }


@pytest.mark.parametrize(
    ("raw_space", "said"),
    [
        (spaces.Box(-1, 1, (4,)), r"the environment observes \(4,\), but the model expects \(5,\)"),
        (spaces.Dict({"a": VECTOR}), r"observes \['observation.a'\], but the model expects \['observation'\]"),
    ],
)
def test_an_environment_that_observes_something_else_is_refused(raw_space: spaces.Space[Any], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        exporter_for(agent("ppo", spaces.Discrete(2)), raw_space)


def test_the_stage_keeps_files_and_proof_and_rejects_an_unequal_policy(
    mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_policy(train={"total_timesteps": 512}, evaluate={"episodes": 5, "minimum_mean_return": 0})
    release = Release.open(name, "run", Params())
    train(release)
    evaluate(release)
    assert export(release)["equal"] is True
    exporter = exporter_for(fetch_agent(release, tmp_path))
    formats = load_formats(release.fetch("export", tmp_path), exporter)
    zeros = {"observation": np.zeros((2, 4), np.float32)}
    assert {decide(zeros)["action"].shape for decide in formats.values()} == {(2,)}

    def opposite(self: Agent, given: Inputs) -> Outputs:
        return {"action": 1 - np.asarray(self.model.predict(given["observation"], deterministic=True)[0])}

    monkeypatch.setattr(Agent, "decide", opposite)
    with pytest.raises(Rejected, match=r"does not act as the original: .* 0\.00% of"):
        export(release)
    assert release.get_json(EXPORT)["parity"]["equal"] is False
