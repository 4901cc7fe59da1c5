"""Choices: actions that are not continuous are held to their range, to the request's mask and to the spec's rules."""

from __future__ import annotations

from operator import le
from typing import NamedTuple

import numpy as np

from bentos.envelope.adjustment import ACTION_MASK, BOUNDS, MASK_RULE, change
from bentos.envelope.limits import bounds, inward
from bentos.envelope.mask_rules import MaskRules
from bentos.package.action_masks import Masks
from bentos.package.manifest import Array, PackageError, Space
from bentos.package.safety import Safety
from bentos.rows import Decision, Rows


class Permitted(NamedTuple):
    """The masks [n, width] of a request, of the rules that apply to it (None: there are none) and of both together.

    `missed` bool [n] marks rows of which both together forbade everything in some dimension.
    """

    requested: Array | None
    ruled: Array | None
    both: Array
    missed: Array | None


class Choices:
    """What is forbidden gives way to the next best allowed, by the graph's logits or q-values (see `Masks.obeyed`).

    In a dimension of which request and rules together forbid everything, `fallback`'s value is taken if the request
    allows it, else the request's mask alone counts.
    """

    def __init__(self, space: Space, safety: Safety, observations: Space | None, fallback: Array | None) -> None:
        """`fallback` is the spec's constant action, if it has one. Raises PackageError for rules that do not fit."""
        asked = {
            "acceleration_limit": safety.acceleration_limit,
            "constraints": safety.constraints,
            "rate_limit": safety.rate_limit,
        }
        if unfit := sorted(f"safety.{name}" for name, value in asked.items() if value):
            raise PackageError(f"{', '.join(unfit)}: for Box actions; this policy's are {space.type}")
        self._masks = Masks(space)
        self._low, self._high = inward(*bounds(space, safety), np.dtype(space.dtype))
        self._lows, self._highs = self._low.reshape(-1).tolist(), self._high.reshape(-1).tolist()
        self._one = (self._lows[0], self._highs[0]) if len(self._lows) == 1 else None
        self._rules = MaskRules(safety.action_mask, self._masks, space, observations) if safety.action_mask else None
        self._fallback = None if fallback is None else self._masks.only(fallback)

    def permitted(self, rows: Rows) -> Permitted | None:
        """What these rows may choose from; None where nothing is forbidden."""
        requested = rows.masks
        if self._rules is None and requested is None:
            return None
        ruled = None if self._rules is None else self._rules.allowed(rows.feeds, rows.size)
        if ruled is None:
            return None if requested is None else Permitted(requested, None, requested, None)
        both = ruled if requested is None else ruled & requested
        left = np.logical_or.reduceat(both, self._masks.starts, axis=1)
        if left.all():
            return Permitted(requested, ruled, both, None)
        instead = np.ones_like(ruled) if requested is None else requested
        if self._fallback is not None:
            only = instead & self._fallback
            kept = np.logical_or.reduceat(only, self._masks.starts, axis=1)
            instead = np.where(np.repeat(kept, self._masks.widths, axis=1), only, instead)
        both = np.where(np.repeat(left, self._masks.widths, axis=1), both, instead)
        return Permitted(requested, ruled, both, ~np.logical_and.reduce(left, axis=1))

    def hold(self, decision: Decision, permitted: Permitted | None) -> None:
        """Replace the actions that are not permitted, and note why; rows that an override forced are left alone."""
        action = decision.action
        if not (len(action) == 1 and self._within(action)):
            inside = np.minimum(np.maximum(action, self._low), self._high)
            if inside.tobytes() != action.tobytes():
                change(decision, inside, {BOUNDS: _rows(inside != action)})
        if permitted is not None:
            self._obey(decision, permitted)

    def _within(self, action: Array) -> bool:
        """Whether one action is in range. For its few numbers plain comparisons are quicker than those of arrays."""
        if self._one is not None:
            return self._one[0] <= action.item() <= self._one[1]
        values = action.reshape(-1).tolist()
        return all(map(le, self._lows, values)) and all(map(le, values, self._highs))

    def _obey(self, decision: Decision, permitted: Permitted) -> None:
        action = decision.action
        obeyed = self._masks.obeyed(permitted.both, action, decision.scores)
        if obeyed is action and permitted.missed is None:
            return
        reasons: dict[str, Array] = {}
        for reason, mask in ((ACTION_MASK, permitted.requested), (MASK_RULE, permitted.ruled)):
            if mask is not None:
                reasons[reason] = ~self._masks.allows(mask, action)
        change(decision, obeyed, reasons, permitted.missed)


def _rows(entries: Array) -> Array:
    return np.logical_or.reduce(entries.reshape(len(entries), -1), axis=1)
