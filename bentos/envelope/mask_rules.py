"""Mask rules: actions that the spec forbids in some situations, as a mask for every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bentos.envelope.entries import Entries
from bentos.package.action_masks import Masks
from bentos.package.manifest import Array, PackageError, Space
from bentos.package.safety import Condition, MaskRule

_NAME = "safety.action_mask"


class _Rule(NamedTuple):
    """Conditions on columns of the entries read: above, below, equals (NaN: any), [k] each; the mask it leaves [w]."""

    columns: Array
    above: Array
    below: Array
    equals: Array
    mask: Array


class MaskRules:
    """The spec's rules over one action space. A rule forbids its actions in the rows where all its conditions hold."""

    def __init__(self, rules: list[MaskRule], masks: Masks, space: Space, observations: Space | None) -> None:
        """Raises PackageError for rules that do not fit the actions or the observations."""
        if not masks.width:
            raise PackageError(f"{_NAME}: {space.type} actions cannot be masked; use bounds or constraints")
        conditions = [rule.when if isinstance(rule.when, list) else [rule.when] for rule in rules]
        places = list(dict.fromkeys((one.key, one.index) for when in conditions for one in when))
        self._entries = Entries(observations, places, _NAME)
        self._rules = [
            _read(number, rule, when, places, masks, space, observations)
            for number, (rule, when) in enumerate(zip(rules, conditions, strict=True))
        ]

    def allowed(self, feeds: Mapping[str, Array], size: int) -> Array | None:
        """The mask of every row, bool [size, width]; None where no rule forbids anything in any row."""
        values = self._entries.read(feeds, size)
        allowed: Array | None = None
        for rule in self._rules:
            value = values[:, rule.columns]
            holds = (value > rule.above) & (value < rule.below) & ((value == rule.equals) | np.isnan(rule.equals))
            fires = np.logical_and.reduce(holds, axis=1)
            if np.logical_or.reduce(fires):
                kept = rule.mask | ~fires[:, None]
                allowed = kept if allowed is None else allowed & kept
        return allowed


def _read(
    number: int,
    rule: MaskRule,
    when: list[Condition],
    places: list[tuple[str | None, int]],
    masks: Masks,
    space: Space,
    observations: Space | None,
) -> _Rule:
    name = f"{_NAME}[{number}]"
    if not when or any(one.above is None and one.below is None and one.equals is None for one in when):
        raise PackageError(f"{name}.when: each condition says what an entry is above, below or equal to, came {when}")
    mask = np.ones(masks.width, dtype=bool)
    mask[_forbidden(f"{name}.forbid", rule, masks, space)] = False
    if mask.all() or not np.logical_or.reduceat(mask, masks.starts).all():
        raise PackageError(
            f"{name}.forbid: expected some of the actions, and not all (of a dimension), came {rule.forbid}"
        )
    return _Rule(
        np.array([places.index((one.key, one.index)) for one in when]),
        np.array([-np.inf if one.above is None else one.above for one in when]),
        np.array([np.inf if one.below is None else one.below for one in when]),
        np.array([np.nan if one.equals is None else _as_observed(one.equals, one.key, observations) for one in when]),
        mask,
    )


def _forbidden(name: str, rule: MaskRule, masks: Masks, space: Space) -> list[int]:
    """The entries of the mask that a rule forbids."""
    if space.type == "Discrete":
        if not isinstance(rule.forbid, list):
            raise PackageError(f"{name}: expected a list of actions, came {rule.forbid}")
        by_dimension = {0: [action - space.start for action in rule.forbid]}
    elif isinstance(rule.forbid, dict) and all(str(key).isdecimal() for key in rule.forbid):
        by_dimension = {int(key): values for key, values in rule.forbid.items()}
    else:
        raise PackageError(f"{name}: expected lists of values by dimension, came {rule.forbid}")
    found = []
    for dimension, values in by_dimension.items():
        count = masks.widths[dimension] if dimension < len(masks.widths) else 0
        if any(not 0 <= value < count for value in values):
            raise PackageError(f"{name}: dimension {dimension} has {count} actions, came {rule.forbid}")
        found += [int(masks.starts[dimension]) + value for value in values]
    return found


def _as_observed(value: float, key: str | None, observations: Space | None) -> float:
    """A number as the graph's input holds it: 0.1 is asked as the float32 next to it."""
    part = observations if observations is None or key is None else (observations.spaces or {})[key]
    return float(np.float32(value)) if part is not None and part.dtype.startswith("float") else value
