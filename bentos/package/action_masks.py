"""Action masks: which of its actions a policy may take now, one boolean an action, dimension by dimension."""

from __future__ import annotations

from itertools import chain

import numpy as np

from bentos.package.manifest import Array, Space

_LISTS = (list, tuple, np.ndarray)
_KINDS = {bool, int, np.bool_}


class Masks:
    """The masks of one action space: `width` booleans, for MultiDiscrete and MultiBinary all dimensions in a row.

    `widths` and `starts` say how many entries each dimension has, and where they begin. A MultiBinary dimension has two
    entries, for 0 and 1. A space that cannot be masked has width 0.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self.widths = _widths(space)
        self.starts = np.cumsum([0, *self.widths[:-1]])
        self.width = sum(self.widths)

    def read(self, given: object, size: int) -> Array:
        """`given` as masks bool [size, width]. Raises ValueError that says what was expected."""
        if not self.width:
            raise ValueError(f"{self._space.type} actions cannot be masked")
        try:
            masks = np.asarray(given) if isinstance(given, np.ndarray) or _flags(given) else np.empty(0)
        except ValueError:
            masks = np.empty(0)
        if masks.size != size * self.width or masks.dtype.kind not in "biu" or masks.shape[:1] != (size,):
            raise ValueError(f"a mask is a list of {self.width} booleans, one an action")
        masks = masks.reshape(size, self.width).astype(bool, copy=False)
        if not np.logical_or.reduceat(masks, self.starts, axis=1).all():
            raise ValueError(
                "a mask must allow at least one action" + (" in every dimension" if len(self.widths) > 1 else "")
            )
        return masks

    def obeyed(self, masks: Array, actions: Array, scores: Array | None) -> Array:
        """`actions` [n, ...] with each one that `masks` [n, width] forbids replaced by the best that is allowed.

        Best by `scores` [n, width] (or one logit a binary dimension), else the first.
        """
        chosen = self._chosen(actions)
        allowed = np.take_along_axis(masks, self.starts + chosen, axis=1)
        if allowed.all():
            return actions
        ranked = self._ranked(scores, masks)
        for dimension in np.flatnonzero(~allowed.all(axis=0)).tolist():
            start = self.starts[dimension]
            best = ranked[:, start : start + self.widths[dimension]].argmax(axis=1)
            chosen[:, dimension] = np.where(allowed[:, dimension], chosen[:, dimension], best)
        return (chosen + self._space.start).reshape(actions.shape).astype(actions.dtype)

    def allows(self, masks: Array, actions: Array) -> Array:
        """Whether `masks` [n, width] allow the `actions` [n, ...]: bool [n]."""
        allowed = np.take_along_axis(masks, self.starts + self._chosen(actions), axis=1)
        return np.logical_and.reduce(allowed, axis=1)

    def only(self, action: Array) -> Array:
        """The mask [width] that allows one `action` and no other."""
        mask = np.zeros(self.width, dtype=bool)
        mask[self.starts + self._chosen(action[None])[0]] = True
        return mask

    def _chosen(self, actions: Array) -> Array:
        """The place of each action in its dimension, int64 [n, dimensions]."""
        chosen: Array = actions.reshape(len(actions), -1).astype(np.int64) - self._space.start
        return chosen

    def _ranked(self, scores: Array | None, masks: Array) -> Array:
        found = np.zeros(masks.shape)
        if scores is not None:
            given = np.asarray(scores, dtype=np.float64).reshape(len(masks), -1)
            if given.shape == masks.shape:
                found = np.nan_to_num(given, nan=-np.inf, neginf=-1e300)
            elif 2 * given.shape[1] == self.width:
                found[:, 1::2] = np.nan_to_num(given)
        return np.where(masks, found, -np.inf)


def _flags(given: object) -> bool:
    """Whether nested lists hold booleans and integers only: numpy would make room for a text in every entry."""
    flat = given
    try:
        while isinstance(flat, _LISTS) and len(flat) and isinstance(flat[0], _LISTS):
            flat = [*chain.from_iterable(flat)]
        return set(map(type, flat)) <= _KINDS  # type: ignore[call-overload]
    except TypeError:
        return False


def _widths(space: Space) -> tuple[int, ...]:
    if space.type == "Discrete":
        return (space.n or 0,)
    if space.type == "MultiDiscrete":
        return space.nvec or ()
    if space.type == "MultiBinary":
        return (2,) * int(np.prod(space.shape))
    return ()
