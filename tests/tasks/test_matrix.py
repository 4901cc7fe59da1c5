"""Every family on every action and observation space that Stable-Baselines3 allows acts as `predict` does.

All observation kinds of one family and action space are exported in one go, since most of an export's time is the same
whatever its size; each is then cut out into a file of its own and proved like any other.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from tasks import parity
from tasks.cases import cases
from tasks.export import torch_decider
from tasks.exporters import Exporter, exporter_for
from tasks.graph import decider
from tasks.spaces import describe
from tests.tasks.agents import ASYMMETRIC, DICT, IMAGE, VECTOR, agent

DOCS = Path(__file__).resolve().parents[2] / "docs" / "bring-your-own-policy.md"
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


@dataclass(frozen=True)
class Family:
    """One algorithm (with the options that change its graph) and the action spaces it takes."""

    algorithm: str
    actions: dict[str, spaces.Space[Any]]
    policy: str = "{}Policy"
    policies: tuple[str, ...] = ("Mlp", "Cnn", "MultiInput")
    options: dict[str, Any] = field(default_factory=dict)
    policy_kwargs: dict[str, Any] = field(default_factory=dict)


LSTM = {"lstm_hidden_size": 8}
FAMILIES = {
    "PPO": Family("ppo", ALL),
    "PPO gSDE": Family("ppo", BOX, options={"use_sde": True}),
    "PPO gSDE squashed": Family("ppo", BOX, options={"use_sde": True}, policy_kwargs={"squash_output": True}),
    "A2C": Family("a2c", ALL, policy_kwargs={"share_features_extractor": False}),
    "TRPO": Family("trpo", ALL),
    "MaskablePPO": Family("ppo_mask", WHOLE_NUMBERS),
    "RecurrentPPO": Family("ppo_lstm", ALL, policy="{}LstmPolicy", policy_kwargs=LSTM),
    "RecurrentPPO, shared LSTM of two layers": Family(
        "ppo_lstm",
        BOX,
        policy="{}LstmPolicy",
        policy_kwargs={**LSTM, "n_lstm_layers": 2, "shared_lstm": True, "enable_critic_lstm": False},
    ),
    "DQN": Family("dqn", {"Discrete": spaces.Discrete(4)}),
    "QR-DQN": Family("qrdqn", {"Discrete": spaces.Discrete(4)}, policy_kwargs={"n_quantiles": 7}),
    "SAC": Family("sac", BOX),
    "SAC gSDE": Family("sac", BOX, options={"use_sde": True}),
    "TQC": Family("tqc", BOX),
    "TD3": Family("td3", BOX),
    "DDPG": Family("ddpg", BOX),
    "CrossQ": Family("crossq", BOX, policies=("Mlp",)),
    "ARS": Family("ars", BOX | {"Discrete": spaces.Discrete(4)}, policies=("Mlp",)),
    "ARS linear": Family("ars", BOX | {"Discrete": spaces.Discrete(4)}, policy="LinearPolicy", policies=("Mlp",)),
}
MATRIX = [(family, action) for family, entry in FAMILIES.items() for action in entry.actions]


class Album(nn.Module):
    """Several graphs side by side: all their inputs in, all their outputs out."""

    def __init__(self, graphs: list[nn.Module], counts: list[int]) -> None:
        super().__init__()
        self.graphs, self.counts = nn.ModuleList(graphs), counts

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        rest = list(tensors)
        for graph, count in zip(self.graphs, self.counts, strict=True):
            found += graph(*rest[:count])
            rest = rest[count:]
        return tuple(found)


def _exporters(family: Family, action_space: spaces.Space[Any]) -> dict[str, Exporter]:
    found = {}
    for name, seen in OBSERVATIONS.items():
        if seen.policy not in family.policies:
            continue
        kwargs = {**family.policy_kwargs, **(seen.policy_kwargs if seen.policy != "Mlp" else {})}
        options = {**family.options, **({"policy_kwargs": kwargs} if kwargs else {})}
        made = agent(
            family.algorithm,
            action_space,
            seen.space,
            seen.normalize,
            family.policy.format(seen.policy),
            **options,
        )
        found[name] = exporter_for(made, seen.space)
    return found


def _export(exporters: dict[str, Exporter], directory: Path) -> dict[str, dict[str, parity.Decide]]:
    """Deciders of the ONNX and TorchScript of each exporter, read back from files."""
    graphs = [exporter.graph() for exporter in exporters.values()]
    dummies = [exporter.dummy(3) for exporter in exporters.values()]
    given = tuple(tensor for dummy in dummies for tensor in dummy)
    names = [
        ([f"{n}:{tensor.name}" for tensor in exporter.inputs], [f"{n}:{output}" for output in exporter.outputs])
        for n, exporter in enumerate(exporters.values())
    ]
    album = Album(graphs, [len(dummy) for dummy in dummies])
    batch = torch.export.Dim("batch", min=1)
    for noisy in ("onnx_ir", "onnxscript", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.export.export(album, given, dynamic_shapes=(tuple({0: batch} for _ in given),))
        torch.onnx.export(
            program,
            (),
            str(directory / "album.onnx"),
            input_names=[name for ins, _ in names for name in ins],
            output_names=[name for _, outs in names for name in outs],
            opset_version=18,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        scripts = [
            torch.jit.freeze(torch.jit.trace(graph, dummy, check_trace=False))
            for graph, dummy in zip(graphs, dummies, strict=True)
        ]
    found = {}
    for n, ((name, exporter), (ins, outs)) in enumerate(zip(exporters.items(), names, strict=True)):
        onnx.utils.extract_model(str(directory / "album.onnx"), str(directory / f"{n}.onnx"), ins, outs)
        session = decider(directory / f"{n}.onnx")
        torch.jit.save(scripts[n], str(directory / f"{n}.ts"))

        def decide(rows: Any, session: Any = session, n: int = n) -> Any:
            outputs = session({f"{n}:{key}": value for key, value in rows.items()})
            return {key.partition(":")[2]: value for key, value in outputs.items()}

        script = torch_decider(torch.jit.load(str(directory / f"{n}.ts")), exporter)
        found[name] = {"onnx": decide, "torchscript": script}
    return found


@pytest.mark.parametrize(("family", "action"), MATRIX)
def test_it_acts_as_predict_does_on_every_observation_space(family: str, action: str, tmp_path: Path) -> None:
    exporters = _exporters(FAMILIES[family], FAMILIES[family].actions[action])
    formats = _export(exporters, tmp_path)
    for name, exporter in exporters.items():
        space = describe(exporter.action_space)
        proved_on = cases(
            exporter.observation_space,
            exporter.inputs,
            exporter.agent.normalizer,
            groups=parity.groups(space) if action != "Box" else (),
            rows=ROWS,
        )
        original = parity.Original(exporter.agent.decide, exporter.original_parameters)
        proof = parity.prove(space, original, formats[name], proved_on)
        assert proof["equal"], f"{family}, {action} actions, {name}: {parity.worst(proof)}"
        assert set(proof["formats"]["onnx"]) == {"1", "2", "7", "64"}
        actions = original.decide(proved_on.usual)["action"].reshape(ROWS, -1)
        assert len(np.unique(actions, axis=0)) > 1, f"{family}, {action} actions, {name}: one action for everything"


def test_the_docs_list_the_matrix() -> None:
    text = DOCS.read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    for family, entry in FAMILIES.items():
        name = re.split(r",| gSDE| linear", family)[0]
        row = next((row for row in rows if re.match(rf"\| .*\b{name}\b", row)), None)
        assert row is not None, f"no row for {name}"
        assert all(action in row for action in entry.actions), row
