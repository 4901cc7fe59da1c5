"""The decision log: every decision of a sample of episodes, with what it was made from, for people and for learning.

Sampled by whole episode, by the episode's random key, so that every worker and replica chooses the same ones. What
waits for the store is bounded; what does not fit is lost, and counted.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from bentos.rows import Array, Decision, Rows, observed
from bentos.store import tables
from bentos.tokens import Episode

SHARE = 0.01
"""Share of episodes that are logged, unless `$AIRLOCK_LOG_EPISODES` says another; all of a policy that explores."""

_MOST_ROWS = 20_000
_MOST_BYTES = 32 * 2**20
_LARGEST = 2**18
"""Bytes of an observation beyond which it is left out, and the rest of its decision kept."""

_BATCH = 500
_REMEMBERED = 100_000


def share() -> float:
    """The configured share of episodes. Raises ValueError for what is none."""
    configured = os.environ.get("AIRLOCK_LOG_EPISODES")
    value = SHARE if not configured else float(configured)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"AIRLOCK_LOG_EPISODES must lie in [0, 1], came {configured!r}")
    return value


def limit(of: float) -> str:
    """What the nonces of a share of all episodes are less than: they are random hex digits, 32 of them."""
    return "g" if of >= 1.0 else f"{int(of * 2**128):032x}"


class _Entry(NamedTuple):
    at: float
    policy: str
    version: str | None
    rows: tuple[str, str]  # arm, generation
    episode: str
    step: int
    observation: list[Array]
    action: Array
    log_prob: float
    source: str
    adjusted: list[str]
    seconds: float


class DecisionLog:
    """One worker's decisions that are not stored yet. Noted on the event loop, written by the writer's thread."""

    def __init__(self) -> None:
        self.lost = 0
        self._waiting: deque[_Entry] = deque()
        self._writing: list[_Entry] = []
        self._steps: dict[str, int] = {}
        self._noted = 0  # bytes; written by the event loop only
        self._taken = 0  # bytes; written by the writer's thread only

    def __len__(self) -> int:
        return len(self._waiting) + len(self._writing)

    def note(
        self, policy: str, rows: Rows, decision: Decision, chosen: list[tuple[int, Episode]], seconds: float
    ) -> None:
        """Keep the chosen rows of a decision that took `seconds`, until they are written."""
        now = time.time()
        drawn = decision.log_prob
        for row, episode in chosen:
            step = self._step(rows, row, episode.nonce)
            if len(self._waiting) >= _MOST_ROWS or self._noted - self._taken >= _MOST_BYTES:
                self.lost += 1
                continue
            # copies: the arrays may belong to a graph's buffers, which the next request fills again
            entry = _Entry(
                now,
                policy,
                decision.versions[row],
                (rows.arm, rows.generation),
                episode.nonce,
                step,
                [np.array(array[row]) for array in observed(rows.feeds)],
                np.array(decision.action[row]),
                math.nan if drawn is None else float(drawn[row]),
                decision.sources[row],
                list(decision.adjusted[row]) if decision.adjusted else [],
                seconds,
            )
            self._noted += _size(entry)
            self._waiting.append(entry)

    def _step(self, rows: Rows, row: int, nonce: str) -> int:
        """The decision's place in its episode: as the state token says, else counted by this worker."""
        if rows.states is not None:
            state = rows.states[row]
            return state.step if state is not None else 0
        step = self._steps.pop(nonce, 0)
        if len(self._steps) >= _REMEMBERED:
            del self._steps[next(iter(self._steps))]
        self._steps[nonce] = step + 1
        return step

    def write(self, connection: sa.Connection) -> None:
        """Insert a batch; `written` or `refused` must follow before the next."""
        while self._waiting and len(self._writing) < _BATCH:
            entry = self._waiting.popleft()
            self._taken += _size(entry)
            self._writing.append(entry)
        if self._writing:
            connection.execute(tables.decisions.insert(), [_row(entry) for entry in self._writing])

    def written(self) -> None:
        """The last batch is committed."""
        self._writing = []

    def refused(self) -> None:
        """The last batch cannot be stored, ever."""
        self.lost += len(self._writing)
        self._writing = []


def _size(entry: _Entry) -> int:
    return sum(array.nbytes for array in entry.observation)


def _row(entry: _Entry) -> dict[str, Any]:
    arm, generation = entry.rows
    return {
        "at": entry.at,
        "policy": entry.policy,
        "version": entry.version,
        "arm": arm,
        "generation": generation,
        "episode": entry.episode,
        "step": entry.step,
        "observation": b"".join(part.tobytes() for part in entry.observation) if _size(entry) <= _LARGEST else None,
        "observation_norm": norm(entry.observation),
        "action": entry.action.tolist(),
        "log_prob": None if math.isnan(entry.log_prob) else entry.log_prob,
        "source": entry.source,
        "adjusted": entry.adjusted,
        "latency_seconds": entry.seconds,
    }


def norm(observation: Sequence[Array]) -> float:
    """The Euclidean norm of one observation, over all its parts."""
    return math.sqrt(sum(float(np.square(part, dtype=np.float64).sum()) for part in observation))
