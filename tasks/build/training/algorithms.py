"""The algorithms of Stable-Baselines3 and sb3-contrib, by their rl-zoo names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tasks.errors import Misconfigured

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

CLASSES = {
    "ppo": "stable_baselines3:PPO",
    "a2c": "stable_baselines3:A2C",
    "dqn": "stable_baselines3:DQN",
    "sac": "stable_baselines3:SAC",
    "td3": "stable_baselines3:TD3",
    "ddpg": "stable_baselines3:DDPG",
    "trpo": "sb3_contrib:TRPO",
    "tqc": "sb3_contrib:TQC",
    "qrdqn": "sb3_contrib:QRDQN",
    "crossq": "sb3_contrib:CrossQ",
    "ars": "sb3_contrib:ARS",
    "ppo_mask": "sb3_contrib:MaskablePPO",
    "ppo_lstm": "sb3_contrib:RecurrentPPO",
}


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """The class of an algorithm. Raises Misconfigured for an unknown name, or when sb3-contrib is missing."""
    if name not in CLASSES:
        raise Misconfigured(f"unknown algorithm {name!r}; expected one of {sorted(CLASSES)}")
    module, _, attribute = CLASSES[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise Misconfigured(f"{name} needs {module.replace('_', '-')}, which is not installed: {error}") from error


def algorithm_name(model: BaseAlgorithm) -> str:
    """The rl-zoo name of a model's algorithm. Raises Misconfigured for a class of neither library."""
    for name, location in CLASSES.items():
        if type(model).__name__ == location.partition(":")[2]:
            return name
    raise Misconfigured(f"{type(model).__name__} is not an algorithm of Stable-Baselines3 or sb3-contrib")
