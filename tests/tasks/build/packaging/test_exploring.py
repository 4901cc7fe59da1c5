"""Drawn actions are Stable-Baselines3's: as frequent as those of its own distributions, and as probable."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

from bentos.package.digests import write_manifest
from bentos.package.distributions import Distribution, distribution_of
from bentos.package.loader import load
from bentos.package.manifest import Tensor
from bentos.rows import Rows
from bentos.runners.explore import Explore
from tasks.build.export.families import exporter_for
from tasks.build.export.families.base import Exporter
from tasks.build.export.formats import Exported
from tasks.build.export.graph import cast
from tasks.build.export.parity import groups as widths
from tasks.build.packaging.baselines import explored
from tasks.build.training.environments import describe
from tasks.errors import Misconfigured
from tasks.inputs import MASK, of_observations, take
from tests.tasks.agents import ASYMMETRIC, VECTOR, agent
from tests.tasks.kinds import Real

DRAWS = 20_000
SURE = 1e-4
"""Below this p-value a seed that is fixed would have had to be very unlucky."""
GRID = spaces.MultiDiscrete([3, 2, 4])
WIDE = spaces.Box(np.array([-50, -20], np.float32), np.array([60, 30], np.float32))
SDE = {"use_sde": True}
SQUASHED_SDE = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
KINDS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "ppo discrete": ("ppo", spaces.Discrete(5), {}),
    "ppo box": ("ppo", ASYMMETRIC, {}),
    "ppo multidiscrete": ("ppo", GRID, {}),
    "ppo multibinary": ("ppo", spaces.MultiBinary(3), {}),
    "a2c box": ("a2c", ASYMMETRIC, {}),
    "ppo gsde": ("ppo", WIDE, SDE),
    "ppo gsde squashed": ("ppo", ASYMMETRIC, SQUASHED_SDE),
    "sac": ("sac", ASYMMETRIC, {}),
    "sac gsde": ("sac", ASYMMETRIC, SDE),
    "tqc": ("tqc", ASYMMETRIC, {}),
    "crossq": ("crossq", ASYMMETRIC, {}),
    "ppo_mask discrete": ("ppo_mask", spaces.Discrete(5), {}),
    "ppo_mask multibinary": ("ppo_mask", spaces.MultiBinary(3), {}),
}
WHOLE = [name for name, (_, space, _) in KINDS.items() if not isinstance(space, spaces.Box)]
CONTINUOUS = [name for name in KINDS if name not in WHOLE]


class Drawing:
    """One policy: its own distribution in SB3, and that of its graph's outputs."""

    def __init__(self, name: str) -> None:
        algorithm, space, arguments = KINDS[name]
        self.agent = agent(algorithm, space, VECTOR, **arguments)
        self.exporter: Exporter = exporter_for(self.agent)
        self.policy: Any = self.agent.model.policy
        self.described = describe(space)

    def drawn(self, observations: Any, masks: Any = None, seed: int = 11) -> tuple[Any, Any]:
        """Actions and log-probabilities, from the graph's outputs."""
        given = of_observations(observations)
        if self.agent.algorithm == "ppo_mask":
            given[MASK] = self.all_allowed(len(observations)) if masks is None else masks
        with torch.no_grad():
            outputs = self.exporter.graph()(*self.exporter.tensors(given))
        found = {name: value.numpy() for name, value in zip(self.exporter.outputs, outputs, strict=True)}
        distribution = self.distribution(found)
        parameters = [found[name] for name in distribution.outputs]
        return distribution.draw(parameters, masks, np.random.default_rng(seed))

    def raw(self, observations: Any, seed: int = 11) -> Any:
        """What `drawn` draws before tanh takes it into the bounds."""
        with torch.no_grad():
            outputs = self.exporter.graph()(*self.exporter.tensors(of_observations(observations)))
        found = {
            name: value.numpy().astype(np.float64) for name, value in zip(self.exporter.outputs, outputs, strict=True)
        }
        noise = np.random.default_rng(seed).standard_normal(found["mean"].shape)
        return found["mean"] + np.exp(found["log_std"]) * noise

    def distribution(self, found: dict[str, Any]) -> Distribution:
        shapes = [Tensor(name, str(value.dtype), value.shape[1:]) for name, value in found.items()]
        return distribution_of(self.exporter.distribution, self.described, shapes)

    def all_allowed(self, size: int) -> Any:
        width = next(tensor.shape[0] for tensor in self.exporter.inputs if tensor.name == MASK)
        return np.ones((size, width), bool)

    def log_prob(self, observations: Any, actions: Any) -> Any:
        """SB3's own log-probability of actions as `env.step` takes them."""
        observed = torch.as_tensor(observations)
        with torch.no_grad():
            if hasattr(self.policy, "get_distribution"):
                if self.policy.squash_output:
                    actions = self.policy.scale_action(actions)
                distribution = self.policy.get_distribution(observed)
            else:
                actor = self.policy.actor
                mean, log_std, extra = actor.get_action_dist_params(observed)
                distribution = actor.action_dist.proba_distribution(mean, log_std, **extra)
                actions = self.policy.scale_action(actions)
            given = [torch.as_tensor(actions).float()]
            if isinstance(distribution, SquashedDiagGaussianDistribution):
                given.append(torch.as_tensor(self.raw(observations)).float())
            return distribution.log_prob(*given).numpy()

    def sampled(self, observation: Any, seed: int = 5) -> Any:
        """What SB3 itself does when it explores. Under gSDE each row gets noise of its own."""
        torch.manual_seed(seed)
        observations = np.repeat(observation, DRAWS, axis=0)
        action_dist = getattr(self.policy, "actor", self.policy).action_dist
        if KINDS_SDE & {type(action_dist).__name__}:
            actor = getattr(self.policy, "actor", self.policy)
            actor.reset_noise(DRAWS)
        return self.policy.predict(observations, deterministic=False)[0]


KINDS_SDE = {"StateDependentNoiseDistribution"}


def rows(size: int) -> Any:
    return np.random.default_rng(4).normal(size=(size, 5)).astype(np.float32)


@pytest.mark.parametrize("name", KINDS)
def test_the_log_probability_of_what_was_drawn_is_sb3s(name: str) -> None:
    policy = Drawing(name)
    observations = rows(500)
    actions, log_prob = policy.drawn(observations)
    expected = policy.log_prob(observations, actions)
    inside = np.ones(len(actions), bool)
    if policy.described.type == "Box":
        # the density of what was clipped, or rounded to a bound where tanh saturates, cannot be read off the action
        low, high = (bound.astype(np.float32) for bound in policy.described.bounds())
        margin = 1e-2 * (high - low) * (policy.exporter.distribution == "squashed_gaussian")
        inside = ((actions > low + margin) & (actions < high - margin)).all(axis=1)
    assert inside.sum() > 20
    # gSDE reads tanh's inverse off the float32 action, which costs SB3 itself some digits
    tolerance = 1e-3 if "gsde" in name and policy.exporter.distribution == "squashed_gaussian" else 1e-5
    assert log_prob[inside] == pytest.approx(expected[inside], abs=tolerance, rel=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_are_drawn_as_often_as_sb3_says(name: str) -> None:
    policy = Drawing(name)
    observation = rows(1)
    actions, log_prob = policy.drawn(np.repeat(observation, DRAWS, axis=0))
    kinds, first, counts = np.unique(actions.reshape(DRAWS, -1), axis=0, return_index=True, return_counts=True)
    probabilities = np.exp(policy.log_prob(np.repeat(observation, len(kinds), axis=0), actions[first]))
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-2), "what is likely was drawn at least once"
    often = probabilities * DRAWS >= 5
    assert often.sum() > 1
    shares = probabilities[often].astype(np.float64)
    expected = shares / shares.sum() * counts[often].sum()
    assert stats.chisquare(counts[often], expected).pvalue > SURE
    assert np.exp(log_prob[first]) == pytest.approx(probabilities, rel=1e-4)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_actions_are_distributed_as_those_sb3_explores_with(name: str) -> None:
    policy = Drawing(name)
    observation = rows(1)
    ours, _ = policy.drawn(np.repeat(observation, DRAWS, axis=0))
    theirs = policy.sampled(observation)
    for dimension in range(ours.shape[1]):
        # where tanh saturates, SB3's float32 falls on the bound and ours stays just off it
        assert stats.ks_2samp(ours[:, dimension].round(3), theirs[:, dimension].round(3)).pvalue > SURE
    # dimensions are drawn each by itself
    assert np.abs(np.corrcoef(ours.T) - np.eye(ours.shape[1])).max() < 0.05


def test_a_mask_takes_actions_out_and_leaves_the_others_their_ratio() -> None:
    policy = Drawing("ppo discrete")
    observations = np.repeat(rows(1), DRAWS, axis=0)
    masks = np.tile([True, False, True, False, True], (DRAWS, 1))
    actions, log_prob = policy.drawn(observations, masks)
    assert set(np.unique(actions)) == {0, 2, 4}
    own = np.exp(policy.log_prob(observations[:3], np.array([0, 2, 4])))
    among = own.astype(np.float64) / own.sum(dtype=np.float64)
    counts = np.bincount(actions, minlength=5)[[0, 2, 4]]
    assert stats.chisquare(counts, among * DRAWS).pvalue > SURE
    assert np.exp(log_prob) == pytest.approx(among[actions // 2], rel=1e-5)


def test_a_masked_bernoulli_is_sure_where_only_one_value_is_allowed() -> None:
    policy = Drawing("ppo multibinary")
    masks = np.tile([True, False, False, True, True, True], (2_000, 1))
    actions, log_prob = policy.drawn(np.repeat(rows(1), 2_000, axis=0), masks)
    assert (actions[:, 0] == 0).all()
    assert (actions[:, 1] == 1).all()
    assert set(np.unique(actions[:, 2])) == {0, 1}
    assert len(np.unique(log_prob.round(9))) == 2


@pytest.mark.parametrize("algorithm", ["dqn", "td3", "ars"])
def test_policies_of_one_action_have_nothing_to_draw_from(algorithm: str) -> None:
    space = spaces.Discrete(3) if algorithm == "dqn" else ASYMMETRIC
    arguments = {"policy": "LinearPolicy"} if algorithm == "ars" else {}
    assert exporter_for(agent(algorithm, space, VECTOR, **arguments)).distribution is None


@pytest.mark.parametrize("kind", ["masked", "masked_binary", "recurrent", "precise"])
def test_an_exported_package_explores_around_its_own_best_action(
    kind: str, real_package: Callable[[str], Real], tmp_path: Path
) -> None:
    real = real_package(kind)
    shutil.copytree(real.directory, tmp_path / "package")
    manifest = load(real.directory).manifest
    exploring = msgspec.structs.replace(manifest.serve, explore=True)
    # the cut graph of this package is without the deviation: serve the whole one
    write_manifest(tmp_path / "package", msgspec.structs.replace(manifest, serve=exploring, served={}))
    policy = load(tmp_path / "package")
    given = take(real.given, np.repeat(np.arange(40), 50))
    masks = given.get(MASK)
    decision = Explore(policy, "1", np.random.default_rng(1)).run(Rows(policy_feeds(policy, given), 2_000, masks=masks))
    assert decision.finite.all()
    assert decision.action.dtype == np.dtype(manifest.action_space.dtype)
    assert len(np.unique(decision.action[:50].reshape(50, -1), axis=0)) > 1
    assert all(real.kind.action_space.contains(action) for action in decision.action)
    if masks is not None:
        starts = np.cumsum([0, *widths(manifest.action_space)[:-1]])
        entries = starts + decision.action.reshape(2_000, -1)
        assert np.take_along_axis(masks, entries, axis=1).all()
    assert (decision.recurrent is not None) == real.kind.recurrent
    best = policy.run(policy_feeds(policy, given), ["action"])["action"].reshape(40, 50, -1)
    drawn = decision.action.reshape(40, 50, -1)
    if manifest.action_space.type != "Box":
        common = np.array([np.bincount(one, minlength=8).argmax() for one in drawn[:, :, 0]])
        assert (common == best[:, 0, 0]).mean() > 0.8


def test_a_baseline_of_an_exploring_policy_holds_drawn_actions_the_same_every_time(
    real_package: Callable[[str], Real],
) -> None:
    real = real_package("masked")
    manifest = load(real.directory).manifest
    exported = Exported(
        manifest.inputs,
        manifest.outputs,
        manifest.opset,
        manifest.observation_space,
        manifest.action_space,
        {},
        manifest.distribution,
    )
    actions = explored(real.directory / "policy.onnx", exported, real.given)
    assert (actions == explored(real.directory / "policy.onnx", exported, real.given)).all()
    assert 0.02 < (actions != real.actions).mean() < 0.9
    assert np.take_along_axis(real.given[MASK], actions[:, None], axis=1).all()
    with pytest.raises(Misconfigured, match="no distribution"):
        explored(real.directory / "policy.onnx", msgspec.structs.replace(exported, distribution=None), real.given)


def policy_feeds(policy: Any, given: Any) -> Any:
    return cast(given, {tensor.name: tensor.dtype for tensor in policy.manifest.inputs})
