"""One decision, five ways: what Airlock serves with beside what one would serve with instead, in one run.

`python benchmarks/inference.py` makes a PPO 64×64 policy for CartPole-v1, exports it, and times SB3's `predict`, the
torch module, TorchScript and ONNX Runtime (plain, and with io-binding) in turns, so that a busy machine slows all.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from tasks.export import ONNX, TORCHSCRIPT, write_formats
from tasks.exporters import exporter_for
from tasks.graph import open_session
from tasks.importing import Agent
from tasks.measurement import durations
from tasks.rollout import play
from tasks.spec import Environment

BATCHES = (1, 32, 1024)
ROUNDS = 30
CALLS = 40
BASELINE = "SB3 predict"

Call = Callable[[], Any]


def _agent() -> Agent:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 8), n_steps=64, batch_size=256, seed=0, device="cpu")
    model.learn(4_096)
    return Agent("ppo", model, None)


def _bound(session: Any, observations: npt.NDArray[Any]) -> Call:
    binding = session.io_binding()
    binding.bind_cpu_input("observation", observations)
    for name in ("action", "finite"):
        binding.bind_output(name, "cpu")
    return lambda: session.run_with_iobinding(binding)


def _ways(agent: Agent, directory: Path, observations: npt.NDArray[Any]) -> dict[str, Call]:
    graph, script = exporter_for(agent).graph(), torch.jit.load(str(directory / TORCHSCRIPT))
    session, tensor = open_session(directory / ONNX), torch.from_numpy(observations)
    return {
        BASELINE: lambda: agent.model.predict(observations, deterministic=True),
        "torch": lambda: graph(tensor),
        "TorchScript": lambda: script(tensor),
        "ONNX Runtime": lambda: session.run(["action", "finite"], {"observation": observations}),
        "ONNX Runtime, io-binding": _bound(session, observations),
    }


def _in_turns(ways: dict[str, Call]) -> dict[str, list[float]]:
    """Microseconds of every call of every way, a few calls of each in every round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            taken[name] += (durations(call, CALLS) * 1e6).tolist()
    return taken


def main() -> None:
    """Measure, and print one table."""
    torch.set_num_threads(1)
    agent = _agent()
    played = play(Environment(id="CartPole-v1"), agent.decide, range(32)).inputs["observation"]
    table = Table(title="PPO MLP 64×64, one thread: µs a call (p50 / p99) and times as fast as SB3 predict")
    table.add_column("")
    for batch in BATCHES:
        table.add_column(f"batch {batch}", justify="right")
    rows: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        write_formats(exporter_for(agent), Path(scratch))
        for batch in BATCHES:
            observations = np.ascontiguousarray(played[np.arange(batch) % len(played)])
            taken = _in_turns(_ways(agent, Path(scratch), observations))
            medians = {name: statistics.median(values) for name, values in taken.items()}
            for name, values in taken.items():
                ratio = medians[BASELINE] / medians[name]
                p99 = float(np.quantile(values, 0.99))
                rows.setdefault(name, []).append(f"{medians[name]:.1f} / {p99:.1f}   ×{ratio:.1f}")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
