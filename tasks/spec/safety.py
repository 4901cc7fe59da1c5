"""The safety section of a policy spec: the envelope that no action leaves (docs/safety.md); and what a section is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    Tag,
    field_validator,
    model_validator,
)

Range = tuple[float, float]

_Most = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def ordered(value: Range | None) -> Range | None:
    """The range, if its low end is below its high end. Raises ValueError."""
    if value is not None and not value[0] < value[1]:
        raise ValueError(f"the low end must be below the high end, came [{value[0]}, {value[1]}]")
    return value


def _named(value: Any) -> Any:
    """Keys as text, as JSON has them: YAML reads an index as a number."""
    return {str(key): one for key, one in value.items()} if isinstance(value, dict) else value


def _form(value: Any) -> str:
    """Which form of a field was meant, so that only its errors are told."""
    return "list" if isinstance(value, list | tuple) else "mapping" if isinstance(value, dict | Section) else "number"


_BY_FORM = Discriminator(_form)

Limit = Annotated[Annotated[_Most, Tag("number")] | Annotated[list[_Most], Tag("list")], _BY_FORM]
Index = Annotated[str, Field(pattern=r"^[0-9]+$")]
Coefficients = Annotated[
    Annotated[FiniteFloat, Tag("number")]
    | Annotated[list[FiniteFloat], Tag("list")]
    | Annotated[dict[Index, FiniteFloat], BeforeValidator(_named), Tag("mapping")],
    _BY_FORM,
]
Terms = Annotated[
    Annotated[list[FiniteFloat], Tag("list")]
    | Annotated[dict[str, Coefficients], BeforeValidator(_named), Tag("mapping")],
    _BY_FORM,
]


class Section(BaseModel):
    """A section of a policy spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StateIndex(Section):
    """Entries of one part of a Dict observation."""

    key: str = Field(description="Key of the part")
    index: NonNegativeInt | list[NonNegativeInt | None] = Field(
        description="Its entry, flattened; or one for each action dimension, null for those without a limit"
    )


class AccelerationLimit(Section):
    """Most change of a velocity over a step."""

    maximum: Limit = Field(description="Most acceleration, velocity units a second; or one for each action dimension")
    dt: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Duration of a step, s")
    state_index: NonNegativeInt | list[NonNegativeInt | None] | StateIndex | None = Field(
        default=None,
        description="Where the raw observation, flattened, has the velocity: one index for all action dimensions, one "
        "for each (null: not limited), or {key, index} for a Dict observation",
    )
    action: Literal["velocity", "acceleration"] = Field(
        default="velocity",
        description="velocity: the action is the velocity that is reached by the next step, |action - velocity| <= "
        "maximum * dt; acceleration: it takes the velocity v to v + action * dt, so |action| <= maximum",
    )

    @model_validator(mode="after")
    def _velocity_is_known(self) -> AccelerationLimit:
        if self.action == "velocity" and (self.dt is None or self.state_index is None):
            raise ValueError("expected dt and state_index, where the action is a velocity")
        return self


class Constraint(Section):
    """One linear constraint: action · a + observation · o <= bound."""

    action: list[FiniteFloat] = Field(min_length=1, description="A coefficient for each entry of the action, flattened")
    bound: FiniteFloat = Field(description="What the sum must not exceed")
    observation: Terms = Field(
        default=[],
        description="Coefficients of the raw observation, flattened: a list of all, or by index those that are not 0; "
        "for a Dict observation such by key",
    )

    @field_validator("action")
    @classmethod
    def _acts(cls, value: list[float]) -> list[float]:
        if not any(value):
            raise ValueError("expected a coefficient that is not 0: no action could meet the constraint otherwise")
        return value


class Condition(Section):
    """What an entry of the raw observation is; of several tests all must hold."""

    index: NonNegativeInt = Field(description="Which entry of the observation, flattened")
    key: str | None = Field(default=None, description="Of which part of a Dict observation")
    above: FiniteFloat | None = Field(default=None, description="Holds where the entry is larger")
    below: FiniteFloat | None = Field(default=None, description="Holds where the entry is smaller")
    equals: FiniteFloat | None = Field(default=None, description="Holds where the entry is just this")

    @model_validator(mode="after")
    def _says_something(self) -> Condition:
        if self.above is None and self.below is None and self.equals is None:
            raise ValueError("expected at least one of above, below and equals")
        return self


class MaskRule(Section):
    """Actions that are forbidden while all conditions hold."""

    when: Annotated[
        Annotated[Condition, Tag("mapping")] | Annotated[list[Condition], Field(min_length=1), Tag("list")], _BY_FORM
    ] = Field(description="A condition, or several")
    forbid: Annotated[
        Annotated[list[int], Field(min_length=1), Tag("list")]
        | Annotated[dict[Index, list[NonNegativeInt]], Field(min_length=1), BeforeValidator(_named), Tag("mapping")],
        _BY_FORM,
    ] = Field(description="Actions of a Discrete space; for MultiDiscrete and MultiBinary {dimension: [values]}")


class Safety(Section):
    """The envelope no action leaves."""

    action_bounds: tuple[float | list[float], float | list[float]] | None = Field(
        default=None, description="[low, high] for continuous actions; null takes the action space's own"
    )
    safety_margin: float = Field(default=0.0, ge=0, lt=0.5, description="Share of the span taken off at each end")
    rate_limit: Limit | None = Field(default=None, description="Most change of an action per step")
    acceleration_limit: AccelerationLimit | None = Field(
        default=None, description="Limits the change of a velocity in the state, for continuous actions"
    )
    constraints: list[Constraint] = Field(
        default=[], description="Linear state-dependent constraints on continuous actions, met by projection"
    )
    action_mask: list[MaskRule] | None = Field(
        default=None, description="Rules that forbid actions by what was observed, for actions that are not continuous"
    )
    observation_range: Range | None = Field(default=(-10, 10), description="Outside it an observation raises an alert")

    _check_range = field_validator("observation_range")(ordered)

    @field_validator("constraints")
    @classmethod
    def _alike(cls, value: list[Constraint]) -> list[Constraint]:
        lengths = sorted({len(one.action) for one in value})
        if len(lengths) > 1:
            raise ValueError(f"expected as many action coefficients in every constraint, came {lengths}")
        return value

    @model_validator(mode="after")
    def _one_kind_of_action(self) -> Safety:
        if self.continuous and self.action_mask:
            continuous = " and ".join(self.continuous)
            raise ValueError(f"action_mask is for actions that are not continuous, {continuous} for those that are")
        return self

    @property
    def continuous(self) -> list[str]:
        """The fields asked for that only continuous actions can have."""
        names = ("action_bounds", "rate_limit", "acceleration_limit", "constraints")
        return [name for name in names if getattr(self, name) not in (None, [])]
