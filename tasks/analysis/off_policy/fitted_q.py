"""Off-policy evaluation by values: fitted Q evaluation by an average of nearest neighbours, for a finite horizon.

Le, Voloshin & Yue 2019 (algorithm 3): with h steps left, Q_h(s, a) fits r + E_π Q_{h-1}(s', ·) to the logged (s, a).
What fits here is a weighted mean of the nearest logged transitions. Such averagers never leave the range of what was
seen and cannot diverge (Gordon 1995; Ormoneit & Sen 2002), where a linear or neural fit over hundreds of steps does as
soon as the evaluated policy acts otherwise than the logged one. Where it acts as nobody did, the estimate falls back
to what was done most nearly, so a gain is understated rather than invented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from tasks.analysis.off_policy.importance_sampling import Floats

NEIGHBOURS = 5
APART = 10.0
"""Distance between two whole-number actions, in standard deviations of a state's numbers."""

Indices = npt.NDArray[np.int64]
Act = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""States [n, d] to actions [n, ...]."""


@dataclass(frozen=True)
class Logged:
    """Transitions whose next state is known: `state`, `following` [n, d], `action` [n, ...], `reward` float64 [n],
    `terminated` bool [n], and the `episode` int64 [n] of each, of so many `episodes`."""

    state: npt.NDArray[Any]
    action: npt.NDArray[Any]
    reward: Floats
    following: npt.NDArray[Any]
    terminated: npt.NDArray[np.bool_]
    episode: Indices
    episodes: int


@dataclass(frozen=True)
class Near:
    """The neighbours of asked pairs: `index` into the logged transitions and `weight` of each, both [m, k]."""

    index: Indices
    weight: Floats

    def mean(self, values: Floats) -> Floats:
        """The weighted mean of `values` [n] over the neighbours of each pair, [m]."""
        return np.asarray((self.weight * values[self.index]).sum(axis=1))

    def counted(self, counts: Floats) -> Near:
        """The same neighbours, each weighed by its `counts` [n] as well; all of them alike where no count is left."""
        weight = self.weight * counts[self.index]
        total = weight.sum(axis=1, keepdims=True)
        return Near(self.index, np.where(total > 0, weight / np.where(total > 0, total, 1.0), self.weight))


class Neighbourhood:
    """Logged transitions, asked for those that are near a state and an action."""

    def __init__(self, logged: Logged, whole: bool, neighbours: int = NEIGHBOURS) -> None:
        """`whole`: actions are whole numbers, of which different ones are far apart."""
        self.logged = logged
        self._whole = whole
        self._actions = np.unique(logged.action) if whole else np.empty(0)
        self._scale = _scale(logged.state)
        self._action_scale = _scale(logged.action)
        place = self._place(logged.state, logged.action)
        self._tree = cKDTree(place)
        self._neighbours = min(neighbours, len(place))
        self._spacing = float(self._tree.query(place, k=[min(2, len(place))])[0].mean()) or 1.0

    def near(self, state: npt.NDArray[Any], action: npt.NDArray[Any]) -> Near:
        """The neighbours of states [m, d] with actions [m, ...], weighed by their inverse distance (Shepard 1968)."""
        ranks = list(range(1, self._neighbours + 1))
        distance, index = self._tree.query(self._place(state, action), k=ranks)
        weight = 1.0 / (distance + 0.1 * self._spacing)
        return Near(index, weight / weight.sum(axis=1, keepdims=True))

    def _place(self, state: npt.NDArray[Any], action: npt.NDArray[Any]) -> Floats:
        states = np.reshape(state, (len(state), -1)).astype(np.float64) / self._scale
        if self._whole:
            place = APART * (np.reshape(action, (-1, 1)) == self._actions)
        else:
            place = np.reshape(action, (len(action), -1)).astype(np.float64) / self._action_scale
        return np.concatenate([states, place], axis=1)


def _scale(values: npt.NDArray[Any]) -> Floats:
    deviation = np.reshape(values, (len(values), -1)).astype(np.float64).std(axis=0)
    return np.where(deviation > 1e-8, deviation, 1.0)


class Fitted:
    """A policy's fitted values on a neighbourhood, for every number of steps left up to `horizon`."""

    def __init__(self, around: Neighbourhood, act: Act, horizon: int) -> None:
        self._logged = around.logged
        self._horizon = horizon
        self._following = around.near(self._logged.following, act(self._logged.following))

    def targets(self, counts: Floats | None = None) -> Floats:
        """r + E_π Q_{h-1}(s', ·) of each logged transition for h from 0 (zeros) to the horizon, [horizon + 1, n].

        `counts` [episodes] weighs the episodes.
        """
        logged = self._logged
        following = self._following if counts is None else self._following.counted(counts[logged.episode])
        goes_on = ~logged.terminated
        found = np.zeros((self._horizon + 1, len(logged.reward)))
        for left in range(1, self._horizon + 1):
            found[left] = logged.reward + goes_on * following.mean(found[left - 1])
        return found

    def values(self, first: Near, counts: Floats) -> Floats:
        """Mean return over the horizon, one value a row of `counts` [n, episodes]; `first` are the neighbours of each
        episode's first state with the policy's action there."""
        result = []
        for row in np.atleast_2d(counts):
            last = self.targets(row)[-1]
            begun = first.counted(row[self._logged.episode]).mean(last)
            result.append(float(row @ begun / row.sum()))
        return np.array(result)
