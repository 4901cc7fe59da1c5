"""Samples of requests for drift: what the decision path hands over without waiting, and which rows a detector sees."""

from __future__ import annotations

import math
from collections import deque
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


_REMEMBERED = 256


class Turns:
    """Picks the rows that the sequential detector sees: one a look at most, and about one an episode.

    The rows of one episode depend on each other, and a detector that takes them for independent fires for nothing.
    A row is drawn at random at each look and kept with the probability that thins those of the recent looks to one an
    episode. Refusing an episode's later rows instead would favour the beginnings of episodes. Where clients name no
    episode, a row a look is kept.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._recent: deque[str | None] = deque(maxlen=_REMEMBERED)

    def choose(self, taken: list[tuple[Block, Array]]) -> int | None:
        """The place of the chosen row among all rows taken, or None when none is kept this time."""
        sizes = [len(index) for _, index in taken]
        place = int(self._random.random() * sum(sizes))
        which, within = 0, place
        while within >= sizes[which]:
            within -= sizes[which]
            which += 1
        block, index = taken[which]
        episode = block.episodes[int(index[within])] if block.episodes is not None else None
        self._recent.append(episode.nonce if episode is not None else None)
        named = [nonce for nonce in self._recent if nonce is not None]
        kept = (len(set(named)) + len(self._recent) - len(named)) / len(self._recent)
        return place if self._random.random() < kept else None
