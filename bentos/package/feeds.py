"""Feeds: what a caller gives a policy in process, read into the arrays that its graph takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bentos.package.action_masks import Masks
from bentos.package.interface import MASK, START, STATES, observation_parts
from bentos.package.manifest import Array, Manifest, Space, Tensor

_RANGED = ("Discrete", "MultiDiscrete")


class Feeds:
    """Reads observations, masks and recurrent state for one package. Holds no state of its own: threads may share it.

    All errors are ValueErrors that say what was expected and what came.
    """

    def __init__(self, manifest: Manifest) -> None:
        tensors = {tensor.name: tensor for tensor in manifest.inputs}
        spaces = observation_parts(manifest.observation_space)
        self._parts = [_Part(tensors[name], space) for name, space in spaces.items()]
        self._dict = manifest.observation_space.type == "Dict"
        self._masks = Masks(manifest.action_space) if MASK in tensors else None
        self.states = tuple(tensors[name] for name in STATES if name in tensors)
        alone = not (self._dict or self._masks or self.states)
        self._only = self._parts[0] if alone else None

    def read(self, observation: Any, action_mask: Any = None) -> tuple[dict[str, Array], bool]:
        """Feeds of one observation or a batch, and whether it was a batch. `recall` adds a recurrent policy's state.

        `observation` is an array, or a mapping of arrays for a Dict space, with or without a leading batch dimension;
        `action_mask` as sb3-contrib takes it, by default everything is allowed.
        """
        if self._only is not None and action_mask is None:
            array, batched = self._only.read(observation)
            return {self._only.name: array}, batched
        feeds, batched = self._observations(observation)
        size = len(next(iter(feeds.values())))
        if self._masks is not None:
            feeds[MASK] = self._mask(self._masks, action_mask, size, batched)
        elif action_mask is not None:
            raise ValueError("this policy takes no action_mask")
        return feeds, batched

    def recall(self, feeds: dict[str, Array], size: int, state: Any, episode_start: Any) -> None:
        """Add a recurrent policy's state, arrays [layers, n, hidden] (None: zeros), and starts [n] (None: of none)."""
        given: Sequence[Any] = (None,) * len(self.states) if state is None else state
        if len(given) != len(self.states):
            raise ValueError(f"state: expected {len(self.states)} arrays, came {len(given)}")
        for tensor, value in zip(self.states, given, strict=True):
            layers, hidden = tensor.shape
            array = np.zeros((layers, size, hidden)) if value is None else np.asarray(value)
            if array.shape != (layers, size, hidden):
                raise ValueError(f"state: expected shape {(layers, size, hidden)}, came {array.shape}")
            feeds[tensor.name] = np.ascontiguousarray(array.swapaxes(0, 1), dtype=tensor.dtype)
        starts = np.zeros(size) if episode_start is None else np.asarray(episode_start).reshape(-1)
        if starts.shape != (size,):
            raise ValueError(f"episode_start: expected {size} of them, came {len(starts)}")
        feeds[START] = starts.astype(np.float32)

    def doubt(self, feeds: Mapping[str, Array], finite: Array) -> str:
        """Why the graph would not vouch for its answer, in words."""
        row = int(np.argmin(np.reshape(finite, -1)))
        for part in self._parts:
            problem = part.problem(feeds[part.name][row])
            if problem:
                return f"{part.name}: {problem}" + (f" (row {row})" if len(finite) > 1 else "")
        return f"the policy's output is not finite (row {row}), although its observation is"

    def _observations(self, observation: Any) -> tuple[dict[str, Array], bool]:
        if not self._dict:
            array, batched = self._parts[0].read(observation)
            return {self._parts[0].name: array}, batched
        keys = [part.key for part in self._parts]
        if not isinstance(observation, Mapping) or set(observation) != set(keys):
            came = sorted(observation) if isinstance(observation, Mapping) else type(observation).__name__
            raise ValueError(f"observation: expected a mapping with the keys {keys}, came {came}")
        read = {part.name: part.read(observation[part.key]) for part in self._parts}
        sizes = {len(array) if batched else 0 for array, batched in read.values()}
        if len(sizes) > 1:
            shapes = {name: array.shape if batched else array.shape[1:] for name, (array, batched) in read.items()}
            raise ValueError(f"observation: its parts are not equally many: {shapes}")
        return {name: array for name, (array, _) in read.items()}, sizes != {0}

    @staticmethod
    def _mask(masks: Masks, given: Any, size: int, batched: bool) -> Array:
        if given is None:
            return np.ones((size, masks.width), dtype=bool)
        try:
            return masks.read(given if batched or np.shape(given)[:1] == (1,) else [given], size)
        except ValueError as error:
            raise ValueError(f"{MASK}: {error}, came shape {_shape(given)}") from error


class _Part:
    """One part of an observation: its input and the space it comes from."""

    def __init__(self, tensor: Tensor, space: Space) -> None:
        self.name = tensor.name
        self.key = tensor.name.partition(".")[2]
        self.shape = tensor.shape
        self.dtype = np.dtype(tensor.dtype)
        self._space = space
        self._channels = _channels(space)

    def read(self, value: Any) -> tuple[Array, bool]:
        """The value as [n, *shape] in the graph's dtype, and whether it was a batch."""
        if type(value) is np.ndarray and value.dtype is self.dtype:
            if value.shape == self.shape:
                return value[None], False
            if value.shape[1:] == self.shape and value.shape[0]:
                return value, True
        return self._convert(value)

    def problem(self, row: Array) -> str:
        """What is wrong with a row that the graph did not vouch for; empty: nothing."""
        if self.dtype.kind == "f":
            return "" if np.isfinite(row).all() else "expected finite numbers, came NaN or infinity"
        if self._space.type in _RANGED:
            most = np.asarray(self._space.nvec if self._space.nvec else self._space.n).reshape(row.shape) - 1
            if ((row < 0) | (row > most)).any():
                return f"expected numbers from 0 to {most.tolist()}, came {row.tolist()}"
        return ""

    def _convert(self, value: Any) -> tuple[Array, bool]:
        try:
            array = np.asarray(value)
        except ValueError:
            raise ValueError(f"{self.name}: expected shape {self._expected()}, came a ragged list") from None
        if array.dtype.kind not in "iufb":
            raise ValueError(f"{self.name}: expected {self.dtype} numbers, came {type(value).__name__} {value!r:.60}")
        array = self._turned(array)
        batched = array.ndim == len(self.shape) + 1
        if array.shape[1 if batched else 0 :] != self.shape or (batched and not len(array)):
            raise ValueError(f"{self.name}: expected shape {self._expected()}, came {array.shape}")
        if self.dtype.kind in "iu" and array.dtype != self.dtype:
            self._check_whole(array)
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=self.dtype)
        return (array, True) if batched else (array.reshape(1, *self.shape), False)

    def _turned(self, array: Array) -> Array:
        """An image whose channels stand at the other end than the package expects them, turned as SB3 does."""
        if self._channels is None or array.ndim not in (3, 4) or array.dtype != self.dtype:
            return array
        if array.shape == self.shape or array.shape[1:] == self.shape:
            return array
        turned = np.moveaxis(array, -1, -3) if self._channels == "first" else np.moveaxis(array, -3, -1)
        return turned if turned.shape[-3:] == self.shape else array

    def _check_whole(self, array: Array) -> None:
        limits = np.iinfo(self.dtype.name)
        if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
            raise ValueError(f"{self.name}: expected whole numbers, came {array.reshape(-1)[:8].tolist()}")
        if (array < limits.min).any() or (array > limits.max).any():
            raise ValueError(
                f"{self.name}: expected {self.dtype} numbers, came some from {array.min()} to {array.max()}"
            )

    def _expected(self) -> str:
        return f"{self.shape} or (n, {', '.join(map(str, self.shape))})" if self.shape else "() or (n,)"


def _channels(space: Space) -> str | None:
    """Where an image of bytes has its channels, "first" or "last": the end that is shorter than all else; else None."""
    if space.type != "Box" or space.dtype != "uint8" or len(space.shape) != 3:
        return None
    first, middle, last = space.shape
    if first < min(middle, last):
        return "first"
    return "last" if last < min(first, middle) else None


def _shape(value: Any) -> Any:
    try:
        return np.shape(value)
    except ValueError:
        return "ragged"
