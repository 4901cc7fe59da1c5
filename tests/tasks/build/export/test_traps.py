"""Every known way to export a policy wrongly: the proof holds with its handling in place, and fails without it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from torch import Tensor, nn

from tasks.build.export import parity
from tasks.build.export.cases import cases
from tasks.build.export.families import actor_critic, base, exporter_for, heads, preprocess, q_values, recurrent
from tasks.build.export.families.base import Exporter
from tasks.build.export.formats import ONNX, PT2, TORCHSCRIPT, torch_decider, write_formats
from tasks.build.export.graph import decider, open_session
from tasks.build.training.agent import Agent
from tasks.build.training.environments import describe
from tests.tasks.agents import ASYMMETRIC, IMAGE, VECTOR, agent, set_statistics

Patch = pytest.MonkeyPatch
Make = Callable[[], Agent]
SMALL = {"features_extractor_kwargs": {"features_dim": 16}}
TWO_PARTS = spaces.Dict({"left": VECTOR, "right": VECTOR})


class Dropping(BaseFeaturesExtractor):
    """A features extractor that behaves otherwise in training."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 8)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Hardswish())

    def forward(self, observation: Tensor) -> Tensor:
        return self.layers(observation)


class Halving(MlpExtractor):
    """A user's extractor: what its `forward_actor` does is more than its layers do."""

    def forward_actor(self, features: Tensor) -> Tensor:
        return super().forward_actor(features) / 2


class HalvingPolicy(ActorCriticPolicy):
    """A policy of its own extractor, as SB3's documentation makes one."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = Halving(self.features_dim, [16], nn.ReLU)


def proof(exporter: Exporter) -> dict[str, Any]:
    """The proof of the graph itself, which is what every format is written from."""
    space = describe(exporter.action_space)
    masked = any(tensor.name == "action_mask" for tensor in exporter.inputs)
    proved_on = cases(
        exporter.observation_space,
        exporter.inputs,
        exporter.agent.normalizer,
        groups=parity.groups(space) if masked else (),
        rows=512,
    )
    original = parity.Original(exporter.agent.decide, exporter.original_parameters)
    # A copy, as a file is: SB3's predict puts the modules that it shares with the graph into evaluation mode.
    graph = copy.deepcopy(exporter.graph())
    return parity.prove(space, original, {"graph": torch_decider(graph, exporter)}, proved_on)


@dataclass(frozen=True)
class Trap:
    """An agent that falls into a trap once `sabotage` takes the handling out. `raw` is what the environment shows."""

    make: Make
    sabotage: Callable[[Patch], Any]
    raw: spaces.Space[Any] | None = None


def made(*arguments: Any, **options: Any) -> Make:
    return lambda: agent(*arguments, **options)


def far() -> Agent:
    """Statistics at a large offset: mean a million, deviation a tenth."""
    found = agent("sac", ASYMMETRIC, normalize={})
    statistics: Any = found.normalizer
    statistics.obs_rms.mean, statistics.obs_rms.var = np.full(5, 1e6 + 0.03), np.full(5, 0.01)
    return found


def norm_obs_off() -> Agent:
    """Statistics that are there and not used."""
    found = agent("ppo", ASYMMETRIC, normalize={})
    statistics: Any = found.normalizer
    statistics.norm_obs = False
    return found


def one_key_of_two() -> Agent:
    """A Dict with statistics for both keys, of which one is normalized."""
    found = agent("ppo", ASYMMETRIC, TWO_PARTS, {}, "MultiInputPolicy")
    statistics: Any = found.normalizer
    statistics.norm_obs_keys = ["left"]
    return found


def identity(_self: Any, value: Any) -> Any:
    return value


def patched(target: Any, name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(target, name, value)


def widest(self: Any, space: spaces.Box, squashed: bool) -> None:
    low, high = np.full_like(space.low, space.low.min()), np.full_like(space.high, space.high.max())
    original_environment_action(self, spaces.Box(low, high, dtype=space.dtype.type), squashed)


def epsilon_outside(self: Any, mean: Any, variance: Any, epsilon: float, clip: float) -> None:
    original_normalize(self, mean, (np.sqrt(variance) + epsilon) ** 2, 0.0, clip)


def in_float32(self: Any, observation: Tensor) -> Tensor:
    normal = (observation.float() - self.mean.float()) / self.scale.float()
    return torch.clamp(normal, -self.clip, self.clip)


def other_statistics(name: str, statistics: Any) -> Any:
    found = original_normalize_of(name, statistics)
    found.mean += 0.01
    return found


def every_key(name: str, statistics: Any) -> Any:
    found = statistics.obs_rms[name.partition(".")[2]]
    return preprocess.Normalize(found.mean, found.var, statistics.epsilon, statistics.clip_obs)


def always(name: str, statistics: Any) -> Any:
    return preprocess.Normalize(statistics.obs_rms.mean, statistics.obs_rms.var, statistics.epsilon, 10.0)


def swapped(self: Any, *observations: Tensor) -> Any:
    return original_prepare(self, *reversed(observations))


def reversed_columns(self: Any, observation: Tensor) -> Tensor:
    return original_preprocess(self, observation.flip(1))


def wrong_transpose(self: Any, observation: Tensor) -> Tensor:
    return self.preprocess(observation.permute(0, 3, 2, 1).transpose(2, 3).flip(2))


def trusting(self: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
    action, finite, *others = original_graph(self, *tensors)
    return (action, torch.ones_like(finite), *others)


def never_starting(self: Any, observation: Any, h: Tensor, c: Tensor, start: Tensor) -> tuple[Tensor, ...]:
    return original_recurrent(self, observation, h, c, torch.zeros_like(start))


def cells_first(self: Any, features: Tensor, state_h: Tensor, state_c: Tensor) -> Any:
    return original_step(self, features, state_c, state_h)


def in_training(self: Any) -> nn.Module:
    return self.train(True)


def from_target(self: Any) -> nn.Module:
    return q_values.QNetwork(self.policy.q_net_target)


def best_quantile(self: Any, observation: Any) -> tuple[Tensor, ...]:
    quantiles = self.quantile_net(self.features(observation)).reshape(-1, self.quantiles, self.actions)
    return quantiles.amax(dim=1).argmax(dim=1), quantiles.mean(dim=1)


def by_layers(self: Any, observation: Tensor) -> tuple[Tensor, ...]:
    features = self.actor_features(observation)
    value = self.value_net(self.latents.value_net(features)).flatten()
    return (*self.head(self.latents.policy_net(features)), value)


def flat_action(self: Any, action: Tensor) -> Tensor:
    return original_clip(self, action).reshape(len(action), -1)


original_environment_action = base.EnvironmentAction.__init__
original_clip = base.EnvironmentAction.forward
original_normalize = preprocess.Normalize.__init__
original_normalize_of = preprocess._normalize
original_prepare = preprocess.Prepare.forward
original_preprocess = preprocess.Preprocess.forward
original_graph = base.Graph.forward
original_recurrent = recurrent.RecurrentNetwork.forward
original_step = recurrent.LstmStep.forward

MATRIX_ACTIONS = spaces.Box(-1.0, 2.0, (2, 3), np.float32)
RECURRENT = {"policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_hidden_size": 8}}
CHW = spaces.Box(0, 255, (3, 36, 40), np.uint8)
UNSCALED = {**SMALL, "normalize_images": False}

TRAPS = {
    "the clip left out": Trap(made("ppo", ASYMMETRIC), patched(base.EnvironmentAction, "forward", identity)),
    "the unscale left out": Trap(made("sac", ASYMMETRIC), patched(base.EnvironmentAction, "forward", identity)),
    "one bound for all dimensions": Trap(made("td3", ASYMMETRIC), patched(base.EnvironmentAction, "__init__", widest)),
    "an action of another shape": Trap(
        made("ppo", MATRIX_ACTIONS), patched(base.EnvironmentAction, "forward", flat_action)
    ),
    "VecNormalize forgotten": Trap(
        made("ppo", ASYMMETRIC, normalize={}), patched(preprocess.Normalize, "forward", identity)
    ),
    "epsilon outside the root": Trap(
        made("ppo", ASYMMETRIC, normalize={"epsilon": 0.5}), patched(preprocess.Normalize, "__init__", epsilon_outside)
    ),
    "clip_obs left out": Trap(
        made("ppo", ASYMMETRIC, normalize={"clip_obs": 0.5}),
        lambda patch: patch.setattr(torch, "clamp", lambda value, *_: value),
    ),
    "norm_obs off, and normalized all the same": Trap(norm_obs_off, patched(preprocess, "_normalize", always)),
    "norm_obs_keys ignored": Trap(one_key_of_two, patched(preprocess, "_normalize", every_key)),
    "statistics of another checkpoint": Trap(
        made("ppo", ASYMMETRIC, normalize={}), patched(preprocess, "_normalize", other_statistics)
    ),
    "normalization in float32 at a large offset": Trap(far, patched(preprocess.Normalize, "forward", in_float32)),
    "images not divided by 255": Trap(
        made("ppo", spaces.Discrete(4), IMAGE, policy="CnnPolicy", policy_kwargs=SMALL),
        lambda patch: patch.setattr(preprocess, "is_image_space", lambda _: False),
        raw=IMAGE,
    ),
    "normalize_images=False ignored": Trap(
        made("ppo", ASYMMETRIC, CHW, policy="CnnPolicy", policy_kwargs=UNSCALED),
        lambda patch: patch.setattr(
            preprocess.Part,
            "__init__",
            lambda self, raw, space, normalize, _: original_part(self, raw, space, normalize, True),
        ),
    ),
    "channels transposed wrongly": Trap(
        made("ppo", ASYMMETRIC, IMAGE, policy="CnnPolicy", policy_kwargs=SMALL),
        patched(preprocess.Part, "forward", wrong_transpose),
        raw=IMAGE,
    ),
    "a one-hot out of range not noticed": Trap(
        made("ppo", spaces.Discrete(3), spaces.Discrete(6)),
        lambda patch: patch.setattr(preprocess.Prepare, "misfits", lambda self, *_: []),
    ),
    "MultiDiscrete columns in another order": Trap(
        made("ppo", ASYMMETRIC, spaces.MultiDiscrete([4, 4, 4])),
        patched(preprocess.Preprocess, "forward", reversed_columns),
    ),
    "Dict keys in another order": Trap(
        made("ppo", ASYMMETRIC, TWO_PARTS, policy="MultiInputPolicy"), patched(preprocess.Prepare, "forward", swapped)
    ),
    "NaN not noticed": Trap(made("dqn", spaces.Discrete(3)), patched(base.Graph, "forward", trusting)),
    "the mask ignored": Trap(
        made("ppo_mask", spaces.Discrete(4)), lambda patch: patch.setattr(heads, "allowed", lambda logits, _: logits)
    ),
    "state not reset at an episode's start": Trap(
        made("ppo_lstm", ASYMMETRIC, **RECURRENT), patched(recurrent.RecurrentNetwork, "forward", never_starting)
    ),
    "hidden state and cell exchanged": Trap(
        made("ppo_lstm", ASYMMETRIC, **RECURRENT), patched(recurrent.LstmStep, "forward", cells_first)
    ),
    "dropout left in training": Trap(
        made("ppo", ASYMMETRIC, policy_kwargs={"features_extractor_class": Dropping}),
        patched(base.Graph, "eval", in_training),
    ),
    "batch renormalization left in training": Trap(
        made("crossq", ASYMMETRIC), patched(base.Graph, "eval", in_training)
    ),
    "the target network": Trap(
        made("dqn", spaces.Discrete(4)), patched(q_values.QValueExporter, "network", from_target)
    ),
    "the largest quantile": Trap(
        made("qrdqn", spaces.Discrete(4), policy_kwargs={"n_quantiles": 7}),
        patched(q_values.QuantileNetwork, "forward", best_quantile),
    ),
    "an ARS policy without tanh squashed": Trap(
        made("ars", ASYMMETRIC, policy="LinearPolicy"),
        lambda patch: patch.setattr(
            base.EnvironmentAction, "__init__", lambda self, space, _: original_environment_action(self, space, True)
        ),
    ),
    "a policy sampled instead of its mode": Trap(
        made("ppo", spaces.Discrete(4)),
        lambda patch: patch.setattr(
            heads.CategoricalHead,
            "forward",
            lambda self, latent, *_: (
                (self.action_net(latent) - torch.rand(len(latent), 4).log().neg().log()).argmax(dim=1),
                self.action_net(latent),
                self.action_net(latent).amax(dim=1),
            ),
        ),
    ),
    "the layers of an extractor for what it does": Trap(
        made("ppo", ASYMMETRIC, policy=HalvingPolicy),
        patched(actor_critic.ActorCriticNetwork, "forward", by_layers),
    ),
    "the critic's features for the actor": Trap(
        made("a2c", ASYMMETRIC, IMAGE, policy="CnnPolicy", policy_kwargs={**SMALL, "share_features_extractor": False}),
        lambda patch: patch.setattr(
            actor_critic.ActorCriticNetwork,
            "__init__",
            lambda self, policy, head: (
                original_network(self, policy, head),
                setattr(self, "actor_features", policy.vf_features_extractor),
            )[0],
        ),
        raw=IMAGE,
    ),
}
original_part = preprocess.Part.__init__
original_network = actor_critic.ActorCriticNetwork.__init__


@pytest.mark.parametrize("name", TRAPS)
def test_the_proof_holds_and_fails_once_its_handling_is_taken_out(name: str, monkeypatch: Patch) -> None:
    trap = TRAPS[name]
    subject = trap.make()
    whole = proof(exporter_for(subject, trap.raw))
    assert whole["equal"], parity.worst(whole)
    with monkeypatch.context() as patch:
        trap.sabotage(patch)
        broken = exporter_for(subject, trap.raw)
        graph = broken.graph()
        assert graph is not None
        assert proof(broken)["equal"] is False


def test_multi_binary_rounds_half_to_even_as_torch_does() -> None:
    subject = agent("ppo", spaces.MultiBinary(4))
    policy: Any = subject.model.policy
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.0]))
    exporter = exporter_for(subject)
    given = {"observation": np.ones((3, 5), np.float32)}
    ours = torch_decider(exporter.graph(), exporter)(given)["action"]
    assert ours.tolist() == subject.decide(given)["action"].tolist() == [[0, 1, 0, 0]] * 3


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiDiscrete([2, 3])])
def test_a_mask_that_forbids_everything_gives_what_sb3_gives_and_no_nan(space: spaces.Space[Any]) -> None:
    subject = agent("ppo_mask", space)
    exporter = exporter_for(subject)
    width = exporter.inputs[-1].shape[0]
    given = {"observation": np.ones((2, 5), np.float32), "action_mask": np.zeros((2, width), dtype=bool)}
    ours = torch_decider(exporter.graph(), exporter)(given)
    assert np.array_equal(ours["action"], subject.decide(given)["action"])
    assert np.isfinite(ours["log_prob"]).all()
    assert ours["finite"].all()


def test_statistics_set_after_training_are_those_of_the_file_beside_the_model() -> None:
    subject = agent("ppo", ASYMMETRIC, normalize={})
    other = agent("ppo", ASYMMETRIC, normalize={})
    set_statistics(other.normalizer, offset=1.0)
    exporter = exporter_for(subject)
    given = {"observation": np.ones((4, 5), np.float32)}
    ours = torch_decider(exporter.graph(), exporter)(given)["action"]
    assert np.allclose(ours, subject.decide(given)["action"], atol=1e-5)
    assert not np.allclose(ours, replace(subject, normalizer=other.normalizer).decide(given)["action"], atol=1e-3)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exporter]:
    """All formats of a small policy."""
    directory = tmp_path_factory.mktemp("written")
    exporter = exporter_for(agent("dqn", spaces.Discrete(4, dtype=np.int32)))
    write_formats(exporter, directory)
    return directory, exporter


def test_the_batch_is_dynamic(written: tuple[Path, Exporter]) -> None:
    decide = decider(written[0] / ONNX)
    for batch in (1, 2, 7, 64, 1_000):
        assert len(decide({"observation": np.zeros((batch, 5), np.float32)})["action"]) == batch


def test_weights_are_inside_the_one_onnx_file(written: tuple[Path, Exporter]) -> None:
    assert sorted(path.name for path in written[0].iterdir()) == sorted([ONNX, PT2, TORCHSCRIPT])


def test_the_action_has_the_dtype_and_shape_of_its_space(written: tuple[Path, Exporter]) -> None:
    output = open_session(written[0] / ONNX).get_outputs()[0]
    assert (output.name, output.type, len(output.shape)) == ("action", "tensor(int32)", 1)


def test_no_format_names_a_place_on_this_machine(written: tuple[Path, Exporter]) -> None:
    here, installed = str(Path(__file__).parents[4]).encode(), b"site-packages"
    for name in (ONNX, PT2, TORCHSCRIPT):
        content = (written[0] / name).read_bytes()
        assert here not in content
        assert installed not in content
