"""Hyperparameters by their rl-zoo names, as constructor arguments of Stable-Baselines3; no string is evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tasks.errors import Misconfigured

SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
ELSEWHERE = {
    "n_timesteps": "train.total_timesteps",
    "n_envs": "train.n_envs",
    "policy": "train.policy",
    "normalize": "train.normalize",
    "seed": "train.seed",
    "env_wrapper": "environment.kwargs or an environment id of its own",
    "frame_stack": "environment.kwargs or an environment id of its own",
}
ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "elu": "ELU", "leakyrelu": "LeakyReLU", "silu": "SiLU", "gelu": "GELU"}


def linear(start: float) -> Callable[[float], float]:
    """A schedule that falls linearly from `start` to 0 as the remaining progress goes from 1 to 0."""

    def schedule(progress_remaining: float) -> float:
        return progress_remaining * start

    return schedule


def schedule(name: str, value: Any) -> Any:
    """A number, or the rl-zoo word `lin_<start>` as a schedule. Raises Misconfigured for anything else."""
    if value is None or isinstance(value, int | float):
        return value
    match = re.fullmatch(r"lin_([0-9.eE+-]+)", str(value).strip())
    try:
        return linear(float(match[1])) if match else float(value)
    except (TypeError, ValueError):
        raise Misconfigured(
            f"hyperparameters.{name}: expected a number or lin_<number> (linear to 0), came {value!r}"
        ) from None


def _policy_kwargs(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Misconfigured(
            f"hyperparameters.policy_kwargs: expected a YAML mapping such as {{net_arch: [64, 64]}}, came {value!r}"
        )
    arguments = dict(value)
    if isinstance(activation := arguments.get("activation_fn"), str):
        from torch import nn

        word = activation.lower().removeprefix("nn.")
        if word not in ACTIVATIONS:
            raise Misconfigured(
                f"hyperparameters.policy_kwargs.activation_fn: expected one of {sorted(ACTIVATIONS)}, "
                f"came {activation!r}"
            )
        arguments["activation_fn"] = getattr(nn, ACTIVATIONS[word])
    return arguments


def _noise(kind: str, std: float, actions: int) -> Any:
    import numpy as np
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    kinds = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
    if kind not in kinds:
        raise Misconfigured(f"hyperparameters.noise_type: expected one of {sorted(kinds)}, came {kind!r}")
    return kinds[kind](np.zeros(actions), np.full(actions, std))


def constructor_arguments(hyperparameters: Mapping[str, Any], action_dimensions: int) -> dict[str, Any]:
    """Arguments for an SB3 algorithm's constructor.

    `action_dimensions` is the length of a continuous action, for `noise_type`. Raises Misconfigured, naming the
    hyperparameter, for one that cannot be understood or that has a place of its own in the spec.
    """
    misplaced = sorted(set(hyperparameters) & set(ELSEWHERE))
    if misplaced:
        raise Misconfigured("; ".join(f"hyperparameters.{name}: give it as {ELSEWHERE[name]}" for name in misplaced))
    arguments = dict(hyperparameters)
    for name in SCHEDULED:
        if name in arguments:
            arguments[name] = schedule(name, arguments[name])
    if "policy_kwargs" in arguments:
        arguments["policy_kwargs"] = _policy_kwargs(arguments["policy_kwargs"])
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    if kind := arguments.pop("noise_type", None):
        arguments["action_noise"] = _noise(kind, float(arguments.pop("noise_std", 0.1)), action_dimensions)
    return arguments
