"""Policies of every kind with an environment each can act in, as real packages: exported from SB3, served like any."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from bentos.package.manifest import Outcomes, Serve
from bentos.package.safety import Safety
from tasks.build.export.families import exporter_for
from tasks.build.export.formats import ONNX, Exported, describe_outputs, write_formats
from tasks.build.export.parity import groups
from tasks.build.packaging.assemble import Evidence, assemble
from tasks.build.training.agent import Agent
from tasks.build.training.environments import describe
from tasks.build.training.rollout import play
from tasks.build.variants.selection import choose
from tasks.inputs import Inputs
from tasks.spec.packaging import Packaging
from tasks.spec.sections import Environment
from tests.tasks.agents import ASYMMETRIC, IMAGE, VECTOR, agent, disturb

ENVIRONMENT = "AirlockEveryKind-v0"
DICT = spaces.Dict({"vector": VECTOR, "kind": spaces.Discrete(3), "flags": spaces.MultiBinary(2)})


@dataclass(frozen=True)
class Kind:
    """One kind of policy: its algorithm and spaces, and whether its environment masks actions."""

    algorithm: str
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    policy: str = "MlpPolicy"
    fallback: Any = 0
    normalize: dict[str, Any] | None = None
    policy_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def masked(self) -> bool:
        """Whether the environment says which actions it allows."""
        return self.algorithm == "ppo_mask"

    @property
    def recurrent(self) -> bool:
        """Whether the policy has a memory."""
        return self.algorithm == "ppo_lstm"

    def agent(self) -> Agent:
        """The policy as SB3 has it, with weights far from their initial values."""
        found = agent(
            self.algorithm,
            self.action_space,
            self.observation_space,
            self.normalize,
            self.policy,
            policy_kwargs=self.policy_kwargs,
        )
        disturb(found.model.policy, 0.3)  # enough that none of them takes one action only
        return found


KINDS = {
    "masked": Kind("ppo_mask", VECTOR, spaces.Discrete(5), normalize={}),
    "masked_binary": Kind("ppo_mask", VECTOR, spaces.MultiBinary(3), fallback=[0, 1, 0]),
    "masked_dict": Kind("ppo_mask", DICT, spaces.MultiDiscrete([3, 2, 4]), "MultiInputPolicy", [0, 1, 2]),
    "recurrent": Kind(
        "ppo_lstm",
        VECTOR,
        ASYMMETRIC,
        "MlpLstmPolicy",
        [0.0, 1.0, 0.0],
        {},
        {"lstm_hidden_size": 8, "n_lstm_layers": 2},
    ),
    "image": Kind(
        "ppo",
        IMAGE,
        spaces.Discrete(4),
        "CnnPolicy",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}},
    ),
    "grid": Kind("dqn", spaces.Discrete(6), spaces.Discrete(3)),
    "precise": Kind("sac", spaces.Box(-1, 1, (5,), np.float64), ASYMMETRIC, fallback=[0.0, 1.0, 0.0]),
}


class Shown(gymnasium.Env[Any, Any]):
    """Shows random observations for ten to fourteen steps and pays for the sum of the action; masks at random."""

    def __init__(self, kind: str) -> None:
        self.kind = KINDS[kind]
        self.observation_space, self.action_space = self.kind.observation_space, self.kind.action_space
        self.forbidden = 0
        if self.kind.masked:
            self.action_masks = self._action_masks
            self._widths = groups(describe(self.action_space))
            self._starts = np.cumsum([0, *self._widths[:-1]])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.left = int(self.np_random.integers(10, 15))
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action) or self.action_space.contains(np.asarray(action)), action
        if self.kind.masked:
            entries = self._starts + np.asarray(action).reshape(-1)
            self.forbidden += int((~self.mask[entries]).sum())
        self.left -= 1
        reward = float(np.sum(action))
        return self._show(), reward, self.left == 0, False, {}

    def _show(self) -> Any:
        if self.kind.masked:
            self.mask = self.np_random.random(sum(self._widths)) < 0.5
            self.mask[self._starts + self.np_random.integers(0, self._widths)] = True
        return self.observation_space.sample()

    def _action_masks(self) -> Any:
        return self.mask


if ENVIRONMENT not in gymnasium.registry:
    gymnasium.register(ENVIRONMENT, entry_point=Shown)


def environment(kind: str) -> Environment:
    """The environment of a kind as a spec names it."""
    return Environment(id=ENVIRONMENT, kwargs={"kind": kind})


@dataclass(frozen=True)
class Real:
    """A real package with the agent it was exported from, and what that did on-policy."""

    kind: Kind
    agent: Agent
    directory: Path
    digest: str
    given: Inputs
    actions: Any


def real(kind: str, directory: Path, episodes: int = 20) -> Real:
    """Export an agent of a kind into `directory` and make a package of it; the proof of equality is others' affair."""
    chosen = KINDS[kind]
    original = chosen.agent()
    exporter = exporter_for(original, chosen.observation_space)
    directory.mkdir(parents=True)
    write_formats(exporter, directory)
    outputs, opset = describe_outputs(directory / ONNX)
    rollout = play(environment(kind), original.decide, range(episodes), exporter.inputs)
    spaces_ = describe(chosen.observation_space), describe(chosen.action_space)
    exported = Exported(
        exporter.inputs,
        outputs,
        opset,
        *spaces_,
        {"equal": True, "observations": len(rollout.actions)},
        exporter.distribution,
    )
    row = {"batch": {str(n): {"p50_us": 9.0, "p99_us": 20.0, "rows_per_second": 1e5} for n in (1, 32)}}
    measured = {"fp32": row | {"relative_cost": 1.0, "size_bytes": 900, "rss_mb": 60.0, "peak_rss_mb": 70.0}}
    evidence = Evidence(
        exported,
        rollout.returns.tolist(),
        {"algorithm": chosen.algorithm},
        measured,
        {},
        choose(measured, {}, 32, 10.0),
    )
    packaging = Packaging(
        kind,
        {"id": ENVIRONMENT, "kwargs": {"kind": kind}},
        Serve(fallback={"constant": chosen.fallback}, deadline_ms=60_000),  # a busy machine shall not bring it in
        Safety(observation_range=None),
        Outcomes(return_range=(-1000, 1000)),
    )
    digest = assemble(directory, packaging, evidence, rollout.inputs, rollout.actions, "0" * 40)
    return Real(chosen, original, directory, digest, rollout.inputs, rollout.actions)
