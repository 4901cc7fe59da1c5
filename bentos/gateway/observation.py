"""An observation input: what a request gives for it, read into the array that the graph takes."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from bentos.errors import Problem, brief
from bentos.package.manifest import Space, Tensor
from bentos.rows import Array

_NUMBERS = {float, int}
_NUMERIC = (float, int, np.number, np.bool_)


class Observation:
    """One observation input of the graph and the space it comes from."""

    def __init__(self, tensor: Tensor, space: Space) -> None:
        self.name = tensor.name
        self.key = tensor.name.partition(".")[2] or None
        self._shape = tensor.shape
        self._dtype = np.dtype(tensor.dtype)
        self._whole = self._dtype.kind != "f"
        self._flat = not self._whole and len(tensor.shape) == 1
        self._single = (1, *tensor.shape)
        most = 0.0 if self._whole else float(np.finfo(self._dtype.name).max)
        self._finite = (-most, most)
        self._low, self._high = self._limits(space)

    def _limits(self, space: Space) -> tuple[Any, Any]:
        if space.type == "Discrete" and space.n is not None:
            return space.start, space.start + space.n - 1
        if space.type == "MultiDiscrete":
            return 0, np.array(space.nvec).reshape(space.shape) - 1
        if space.type == "MultiBinary":
            return 0, 1
        if self._whole and self._dtype.kind in "iu":
            info = np.iinfo(self._dtype)
            return info.min, info.max
        return None, None

    def read(
        self, values: list[Any] | Array, size: int, limits: tuple[float, float] | None, typed: bool = False
    ) -> tuple[Array, Array | None]:
        """The values as an array [size, ...] in the graph's dtype, and which rows leave `limits` (bool [size]).

        One number beyond them is enough; None: no row does. An array that has that dtype is taken as it is. `typed`:
        the values are lists of numbers. Raises Problem (422).
        """
        if size == 1 and self._flat and (typed or _numbers(values)):
            plain = self._plain_row(values[0], limits or self._finite)
            if plain is not None:
                return plain, None
        if isinstance(values, np.ndarray):
            array = values
        else:
            found = self._typed(values) if typed else None
            array = self._array(values) if found is None else found
        if array.shape != (size, *self._shape):
            raise self._misshapen(list(array.shape[1:]))
        kind = array.dtype.kind
        if kind not in "iuf" and not (kind == "b" and self._whole):
            raise self._no_numbers("a number beyond all bounds" if kind == "O" else array.dtype.name)
        outside = None
        if self._whole:
            self._check_whole(array)
        elif array.size:
            low, high = limits or self._finite
            if not (low <= array.min() and array.max() <= high):
                outside = self._outside(array, limits)
        return (array if array.dtype == self._dtype else array.astype(self._dtype)), outside

    def _plain_row(self, row: list[float], limits: tuple[float, float]) -> Array | None:
        """One flat row whose numbers are plainly fine, without what NumPy takes to look at a few; None: look closer."""
        try:
            low, high, total = min(row), max(row), sum(row)
        except (ValueError, OverflowError):
            return None
        # NaN may hide from a minimum and a maximum, not from a sum
        if not (limits[0] <= low and high <= limits[1] and total - total == 0.0):
            return None
        array = np.array([row], self._dtype)
        return array if array.shape == self._single else None

    def _typed(self, values: list[Any]) -> Array | None:
        """Lists of numbers as an array; None where they are not all equally long, or no such numbers."""
        try:
            with np.errstate(over="ignore"):
                return np.array(values, self._dtype)
        except (ValueError, OverflowError):
            return None

    def _check_whole(self, array: Array) -> None:
        if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
            raise Problem(422, "dtype", f"{self.name} must be whole numbers", expected=self._dtype.name)
        if self._low is not None and ((array < self._low).any() or (array > self._high).any()):
            raise Problem(
                422,
                "range",
                f"{self.name} lies outside its space",
                expected=[np.asarray(self._low).tolist(), np.asarray(self._high).tolist()],
            )

    def _outside(self, array: Array, limits: tuple[float, float] | None) -> Array | None:
        flat = array.reshape(len(array), -1)
        if not ((flat >= self._finite[0]) & (flat <= self._finite[1])).all():  # NaN is neither
            raise Problem(422, "non_finite", f"{self.name} must be finite {self._dtype.name} numbers")
        if limits is None:
            return None
        return np.asarray(((flat < limits[0]) | (flat > limits[1])).any(axis=1))

    def _array(self, rows: list[Any]) -> Array:
        """Rows of numbers as an array. Raises Problem (422) for what has another shape, or is no number.

        Flat lists become arrays twice as fast as nested ones, and types are looked at first: of one long text among
        many numbers numpy would make as many long texts.
        """
        flat: list[Any] = rows
        try:
            for place, extent in enumerate(self._shape):
                lengths = set(map(len, flat))
                if lengths != {extent}:
                    raise self._misshapen([*self._shape[:place], *lengths] if len(lengths) == 1 else "ragged")
                flat = [*chain.from_iterable(flat)]
        except TypeError:
            raise self._misshapen("fewer dimensions") from None
        kinds = set(map(type, flat))
        if not kinds <= _NUMBERS and not all(issubclass(kind, _NUMERIC) for kind in kinds):
            if kinds & {list, tuple, np.ndarray}:
                raise self._misshapen("more dimensions")
            raise self._no_numbers(brief(rows[0]))
        return np.array(flat).reshape(len(rows), *self._shape)

    def _misshapen(self, came: Any) -> Problem:
        return Problem(422, "shape", f"{self.name} has the wrong shape", expected=list(self._shape), came=came)

    def _no_numbers(self, came: str) -> Problem:
        return Problem(422, "dtype", f"{self.name} must be numbers", expected=self._dtype.name, came=came)


def _numbers(values: Any) -> bool:
    """Whether the first of the values is a list of plain numbers."""
    row = values[0]
    return type(row) is list and set(map(type, row)) <= _NUMBERS


def part_of(space: Space, tensor: str) -> Space:
    """The part of an observation space that an input is of: a key of a Dict, else all of it."""
    key = tensor.partition(".")[2]
    return (space.spaces or {}).get(key, space) if key else space
