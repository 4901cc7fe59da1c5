"""Questions: observations as a predictor is given them turned into rows to ask about, and answers into its actions."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Space(msgspec.Struct, frozen=True):
    """What a client needs to know of a Gymnasium space, as the gateway tells it."""

    type: str
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    spaces: dict[str, Space] | None = None


class Question(NamedTuple):
    """Rows to ask about. `single`: one observation was given, not a batch of them."""

    observations: Array | dict[str, Array]
    size: int
    single: bool

    def rows(self, first: int, end: int) -> Any:
        """The rows from `first` to before `end`, as the gateway takes them."""
        if isinstance(self.observations, dict):
            parts = {key: value[first:end].tolist() for key, value in self.observations.items()}
            return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
        return self.observations[first:end]

    @property
    def numbers(self) -> int:
        """How many numbers a row has."""
        parts = self.observations.values() if isinstance(self.observations, dict) else [self.observations]
        return sum(part[0].size for part in parts)


def question(given: Any, space: Space) -> Question:
    """Tell one observation of `space` from a batch [n, ...] of them.

    Images may also come channels first, as SB3's VecTransposeImage makes them; they are turned back into what the
    environment emits. Raises ValueError that says which shape was expected and which came.
    """
    if space.type != "Dict":
        array, single = _batch(given, space, "the observation")
        return Question(array, len(array), single)
    spaces = space.spaces or {}
    if not isinstance(given, dict) or set(given) != set(spaces):
        came = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"expected an observation that is a dict of {sorted(spaces)}, came {came}")
    parts = {key: _batch(given[key], one, f"observation {key!r}") for key, one in spaces.items()}
    kinds = {(len(array), single) for array, single in parts.values()}
    if len(kinds) != 1:
        shapes = {key: np.shape(given[key]) for key in spaces}
        raise ValueError(f"expected one observation, or as many in each part of it, came {shapes}")
    ((size, single),) = kinds
    return Question({key: array for key, (array, _) in parts.items()}, size, single)


def _batch(given: Any, space: Space, what: str) -> tuple[Array, bool]:
    array = np.asarray(given)
    shape = space.shape
    for wanted, turned in ((shape, False), ((shape[2:] + shape[:2]) if len(shape) == 3 else shape, True)):
        if array.shape == wanted:
            whole, single = array[None], True
        elif array.ndim == len(wanted) + 1 and array.shape[1:] == wanted and len(array):
            whole, single = array, False
        else:
            continue
        return (np.moveaxis(whole, 1, -1) if turned and wanted != shape else whole), single
    raise ValueError(f"expected {what} of shape {shape}, or a batch of them (n, *{shape}), came {array.shape}")


def actions(given: Any, space: Space, single: bool) -> Array:
    """The gateway's actions as `env.step` takes them: [n, ...] of the action space's dtype, or one without n."""
    whole = np.asarray(given).astype(space.dtype)
    return np.asarray(whole[0]) if single else whole


def masks(given: Any, size: int) -> Array:
    """Action masks as booleans [n, actions]. Raises ValueError when they are not as many as the observations."""
    array = np.asarray(given, dtype=bool)
    if array.size and ((array.ndim == 1 and size == 1) or (array.ndim > 1 and len(array) == size)):
        return array.reshape(size, -1)
    raise ValueError(f"expected one action mask an observation ({size}), came an array of shape {array.shape}")
