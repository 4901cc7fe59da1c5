"""One decision, many ways: what Airlock serves with beside what one would serve with instead, in one run.

`python benchmarks/inference.py` makes a PPO 64×64 policy for CartPole-v1, packages it, and times SB3's `predict`, the
torch module, TorchScript, ONNX Runtime (plain, io-bound, cut to what is served), the package in process, and the
reduced-precision variants in turns, so that a busy machine slows all. A second table shows where int8 pays.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from rich.table import Table

from bentos.package.loader import load
from bentos.package.manifest import Space
from tasks.build.export.families import exporter_for
from tasks.build.export.formats import ONNX, TORCHSCRIPT, Exported, describe_outputs, write_formats
from tasks.build.export.graph import decider, open_session
from tasks.build.packaging.assemble import Evidence, assemble, git_sha
from tasks.build.training.agent import Agent
from tasks.build.training.algorithms import algorithm_class
from tasks.build.training.environments import describe
from tasks.build.training.rollout import play
from tasks.build.variants.measure import ACCELERATORS, bound_caller, caller, on_accelerator
from tasks.build.variants.quantize import compare_actions
from tasks.build.variants.selection import Row, Selection
from tasks.build.variants.served_graph import write_served
from tasks.build.variants.table import not_measured
from tasks.build.variants.timing import Call, durations, relative_cost
from tasks.build.variants.writers import VARIANTS, quiet
from tasks.inputs import Inputs, in_batches, repeat
from tasks.spec.packaging import Packaging
from tasks.spec.sections import Environment

BATCHES = (1, 32, 1024)
ROUNDS = 30
CALLS = 40
BASELINE, PLAIN, PACKAGE = "SB3 predict", "ONNX Runtime", "bentos.package.load(DIR).predict"
SERVED = "ONNX Runtime, cut to what is served"
ASKED_RATIO = 15
WIDTH = 130
ROWS = 1_024


def _cartpole() -> Agent:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 8), n_steps=64, batch_size=256, seed=0, device="cpu")
    model.learn(4_096)
    return Agent("ppo", model, None)


def _package(agent: Agent, directory: Path) -> Inputs:
    """Write the policy's package, with all its variants as files beside it; observations it was played on."""
    exporter = exporter_for(agent)
    write_formats(exporter, directory)
    outputs, opset = describe_outputs(directory / ONNX)
    played = play(Environment(id="CartPole-v1"), agent.decide, range(16), exporter.inputs)
    described = describe(exporter.observation_space), describe(exporter.action_space)
    exported = Exported(exporter.inputs, outputs, opset, *described, {})
    row = Row("fp32", True, None, None, None, None, "the exported policy itself")
    evidence = Evidence(
        exported,
        played.returns.tolist(),
        {"algorithm": agent.algorithm},
        {},
        {},
        Selection("fp32", "fp32 ships", 32, [row]),
    )
    assemble(directory, Packaging("bench", {"id": "CartPole-v1"}), evidence, played.inputs, played.actions, git_sha())
    _write_variants(directory, played.inputs)
    return played.inputs


def _write_variants(directory: Path, given: Inputs) -> None:
    for variant in VARIANTS.values():
        with quiet():
            variant.write(directory / ONNX, directory / variant.file, given)


def _ways(agent: Agent, directory: Path, given: Inputs, batch: int) -> dict[str, Call]:
    graph, script = exporter_for(agent).graph(), torch.jit.load(str(directory / TORCHSCRIPT))
    observations = repeat(given, batch)["observation"]
    single = observations[0] if batch == 1 else observations
    tensor, policy = torch.from_numpy(observations), load(directory)
    session, served = open_session(directory / ONNX), policy.session
    return {
        BASELINE: lambda: agent.model.predict(observations, deterministic=True),
        "torch": lambda: graph(tensor),
        "TorchScript": lambda: script(tensor),
        PLAIN: caller(session, given, batch),
        "ONNX Runtime, io-binding": bound_caller(session, given, batch),
        SERVED: caller(served, given, batch),
        "ONNX Runtime, cut, io-binding": bound_caller(served, given, batch),
        PACKAGE: lambda: policy.predict(single),
        **{
            f"ONNX Runtime, cut, {name}": caller(
                open_session(write_served(directory / variant.file, given, directory)), given, batch
            )
            for name, variant in VARIANTS.items()
        },
    }


def _in_turns(ways: dict[str, Call]) -> dict[str, list[float]]:
    """Microseconds of every call of every way, a few calls of each in every round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            taken[name] += (durations(call, CALLS) * 1e6).tolist()
    return taken


def small(console: Console, directory: Path) -> None:
    """The 64×64 policy, every way."""
    agent = _cartpole()
    given = _package(agent, directory)
    lines: dict[str, list[str]] = {}
    ratios: dict[str, float] = {}
    for batch in BATCHES:
        with torch.no_grad():
            taken = _in_turns(_ways(agent, directory, given, batch))
        medians = {name: statistics.median(values) for name, values in taken.items()}
        for name, values in taken.items():
            ratio, p99 = medians[BASELINE] / medians[name], float(np.quantile(values, 0.99))
            lines.setdefault(name, []).append(f"{medians[name]:.1f} / {p99:.1f}   ×{ratio:.1f}")
            if batch == 1:
                ratios[name] = ratio
    _print(
        console,
        "PPO MLP 64×64, one thread: µs a call (p50 / p99) and times as fast as SB3 predict",
        ["", *(f"batch {batch}" for batch in BATCHES)],
        [[name, *cells] for name, cells in lines.items()],
    )
    for name in (PLAIN, SERVED, PACKAGE):
        console.print(
            f"{name}: p50 at batch 1 is {ratios[name]:.1f} times faster than SB3 predict ({ASKED_RATIO} asked)"
        )
    providers = {name: on_accelerator(directory / ONNX, given, BATCHES, name) for name in ACCELERATORS}
    for line in not_measured({"fp32": {"providers": providers}}):
        console.print(line)


def _untrained(observation_space: spaces.Space[Any], policy: str, layers: list[int]) -> Agent:
    """A DQN as it is initialised: its weights are no policy, but its speed is that of one."""
    from gymnasium import Env
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Still(Env[Any, Any]):
        def __init__(self) -> None:
            self.observation_space, self.action_space = observation_space, spaces.Discrete(6)

    arguments: dict[str, Any] = {"buffer_size": 1, "policy_kwargs": {"net_arch": layers}, "seed": 0, "device": "cpu"}
    return Agent("dqn", algorithm_class("dqn")(policy, DummyVecEnv([Still]), **arguments), None)


def _drawn(space: spaces.Box, rows: int) -> Inputs:
    generator = np.random.default_rng(0)
    if space.dtype == np.uint8:
        # Images of even squares: noise would average out, and quantize too easily.
        coarse = generator.integers(0, 256, (rows, space.shape[0], 6, 6))
        return {"observation": np.kron(coarse, np.ones((1, 1, 14, 14), np.int64)).astype(np.uint8)}
    return {"observation": generator.normal(size=(rows, *space.shape)).astype(np.float32)}


NETWORKS: dict[str, tuple[spaces.Box, str, list[int]]] = {
    "MLP 64×64": (spaces.Box(-1, 1, (24,)), "MlpPolicy", [64, 64]),
    "MLP 512×512": (spaces.Box(-1, 1, (24,)), "MlpPolicy", [512, 512]),
    "MLP 1024×1024": (spaces.Box(-1, 1, (24,)), "MlpPolicy", [1024, 1024]),
    "CNN 4×84×84": (spaces.Box(0, 255, (4, 84, 84), np.uint8), "CnnPolicy", []),
}


def large(console: Console, directory: Path) -> None:
    """Where int8 pays: cost beside fp32 by width, and for a CNN."""
    space = Space("Discrete", "int64", n=6)
    lines = []
    for network, (observed, policy, layers) in NETWORKS.items():
        folder = directory / network.split()[0] / network.split()[1]
        folder.mkdir(parents=True)
        given = _drawn(observed, ROWS if observed.dtype != np.uint8 else ROWS // 4)
        write_formats(exporter_for(_untrained(observed, policy, layers)), folder)
        _write_variants(folder, given)
        reference = in_batches(decider(folder / ONNX), given, 64)
        for name, variant in VARIANTS.items():
            path = folder / variant.file
            actions = compare_actions(space, reference, in_batches(decider(path), given, 64)["action"])
            lines.append(
                [
                    network,
                    name,
                    f"{path.stat().st_size / (folder / ONNX).stat().st_size:.0%}",
                    *(_cost(path, folder / ONNX, given, batch) for batch in (1, 32)),
                    f"{actions.weighted_agreement:.2%}",
                ]
            )
    _print(
        console,
        "Where int8 pays: CPU time as a share of fp32's [95 % interval], untrained DQN",
        ["network", "variant", "size", "batch 1", "batch 32", "equal actions, by margin"],
        lines,
    )


def _cost(path: Path, reference: Path, given: Inputs, batch: int) -> str:
    calls = (caller(open_session(one), given, batch) for one in (path, reference))
    cost, (lower, upper) = relative_cost(*calls)
    return f"{cost:.2f} [{lower:.2f}, {upper:.2f}]"


def _print(console: Console, title: str, header: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    table = Table(title=title)
    for index, column in enumerate(header):
        table.add_column(column, justify="right" if index else "left")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def main() -> None:
    """Measure, and print both tables."""
    torch.set_num_threads(1)
    console = Console(width=WIDTH)
    sections: tuple[Callable[[Console, Path], None], ...] = (small, large)
    for section in sections:
        with tempfile.TemporaryDirectory() as scratch:
            section(console, Path(scratch))


if __name__ == "__main__":
    main()
