"""Export: all formats act as SB3's `predict` does, whatever the algorithm, the spaces and the normalization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnx
import pytest
import torch
from gymnasium import spaces

from tasks import parity, runs
from tasks.algorithms import algorithm_class
from tasks.cases import cases
from tasks.errors import Misconfigured, Rejected
from tasks.evaluate import evaluate
from tasks.export import EXPORT, Exported, export, export_policy, load_formats, torch_decider
from tasks.exporters import exporter_for
from tasks.exporters.base import EnvironmentAction
from tasks.exporters.preprocess import Normalize
from tasks.graph import open_session
from tasks.importing import Agent, fetch_agent
from tasks.inputs import Inputs, Outputs
from tasks.spaces import describe
from tasks.spec import Params
from tasks.train import train

Array = np.ndarray[Any, Any]
ASYMMETRIC = spaces.Box(np.array([-2.0, 0.0, -0.5], np.float32), np.array([1.0, 3.0, 0.5], np.float32))
VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)


class _Still(gymnasium.Env[Any, Any]):
    """An environment of nothing but its spaces."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def _agent(
    algorithm: str,
    action_space: spaces.Space[Any],
    observation_space: spaces.Space[Any] = VECTOR,
    statistics: tuple[Array, Array] | None = None,
    policy: str = "MlpPolicy",
    **arguments: Any,
) -> Agent:
    """An agent with weights far from their initial values, and VecNormalize statistics (mean, variance) if given."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vectorised: Any = DummyVecEnv([lambda: _Still(observation_space, action_space)])
    if statistics:
        vectorised = VecNormalize(vectorised, training=False)
        vectorised.obs_rms.mean, vectorised.obs_rms.var = statistics
    model: Any = algorithm_class(algorithm)(policy, vectorised, seed=1, device="cpu", **arguments)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.policy.set_training_mode(False)
    return Agent(algorithm, model, vectorised if statistics else None)


def _observations(rows: int = 512, scale: float = 2.0) -> Array:
    return np.random.default_rng(3).normal(scale=scale, size=(rows, 5)).astype(np.float32)


def _graph_proof(agent: Agent, observations: Array, raw_space: spaces.Space[Any] | None = None) -> dict[str, Any]:
    """The proof for the graph itself and its TorchScript; a full export of every case would take minutes."""
    exporter = exporter_for(agent, raw_space)
    graph = exporter.graph()
    traced = torch.jit.trace(graph, exporter.dummy(3), check_trace=False)
    formats = {"graph": torch_decider(graph, exporter), "torchscript": torch_decider(traced, exporter)}
    proved_on = cases(exporter.observation_space, exporter.inputs, agent.normalizer, {"observation": observations})
    original = parity.Original(agent.decide, exporter.original_parameters)
    return parity.prove(describe(agent.model.action_space), original, formats, proved_on)


@pytest.mark.parametrize(
    ("algorithm", "action_space", "arguments"),
    [
        ("ppo", spaces.MultiDiscrete([3, 2, 4]), {}),
        ("ppo", spaces.MultiBinary(3), {}),
        ("ppo", ASYMMETRIC, {"use_sde": True}),
        ("ppo", ASYMMETRIC, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        ("a2c", spaces.Discrete(4), {"policy_kwargs": {"net_arch": {"pi": [16], "vf": [8, 8]}}}),
        ("trpo", ASYMMETRIC, {"policy_kwargs": {"share_features_extractor": False}}),
        ("sac", ASYMMETRIC, {"buffer_size": 1, "use_sde": True}),
        ("tqc", ASYMMETRIC, {"buffer_size": 1}),
        ("crossq", ASYMMETRIC, {"buffer_size": 1}),
        ("td3", ASYMMETRIC, {"buffer_size": 1}),
        ("ddpg", ASYMMETRIC, {"buffer_size": 1}),
        ("dqn", spaces.Discrete(4), {"buffer_size": 1}),
        ("ars", spaces.Discrete(4), {}),
        ("ars", ASYMMETRIC, {}),
    ],
)
def test_the_graph_of_every_family_acts_as_predict_does(
    algorithm: str, action_space: spaces.Space[Any], arguments: dict[str, Any]
) -> None:
    proof = _graph_proof(_agent(algorithm, action_space, **arguments), _observations())
    assert proof["equal"], proof


@pytest.mark.parametrize(
    ("algorithm", "action_space", "arguments"),
    [
        ("ppo", ASYMMETRIC, {}),
        ("sac", ASYMMETRIC, {"buffer_size": 1}),
        ("qrdqn", spaces.Discrete(4), {"buffer_size": 1, "policy_kwargs": {"n_quantiles": 7}}),
    ],
)
def test_every_format_acts_as_predict_does(
    algorithm: str, action_space: spaces.Space[Any], arguments: dict[str, Any], tmp_path: Path
) -> None:
    statistics = (np.full(5, 1.0), np.full(5, 4.0))
    agent = _agent(algorithm, action_space, statistics=statistics, **arguments)
    exported = export_policy(agent, tmp_path, on_policy={"observation": _observations()})
    assert exported.parity["equal"], exported.parity
    assert set(exported.parity["formats"]) == {"onnx", "torchscript", "pt2"}
    assert set(exported.parity["formats"]["onnx"]) == {"1", "2", "7", "64"}
    assert exported.outputs[0].shape == action_space.shape
    assert not list(tmp_path.glob("*.data"))


@pytest.mark.parametrize(
    ("observation_space", "observations"),
    [
        (spaces.Discrete(6), np.arange(6)),
        (spaces.MultiDiscrete([3, 4]), np.stack(np.meshgrid(np.arange(3), np.arange(4)), -1).reshape(-1, 2)),
        (spaces.MultiBinary(4), np.random.default_rng(0).integers(0, 2, (64, 4)).astype(np.int8)),
        (spaces.Box(-1, 1, (5,), np.float64), _observations(64).astype(np.float64)),
        (spaces.Box(-1, 1, (2, 3), np.float32), np.random.default_rng(0).normal(size=(64, 2, 3)).astype(np.float32)),
    ],
)
def test_observations_are_preprocessed_in_the_graph(observation_space: spaces.Space[Any], observations: Array) -> None:
    agent = _agent("ppo", spaces.Discrete(3), observation_space)
    proof = _graph_proof(agent, observations)
    assert proof["equal"], proof
    tensor = exporter_for(agent).inputs[0]
    assert tensor.shape == observation_space.shape
    assert tensor.dtype == ("float32" if observation_space.dtype == np.float64 else str(observation_space.dtype))


def test_images_are_scaled_and_transposed_in_the_graph() -> None:
    seen = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    agent = _agent("ppo", spaces.Discrete(3), spaces.Box(0, 255, (3, 36, 40), np.uint8), policy="CnnPolicy")
    images = np.random.default_rng(0).integers(0, 256, (8, 36, 40, 3), dtype=np.uint8)
    assert _graph_proof(agent, images, seen)["equal"]
    assert exporter_for(agent, seen).inputs[0].shape == (36, 40, 3)


def test_large_offsets_are_normalized_without_losing_the_signal() -> None:
    mean, variance = np.full(5, 1e6), np.full(5, 1.0)
    agent = _agent("sac", ASYMMETRIC, statistics=(mean, variance), buffer_size=1)
    observations = (mean + _observations()).astype(np.float32)
    assert _graph_proof(agent, observations)["equal"]


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_distribution_parameters_and_values_are_those_of_sb3(algorithm: str, tmp_path: Path) -> None:
    arguments = {"buffer_size": 1} if algorithm == "sac" else {}
    agent = _agent(algorithm, ASYMMETRIC, **arguments)
    export_policy(agent, tmp_path)
    session = open_session(tmp_path / "policy.onnx")
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"observation": _observations(64)}), strict=True))
    policy, tensor = agent.model.policy, torch.as_tensor(_observations(64))
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
    return directory, export_policy(_agent("ppo", spaces.Discrete(3)), directory)


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


@pytest.mark.parametrize("trap", ["clip", "unscale", "normalize"])
def test_the_proof_fails_when_a_step_of_predict_is_left_out(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = (np.full(5, 3.0), np.full(5, 4.0)) if trap == "normalize" else None
    algorithm, arguments = ("sac", {"buffer_size": 1}) if trap == "unscale" else ("ppo", {})
    agent = _agent(algorithm, ASYMMETRIC, statistics=statistics, **arguments)
    broken = Normalize if trap == "normalize" else EnvironmentAction
    monkeypatch.setattr(broken, "forward", lambda _self, value: value)
    assert _graph_proof(agent, _observations())["equal"] is False


@pytest.mark.parametrize(
    ("raw_space", "said"),
    [
        (spaces.Box(-1, 1, (4,)), r"the environment observes \(4,\), but the model expects \(5,\)"),
        (spaces.Dict({"a": VECTOR}), r"observes \['observation.a'\], but the model expects \['observation'\]"),
    ],
)
def test_an_environment_that_observes_something_else_is_refused(raw_space: spaces.Space[Any], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        exporter_for(_agent("ppo", spaces.Discrete(2)), raw_space)


def test_the_stage_keeps_files_and_proof_and_rejects_an_unequal_policy(
    mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_policy(train={"total_timesteps": 512}, evaluate={"episodes": 5, "minimum_mean_return": 0})
    release = runs.Release.open(name, "run", Params())
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
