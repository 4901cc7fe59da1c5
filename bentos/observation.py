"""An observation input: what a request gives for it, read into the array that the graph takes."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from bentos.package import Space, Tensor
from bentos.problems import Problem, brief
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

    def read(self, values: list[Any] | Array, size: int) -> Array:
        """The values as an array [size, ...] in the graph's dtype: the very array given, if it is one of that dtype.

        Raises Problem (422).
        """
        array = values if isinstance(values, np.ndarray) else self._array(values)
        if array.shape != (size, *self._shape):
            raise self._misshapen(list(array.shape[1:]))
        kind = array.dtype.kind
        if kind not in "iuf" and not (kind == "b" and self._whole):
            raise self._no_numbers(array.dtype.name)
        if self._whole:
            if kind == "f" and not np.array_equal(array, np.rint(array)):
                raise Problem(422, "dtype", f"{self.name} must be whole numbers", expected=self._dtype.name)
            if self._low is not None and ((array < self._low).any() or (array > self._high).any()):
                raise Problem(
                    422,
                    "range",
                    f"{self.name} lies outside its space",
                    expected=[np.asarray(self._low).tolist(), np.asarray(self._high).tolist()],
                )
        if array.dtype == self._dtype:
            return array
        with np.errstate(over="ignore"):
            return array.astype(self._dtype)

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
        whole = self._whole or bool in kinds or np.bool_ in kinds
        try:
            with np.errstate(over="ignore"):
                array = np.array(flat, None if whole else self._dtype)
        except OverflowError:
            raise self._no_numbers("a number beyond all bounds") from None
        return array.reshape(len(rows), *self._shape)

    def _misshapen(self, came: Any) -> Problem:
        return Problem(422, "shape", f"{self.name} has the wrong shape", expected=list(self._shape), came=came)

    def _no_numbers(self, came: str) -> Problem:
        return Problem(422, "dtype", f"{self.name} must be numbers", expected=self._dtype.name, came=came)

    def check(self, array: Array, limits: tuple[float, float] | None) -> int:
        """How many rows leave the range (one number beyond it is enough). Raises Problem (422) when not finite."""
        if self._whole or array.size == 0:
            return 0
        low, high = np.minimum.reduce(array, axis=None), np.maximum.reduce(array, axis=None)
        if limits is not None and low >= limits[0] and high <= limits[1]:
            return 0
        if not (np.isfinite(low) and np.isfinite(high)):
            raise Problem(422, "non_finite", f"{self.name} must be finite {self._dtype.name} numbers")
        if limits is None:
            return 0
        flat = array.reshape(len(array), -1)
        return int(((flat < limits[0]) | (flat > limits[1])).any(axis=1).sum())


def part_of(space: Space, tensor: str) -> Space:
    """The part of an observation space that an input is of: a key of a Dict, else all of it."""
    key = tensor.partition(".")[2]
    return (space.spaces or {}).get(key, space) if key else space
