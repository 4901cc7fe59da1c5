"""The safety section of a manifest: what the spec's `safety` asks for, as typed structures and nothing but data."""

from __future__ import annotations

from typing import Literal

import msgspec


class StateIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Entries of one part (`key`) of a Dict observation: one for all action dimensions, or one each (null: none)."""

    key: str
    index: int | list[int | None]


class AccelerationLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Most change of a velocity: `maximum` (velocity units a second) over a step of `dt` seconds.

    With `action: velocity` the action is the velocity that is reached by the next step, and the velocity now is the raw
    observation's entry `state_index`: |action - velocity| <= maximum * dt. With `action: acceleration` the action is
    the acceleration itself, which takes the velocity v to v + action * dt: |action| <= maximum, whatever v is.
    """

    maximum: float | list[float]
    dt: float | None = None
    state_index: int | list[int | None] | StateIndex | None = None
    action: Literal["velocity", "acceleration"] = "velocity"


class Constraint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """action · a + observation · o <= bound, of the flat action a and the flat raw observation o.

    `observation` is a list of all coefficients, or those that are not zero by index; for a Dict observation it has one
    of these (or a number, for a part of one entry) for each key.
    """

    action: list[float]
    bound: float
    observation: list[float] | dict[str, float | list[float] | dict[str, float]] = []


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds where the raw observation's entry `index` (of the part `key`) is above, below, equal to what is given."""

    index: int
    key: str | None = None
    above: float | None = None
    below: float | None = None
    equals: float | None = None


class MaskRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Forbids actions where all conditions hold: a list of Discrete actions, or of values by dimension."""

    when: Condition | list[Condition]
    forbid: list[int] | dict[str, list[int]]


class Safety(msgspec.Struct, frozen=True):
    """The envelope no action leaves; the spec's `safety` section."""

    action_bounds: tuple[float | list[float], float | list[float]] | None = None
    safety_margin: float = 0.0
    rate_limit: float | list[float] | None = None
    acceleration_limit: AccelerationLimit | None = None
    constraints: list[Constraint] = []
    action_mask: list[MaskRule] | None = None
    observation_range: tuple[float, float] | None = None
