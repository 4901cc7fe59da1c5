"""The polytope: linear constraints on the action whose bounds follow the observation, and the way into it."""

from __future__ import annotations

from collections.abc import Mapping

import daqp
import numpy as np

from bentos.envelope.entries import Entries, entry_count
from bentos.package.interface import observation_parts
from bentos.package.manifest import Array, PackageError, Space
from bentos.package.safety import Constraint

_TRIES = 8
_FAR = 1e6
_TOLERANCE = 1e-12
_CLOSENESS = 1e-8
"""Weight of the distance to the policy's action beside that of the violation, where no action meets all constraints."""


class Polytope:
    """The actions a with A a <= b, row by row of `constraints`; b = bound - D o follows the flat raw observation o.

    An action is inside when that holds in float64 arithmetic for the very numbers that leave, in the action's dtype.
    Quadratic programs are solved by the dual active-set method of Arnström, Bemporad & Axehill (2022, "A Dual
    Active-Set Solver for Embedded Quadratic Programming Using Recursive LDL' Updates"), as the library daqp has it.
    """

    def __init__(self, constraints: list[Constraint], space: Space, observations: Space | None) -> None:
        """Raises PackageError for constraints that do not fit the actions or the observations."""
        self._dtype = np.dtype(space.dtype)
        if self._dtype.kind != "f":
            raise PackageError(f"safety.constraints are for actions of float numbers; this policy's are {space.dtype}")
        dimensions = entry_count(space)
        for number, one in enumerate(constraints):
            if len(one.action) != dimensions or not np.any(one.action):
                raise PackageError(
                    f"safety.constraints[{number}].action: expected {dimensions} coefficients, one for each entry of "
                    f"an action and not all 0, came {one.action}"
                )
        self._matrix = np.array([one.action for one in constraints], dtype=np.float64)
        self._bound = np.array([one.bound for one in constraints], dtype=np.float64)
        self._lengths = np.linalg.norm(self._matrix, axis=1)
        self._normals = self._matrix / self._lengths[:, None]
        self._senses = np.zeros(len(constraints) + dimensions, dtype=np.int32)
        terms = [_terms(one, number, observations) for number, one in enumerate(constraints)]
        places = list(dict.fromkeys(place for row in terms for place in row))
        self._observed = Entries(observations, places, "safety.constraints") if places else None
        self._slopes = np.array([[row.get(place, 0.0) for place in places] for row in terms])
        if not all(np.isfinite(part).all() for part in (self._matrix, self._bound, self._slopes)):
            raise PackageError(f"safety.constraints: expected finite numbers, came {constraints}")

    def bounds(self, feeds: Mapping[str, Array], size: int) -> Array:
        """b of every row, float64 [size, constraints]."""
        if self._observed is None:
            return np.broadcast_to(self._bound, (size, len(self._bound)))
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._bound - self._observed.read(feeds, size) @ self._slopes.T
        return np.where(np.isnan(found), -np.inf, found)

    def broken(self, actions: Array, bounds: Array) -> Array:
        """Which constraints `actions` [n, d] break: bool [n, constraints]."""
        return ~(actions.astype(np.float64) @ self._matrix.T <= bounds)

    def project(self, target: Array, low: Array, high: Array, bound: Array) -> tuple[Array, bool] | None:
        """The point next to `target` [d] (Euclid) of the polytope within the box, and whether it is inside.

        It is in the action's dtype, and may lie inside by a few of its steps where rounding the exact point led out. It
        is not inside, and is the exact point, rounded, where that set is thinner than the steps of the dtype. None
        where no action meets all constraints.
        """
        ends = low.astype(np.float64), high.astype(np.float64)
        nearest = self._nearest(target.astype(np.float64), *ends, bound)
        if nearest is None:
            return None
        rounded = first = nearest.astype(self._dtype)
        for _ in range(_TRIES):
            if not self.broken(rounded[None], bound).any():
                return rounded, True
            step = np.abs(self._matrix) @ np.abs(np.spacing(rounded)).astype(np.float64)
            inner = self._nearest(nearest, *ends, bound - step)
            if inner is None:
                break
            nearest, rounded = inner, inner.astype(self._dtype)
        return first, False

    def least_violation(self, target: Array, low: Array, high: Array, bound: Array) -> Array:
        """The point [d] of the box with the least sum of squared distances to the constraints that it breaks."""
        ends = low.astype(np.float64), high.astype(np.float64)
        dimensions, rows = len(low), len(bound)
        start, aim, slack, unit = self._scaled(target.astype(np.float64), *ends, bound)
        weights = np.concatenate([np.full(dimensions, _CLOSENESS), np.ones(rows)])
        solution, _, flag, _ = daqp.solve(
            np.diag(weights),
            np.concatenate([-_CLOSENESS * aim, np.zeros(rows)]),
            np.hstack([self._normals, -np.eye(rows)]),
            np.concatenate([(ends[1] - start) / unit, np.full(rows, np.inf), slack]),
            np.concatenate([(ends[0] - start) / unit, np.full(2 * rows, -np.inf)]),
            np.zeros(dimensions + 2 * rows, dtype=np.int32),
        )
        best = start + unit * solution[:dimensions] if flag > 0 else start
        return np.clip(np.clip(best, *ends).astype(self._dtype), low, high)

    def _nearest(self, target: Array, low: Array, high: Array, bound: Array) -> Array | None:
        """The exact projection, float64; None where the set is empty."""
        start, aim, slack, unit = self._scaled(target, low, high, bound)
        if (slack >= 0).all():
            return start
        solution, _, flag, _ = daqp.solve(
            np.eye(len(aim)),
            -aim,
            self._normals,
            np.concatenate([(high - start) / unit, slack]),
            np.concatenate([(low - start) / unit, np.full(len(slack), -np.inf)]),
            self._senses,
            primal_tol=_TOLERANCE,
        )
        return np.clip(start + unit * solution, low, high) if flag > 0 else None

    def _scaled(self, target: Array, low: Array, high: Array, bound: Array) -> tuple[Array, Array, Array, float]:
        """The problem around the box's point next to the target, in a unit in which its numbers are at most about 1.

        Returns that point, and from there in that unit: the target and each constraint's slack; and the unit. Entries
        of a target a million times as large as any bound, or more, are drawn near, or the others had no digit left.
        """
        slack = bound / self._lengths
        sizes = np.abs(np.concatenate([slack, low, high]))
        far = _FAR * max(float(sizes[np.isfinite(sizes)].max(initial=0.0)), 1e-30)
        target = np.clip(target, -far, far)
        start = np.clip(target, low, high)
        away = target - start
        slack = slack - self._normals @ start
        unit = max(float((-slack[np.isfinite(slack)]).max(initial=0.0)), float(np.abs(away).max(initial=0.0)), 1e-30)
        return start, away / unit, np.maximum(slack / unit, -1e20), unit


def _terms(constraint: Constraint, number: int, observations: Space | None) -> dict[tuple[str | None, int], float]:
    """The coefficients of a constraint on the observation, by part and place."""
    given = constraint.observation
    if not given or observations is None:
        if given:
            raise PackageError(f"safety.constraints[{number}]: the observation space is not known")
        return {}
    name = f"safety.constraints[{number}].observation"
    if observations.type != "Dict":
        return {(None, index): value for index, value in _coefficients(given, entry_count(observations), name).items()}
    if not isinstance(given, dict):
        raise PackageError(
            f"{name}: expected coefficients for keys of {sorted(observations.spaces or {})}, came {given}"
        )
    parts = {name.partition(".")[2]: part for name, part in observation_parts(observations).items()}
    if unknown := sorted(set(given) - set(parts)):
        raise PackageError(f"{name}: expected keys of {sorted(parts)}, came {unknown}")
    return {
        (key, index): value
        for key, values in given.items()
        for index, value in _coefficients(values, entry_count(parts[key]), f"{name}.{key}").items()
    }


def _coefficients(given: object, size: int, name: str) -> dict[int, float]:
    if isinstance(given, int | float):
        given = [given]
    if isinstance(given, list):
        if len(given) != size:
            raise PackageError(f"{name}: expected {size} coefficients, one an entry, came {len(given)}")
        return {index: float(value) for index, value in enumerate(given) if value}
    if isinstance(given, dict) and all(str(key).isdecimal() and isinstance(v, int | float) for key, v in given.items()):
        return {int(key): float(value) for key, value in given.items()}
    raise PackageError(f"{name}: expected coefficients in a list or by index, came {given!r}")
