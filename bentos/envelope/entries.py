"""Entries: the numbers of raw observations that a limit reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bentos.package.interface import OBSERVATION, observation_parts
from bentos.package.manifest import Array, PackageError, Space


class Entries:
    """Numbers of raw observations, each by the part of a Dict (None: there are no parts) and its place, flattened."""

    def __init__(self, observations: Space | None, places: Sequence[tuple[str | None, int]], reader: str) -> None:
        """`reader` is who reads them, for errors. Raises PackageError for a place that the space does not have."""
        parts = {} if observations is None else observation_parts(observations)
        self._count = len(places)
        self._by_input: list[tuple[str, Array, Array]] = []
        for name in dict.fromkeys(_input(key) for key, _ in places):
            if name not in parts:
                raise PackageError(f"{reader}: there is no {name!r}; the observation has {sorted(parts)}")
            into = [column for column, (key, _) in enumerate(places) if _input(key) == name]
            indices = [places[column][1] for column in into]
            size = entry_count(parts[name])
            if min(indices) < 0 or max(indices) >= size:
                raise PackageError(f"{reader}: expected indices of {name} from 0 to {size - 1}, came {indices}")
            self._by_input.append((name, np.array(into), np.array(indices)))

    def read(self, feeds: Mapping[str, Array], size: int) -> Array:
        """The entries of every row, float64 [size, entries]."""
        if len(self._by_input) == 1:
            name, _, indices = self._by_input[0]
            return feeds[name].reshape(size, -1)[:, indices].astype(np.float64)
        found = np.empty((size, self._count))
        for name, into, indices in self._by_input:
            found[:, into] = feeds[name].reshape(size, -1)[:, indices]
        return found


def entry_count(space: Space) -> int:
    """How many numbers an observation of a space has (a Dict: one of its parts)."""
    return int(np.prod(space.shape, dtype=np.int64))


def _input(key: str | None) -> str:
    return OBSERVATION if key is None else f"{OBSERVATION}.{key}"
