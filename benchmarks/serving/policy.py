"""The policy that every peer serves: 8 observations, two layers of 64, 4 actions, as PPO makes it.

It stands in a directory in every form that a peer wants: a policy package, an SB3 zip, and an ONNX graph that answers
the action alone (the package's own graph also says whether its numbers are finite: that is the gateway's to pay for).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAME = "policy"
OBSERVATIONS, ACTIONS = 8, 4
EPISODES, STEPS = 16, 64
RANGE = (-10.0, 10.0)

Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Policy:
    """The forms of the policy on disk, and what it must answer: `observations` [n, 8] and SB3's `actions` [n]."""

    package: Path
    graph: Path
    model: Path
    observations: Floats
    actions: Whole


def make(directory: Path) -> Policy:
    """Write the policy in all its forms. Takes some seconds."""
    import onnx
    from onnx.utils import Extractor
    from stable_baselines3 import PPO

    from bentos import package
    from tasks.build.export.families import exporter_for
    from tasks.build.export.formats import ONNX, Exported, describe_outputs, write_formats
    from tasks.build.packaging.assemble import Evidence, assemble, git_sha
    from tasks.build.training.agent import Agent
    from tasks.build.training.environments import describe
    from tasks.build.variants.benchmark import BATCHES
    from tasks.build.variants.measure import measure
    from tasks.build.variants.selection import Row, Selection, fastest_batch
    from tasks.spec.packaging import Packaging

    target = directory / "package"
    target.mkdir(parents=True)
    model = PPO("MlpPolicy", _toy(), n_steps=64, seed=0, device="cpu")
    model.save(directory / "policy.zip")
    agent = Agent("ppo", model, None)
    exporter = exporter_for(agent)
    write_formats(exporter, target)
    outputs, opset = describe_outputs(target / ONNX)
    whole = onnx.load(target / ONNX)
    onnx.save(Extractor(whole).extract_model(["observation"], ["action"]), directory / "policy.onnx")

    observations = np.random.default_rng(0).normal(size=(EPISODES, STEPS, OBSERVATIONS)).astype(np.float32)
    flat = observations.reshape(-1, OBSERVATIONS)
    actions = agent.decide({"observation": flat})["action"].astype(np.int64)
    # Episodes of the toy below, so that the package has a baseline and the gateway watches for drift as it does in use.
    returns = _reward(flat, actions).reshape(EPISODES, STEPS).sum(axis=1)
    serve = package.Serve(fallback={"constant": 0})
    curve = measure(target / ONNX, target / ONNX, {"observation": flat}, BATCHES, serve.batch_size)["batch"]
    size = fastest_batch(curve, min(serve.latency_slo_ms, serve.deadline_ms))  # as a release chooses it
    row = Row("fp32", True, None, None, None, None, "the exported policy itself")
    evidence = Evidence(
        Exported(
            exporter.inputs, outputs, opset, describe(exporter.observation_space), describe(exporter.action_space), {}
        ),
        returns.tolist(),
        {"algorithm": "ppo"},
        {},
        {},
        Selection("fp32", "fp32 ships", size.rows, [row], size.reason),
    )
    packaging = Packaging(
        NAME,
        {"id": None},
        serve=serve,
        safety=package.Safety(observation_range=RANGE),
    )
    assemble(target, packaging, evidence, {"observation": flat}, actions, git_sha())
    return Policy(target, directory / "policy.onnx", directory / "policy.zip", flat, actions)


def copy(package: Path, directory: Path, name: str, **serve: Any) -> str:
    """Write the same package under another name, with some of its `serve` section changed; its digest."""
    import msgspec

    from bentos.package.digests import read_manifest, write_manifest

    shutil.copytree(package, directory)
    manifest = read_manifest(directory)
    changed = msgspec.structs.replace(manifest.serve, **serve)
    return write_manifest(directory, msgspec.structs.replace(manifest, name=name, serve=changed))


def _reward(observations: Floats, actions: Whole) -> Floats:
    best: Whole = observations[:, :ACTIONS].argmax(axis=1)
    rewards: Floats = (best == actions).astype(np.float32)
    return rewards


def _toy() -> Any:
    """An environment with the policy's spaces: the right action is the largest of the first four observations."""
    from gymnasium import Env, spaces
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Toy(Env[Any, Any]):  # type: ignore[misc]
        def __init__(self) -> None:
            self.observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,))
            self.action_space = spaces.Discrete(ACTIONS)

    return DummyVecEnv([Toy])
