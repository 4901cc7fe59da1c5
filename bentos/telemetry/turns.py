"""Which rows a sequential detector sees."""

from __future__ import annotations

from collections import deque
from random import Random

from bentos.rows import Array
from bentos.telemetry.sampling import Block

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
