"""A log as the gateway writes it, row by row, for tests to spoil."""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa

from bentos.package.manifest import Space
from bentos.store import tables as store
from tasks.learning.log import Wanted

BOX = Space("Box", shape=(1,), low=(-2.0,), high=(2.0,))
WANTED = Wanted("p", "float32", (2,), BOX, (-100.0, 100.0), (-10.0, 10.0), 1_000)


def decision(episode: str, step: int, **changed: Any) -> dict[str, Any]:
    """A decision whose observation is [step, 0.5]."""
    row = {
        "at": 1000.0 + step,
        "policy": "p",
        "version": "1",
        "arm": "champion",
        "generation": "",
        "episode": episode,
        "step": step,
        "observation": np.float32([step, 0.5]).tobytes(),
        "observation_norm": 1.0,
        "action": [0.25],
        "log_prob": -0.5,
        "source": "policy",
        "adjusted": [],
        "latency_seconds": 0.001,
    }
    return {**row, **changed}


def reward(episode: str, step: int, last: bool, **changed: Any) -> dict[str, Any]:
    """A reward of 1; the last step truncates."""
    row = {
        "policy": "p",
        "episode": episode,
        "step": step,
        "reward": 1.0,
        "terminated": False,
        "truncated": last,
        "next_observation": np.float32([step + 1, 0.5]).tobytes(),
        "recorded_at": 1000.0,
    }
    return {**row, **changed}


def outcome(episode: str, **changed: Any) -> dict[str, Any]:
    """The outcome of an episode of three such steps."""
    row = {
        "episode": episode,
        "policy": "p",
        "generation": "",
        "arm": "champion",
        "version": "1",
        "episode_return": 3.0,
        "length": 3,
        "kind": "reported",
        "recorded_at": 1000.0,
    }
    return {**row, **changed}


class Rows:
    """The rows of one episode of three steps, to be changed before they are stored."""

    def __init__(self, episode: str) -> None:
        self.decisions = [decision(episode, step) for step in range(3)]
        self.rewards = [reward(episode, step, step == 2) for step in range(3)]
        self.outcomes = [outcome(episode)]

    def insert(self, engine: sa.Engine) -> None:
        """Store them."""
        tables = ((store.decisions, self.decisions), (store.rewards, self.rewards), (store.outcomes, self.outcomes))
        with engine.begin() as connection:
            for table, rows in tables:
                if rows:
                    connection.execute(table.insert(), rows)
