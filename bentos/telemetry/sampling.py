"""A sample of the requests since the last look: what the decision path hands over, without copying or waiting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from bentos.rows import Array, Rows
from bentos.telemetry.counters import Arm
from bentos.tokens import Episode

BLOCKS = 32
"""Requests kept between two looks; at higher rates each request has the same chance."""

ROWS = 128
"""Most rows taken from them at a look."""

BLOCK_BYTES = 65_536
"""A larger request gives one row, copied, so that a sample never holds on to much memory."""


@dataclass(frozen=True, slots=True)
class Block:
    """One request's feeds and actions, [size, ...] each, and its episodes where the client named them.

    `arm` counts what is found of its rows.
    """

    feeds: dict[str, Array]
    actions: Array
    episodes: Sequence[Episode | None] | None
    size: int
    arm: Arm | None = None


class Sample:
    """A reservoir of requests (Li 1994, algorithm L: how many to pass over is drawn beforehand). For one thread."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._blocks: list[Block] = []
        self._passing = 0
        self._threshold = 1.0

    def add(self, rows: Rows, actions: Array, arm: Arm | None = None) -> None:
        """Keep a request, or pass it over. Arrays are kept as they are, and only referred to."""
        if self._passing:
            self._passing -= 1
            return
        if len(self._blocks) < BLOCKS:
            self._blocks.append(self._block(rows, actions, arm))
        else:
            self._blocks[int(self._random.random() * BLOCKS)] = self._block(rows, actions, arm)
        if len(self._blocks) == BLOCKS:
            self._threshold *= (1.0 - self._random.random()) ** (1.0 / BLOCKS)
            self._passing = int(math.log(1.0 - self._random.random()) / math.log1p(-self._threshold))

    def take(self) -> list[tuple[Block, Array]]:
        """The kept requests and which of their rows (indices, int) to look at, every row as likely; starts anew."""
        blocks = self._blocks
        self._blocks, self._passing, self._threshold = [], 0, 1.0
        ends = np.cumsum([block.size for block in blocks])
        total = int(ends[-1]) if blocks else 0
        if total <= ROWS:
            return [(block, np.arange(block.size)) for block in blocks]
        chosen = np.sort(self._random.sample(range(total), ROWS))
        owner = np.searchsorted(ends, chosen, side="right")
        begins = ends - [block.size for block in blocks]
        return [(blocks[k], chosen[owner == k] - begins[k]) for k in np.unique(owner).tolist()]

    def _block(self, rows: Rows, actions: Array, arm: Arm | None) -> Block:
        if sum(feed.nbytes for feed in rows.feeds.values()) <= BLOCK_BYTES:
            return Block(rows.feeds, actions, rows.episodes, rows.size, arm)
        place = int(self._random.random() * rows.size)
        only = slice(place, place + 1)
        return Block(
            {name: feed[only].copy() for name, feed in rows.feeds.items()},
            actions[only].copy(),
            None if rows.episodes is None else rows.episodes[only],
            1,
            arm,
        )
