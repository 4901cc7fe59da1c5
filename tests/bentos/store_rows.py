"""Rows of Airlock's tables, as the gateway makes them."""

from __future__ import annotations

from typing import Any

from bentos.store.rewards import Reported


def outcome(episode: str, value: float = 1.0, **changed: Any) -> dict[str, Any]:
    """An outcome of a control episode."""
    row = {
        "episode": episode,
        "policy": "p",
        "generation": "g",
        "arm": "control",
        "version": "1",
        "episode_return": value,
        "length": 3,
        "kind": "reported",
        "recorded_at": 0.0,
    }
    return {**row, **changed}


def start(episode: str, at: float = 0.0, **changed: Any) -> dict[str, Any]:
    """The start of a control episode."""
    row = {
        "episode": episode,
        "policy": "p",
        "generation": "g",
        "unit": episode,
        "arm": "control",
        "version": "1",
        "started_at": at,
    }
    return {**row, **changed}


def reward(
    episode: str, step: int, value: float = 1.0, *, ends: bool = False, allowed: tuple[float, float] | None = None
) -> Reported:
    """A step's reward; `ends`: the episode terminated with it."""
    row = {
        "policy": "p",
        "episode": episode,
        "step": step,
        "reward": value,
        "terminated": ends,
        "truncated": False,
        "next_observation": None,
        "recorded_at": 0.0,
    }
    told = outcome(episode)
    return Reported(row, {name: told[name] for name in told if name not in ("episode_return", "length")}, allowed)
