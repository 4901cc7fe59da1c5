"""Every family on every action and observation space that Stable-Baselines3 allows acts as `predict` does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tasks.build.export import parity
from tasks.build.export.cases import cases
from tasks.build.export.families import exporter_for
from tasks.build.export.families.base import Exporter
from tasks.build.export.formats import load_formats, write_formats
from tasks.build.training.environments import describe
from tests.tasks.agents import ASYMMETRIC, DICT, IMAGE, VECTOR, agent

DOCS = Path(__file__).resolve().parents[4] / "docs" / "bring-your-own-policy.md"
ROWS = 256
SMALL = {"features_extractor_kwargs": {"features_dim": 16}}
WHOLE_NUMBERS: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "MultiBinary": spaces.MultiBinary(3),
}
BOX: dict[str, spaces.Space[Any]] = {"Box": ASYMMETRIC}
ALL = BOX | WHOLE_NUMBERS


@dataclass(frozen=True)
class Seen:
    """One kind of observation: how the environment shows it, and how a model of it is made."""

    space: spaces.Space[Any]
    policy: str = "Mlp"
    normalize: dict[str, Any] | None = None
    policy_kwargs: dict[str, Any] = field(default_factory=dict)


CNN = {"policy": "Cnn", "policy_kwargs": SMALL}
OBSERVATIONS = {
    "Box, VecNormalize": Seen(VECTOR, normalize={"clip_obs": 2.0, "epsilon": 1e-2}),
    "Box, norm_obs off": Seen(VECTOR, normalize={"norm_obs": False}),
    "Box float64": Seen(spaces.Box(-1, 1, (5,), np.float64)),
    "Box of a matrix": Seen(spaces.Box(-3, 3, (2, 3), np.float32)),
    "Box int32": Seen(spaces.Box(-5, 9, (4,), np.int32)),
    "image HWC": Seen(IMAGE, **CNN),
    "image CHW": Seen(spaces.Box(0, 255, (3, 36, 40), np.uint8), **CNN),
    "image float, normalize_images off": Seen(
        spaces.Box(0, 1, (3, 36, 40), np.float32), "Cnn", policy_kwargs={**SMALL, "normalize_images": False}
    ),
    "image frame-stacked": Seen(spaces.Box(0, 255, (36, 40, 12), np.uint8), **CNN),
    "Discrete": Seen(spaces.Discrete(6)),
    "MultiDiscrete": Seen(spaces.MultiDiscrete([3, 4, 2])),
    "MultiBinary": Seen(spaces.MultiBinary(4)),
    "Dict, norm_obs_keys": Seen(
        DICT,
        "MultiInput",
        {"norm_obs_keys": ["vector"]},
        {"features_extractor_kwargs": {"cnn_output_dim": 16}},
    ),
}


SPACES = ("Box, VecNormalize", "image HWC", "Discrete", "MultiDiscrete", "MultiBinary", "Dict, norm_obs_keys")
"""One kind of observation for each type of space."""
FLAT = tuple(kind for kind in SPACES if OBSERVATIONS[kind].policy == "Mlp")
NO_MULTI_DISCRETE = tuple(kind for kind in SPACES if kind != "MultiDiscrete")
"""RecurrentPPO cannot be made on MultiDiscrete observations: torch refuses the width that SB3 gives its LSTM."""
FEW = ("Box, VecNormalize", "Dict, norm_obs_keys")


@dataclass(frozen=True)
class Family:
    """One algorithm (with the options that change its graph), the action spaces it takes, and kinds of observations."""

    algorithm: str
    actions: dict[str, spaces.Space[Any]]
    policy: str = "{}Policy"
    kinds: tuple[str, ...] = SPACES
    options: dict[str, Any] = field(default_factory=dict)
    policy_kwargs: dict[str, Any] = field(default_factory=dict)


LSTM = {"lstm_hidden_size": 8}
FAMILIES = {
    "PPO": Family("ppo", ALL),
    "PPO gSDE": Family("ppo", BOX, kinds=FEW, options={"use_sde": True}),
    "PPO gSDE squashed": Family(
        "ppo", BOX, kinds=FEW, options={"use_sde": True}, policy_kwargs={"squash_output": True}
    ),
    "A2C": Family("a2c", ALL, policy_kwargs={"share_features_extractor": False}),
    "TRPO": Family("trpo", ALL),
    "MaskablePPO": Family("ppo_mask", WHOLE_NUMBERS),
    "RecurrentPPO": Family("ppo_lstm", ALL, policy="{}LstmPolicy", kinds=NO_MULTI_DISCRETE, policy_kwargs=LSTM),
    "RecurrentPPO, shared LSTM of two layers": Family(
        "ppo_lstm",
        BOX,
        policy="{}LstmPolicy",
        kinds=FEW,
        policy_kwargs={**LSTM, "n_lstm_layers": 2, "shared_lstm": True, "enable_critic_lstm": False},
    ),
    "DQN": Family("dqn", {"Discrete": spaces.Discrete(4)}, policy_kwargs={"net_arch": [16]}),
    "QR-DQN": Family("qrdqn", {"Discrete": spaces.Discrete(4)}, policy_kwargs={"n_quantiles": 7}),
    "SAC": Family("sac", BOX),
    "SAC gSDE": Family("sac", BOX, kinds=FEW, options={"use_sde": True}),
    "TQC": Family("tqc", BOX),
    "TD3": Family("td3", BOX),
    "DDPG": Family("ddpg", BOX),
    "CrossQ": Family("crossq", BOX, kinds=FLAT),
    "ARS": Family("ars", BOX | {"Discrete": spaces.Discrete(4)}, kinds=FLAT),
    "ARS linear": Family("ars", BOX | {"Discrete": spaces.Discrete(4)}, policy="LinearPolicy", kinds=FEW[:1]),
}
MATRIX = [(family, action) for family, entry in FAMILIES.items() for action in entry.actions]


@pytest.fixture(scope="module", autouse=True)
def _one_registry() -> Iterator[None]:
    """Build torch's table of ONNX translations once: it is always the same, and half of a small export's time."""
    from torch.onnx._internal.exporter import _registration

    registry = _registration.ONNXRegistry.from_torchlib()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", classmethod(lambda cls, *_, **__: registry))
        yield


def _exporter(family: Family, action: str, seen: Seen) -> Exporter:
    kwargs = {**family.policy_kwargs, **seen.policy_kwargs}
    options = {**family.options, **({"policy_kwargs": kwargs} if kwargs else {})}
    policy = family.policy.format(seen.policy)
    made = agent(family.algorithm, family.actions[action], seen.space, seen.normalize, policy, **options)
    return exporter_for(made, seen.space)


def _prove(family: str, action: str, kind: str, directory: Path) -> None:
    exporter = _exporter(FAMILIES[family], action, OBSERVATIONS[kind])
    write_formats(exporter, directory)
    space = describe(exporter.action_space)
    proved_on = cases(
        exporter.observation_space,
        exporter.inputs,
        exporter.agent.normalizer,
        groups=parity.groups(space) if action != "Box" else (),
        rows=ROWS,
    )
    original = parity.Original(exporter.agent.decide, exporter.original_parameters)
    proof = parity.prove(space, original, load_formats(directory, exporter), proved_on)
    assert proof["equal"], f"{family}, {action} actions, {kind}: {parity.worst(proof)}"
    assert set(proof["formats"]["onnx"]) == set(proof["formats"]["torchscript"]) == {"1", "2", "7", "64"}
    actions = original.decide(proved_on.usual)["action"].reshape(ROWS, -1)
    assert len(np.unique(actions, axis=0)) > 1, f"{family}, {action} actions, {kind}: one action for everything"


@pytest.mark.parametrize(("family", "action"), MATRIX)
def test_it_acts_as_predict_does_on_every_observation_space(family: str, action: str, tmp_path: Path) -> None:
    for kind in FAMILIES[family].kinds:
        _prove(family, action, kind, tmp_path)


@pytest.mark.parametrize("kind", sorted(set(OBSERVATIONS) - set(SPACES)))
def test_it_acts_as_predict_does_whatever_the_space_is_like(kind: str, tmp_path: Path) -> None:
    """What only concerns the observation's way to the network is the same for every family."""
    _prove("PPO", "Box", kind, tmp_path)


def test_the_docs_list_the_matrix() -> None:
    text = DOCS.read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    for family, entry in FAMILIES.items():
        name = re.split(r",| gSDE| linear", family)[0]
        row = next((row for row in rows if re.match(rf"\| .*\b{name}\b", row)), None)
        assert row is not None, f"no row for {name}"
        assert all(action in row for action in entry.actions), row
