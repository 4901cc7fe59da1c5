"""Requests and responses of the gateway's own HTTP routes."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bentos.errors import Problem

_T = TypeVar("_T")


class ActRequest(Struct, forbid_unknown_fields=True, gc=False):
    """One decision, or (names in the plural) many of them."""

    observation: Any = None
    observations: Any = None
    episode_id: str | None = None
    episode_ids: list[str | None] | None = None
    user_id: str | None = None
    user_ids: list[str | None] | None = None
    action_mask: Any = None
    action_masks: Any = None
    state: str | None = None
    states: list[str | None] | None = None


class ActResponse(Struct, gc=False):
    """One decision. `log_prob` is there where the policy explores; null for an action that was not drawn."""

    action: Any
    version: str | None
    arm: str
    source: str
    adjusted: list[str]
    decision_id: str
    state: str | UnsetType = UNSET
    log_prob: float | UnsetType | None = UNSET


class ManyActResponse(Struct, gc=False):
    """Many decisions, in the order of the observations."""

    actions: Any
    versions: list[str | None]
    arms: list[str]
    sources: list[str]
    adjusted: list[list[str]]
    decision_ids: list[str]
    states: list[str] | UnsetType = UNSET
    log_probs: list[float | None] | UnsetType = UNSET


class EpisodesRequest(Struct, forbid_unknown_fields=True):
    """Start one episode, or one for each of `user_ids` (null: no user).

    Requests with the same `idempotency_key` (random text of the client's) start the same episodes: one that got no
    answer can be sent again.

    `observation` (or `observations`, one an episode) is what the episode begins with, where it is known already: what a
    canary knows of an episode before its arm acts makes its verdict come sooner.
    """

    user_id: str | None = None
    user_ids: list[str | None] | None = None
    idempotency_key: Annotated[str, Meta(min_length=16, max_length=256)] | None = None
    observation: Any = None
    observations: list[Any] | None = None


class Started(Struct):
    """A started episode. `version` is None where the fallback answers."""

    episode_id: str
    version: str | None
    arm: str


class ManyStarted(Struct):
    """Started episodes, in the order of the users."""

    episodes: list[Started]


class Outcome(Struct, forbid_unknown_fields=True):
    """How an episode ended: the sum of its rewards and its number of steps."""

    episode_id: str
    episode_return: float = msgspec.field(name="return")
    length: Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Reward(Struct, forbid_unknown_fields=True):
    """What one step of an episode, counted from 0, earned, whether the episode ended with it, and what it led to."""

    episode_id: str
    step: Annotated[int, Meta(ge=0, le=2**31 - 2)]
    reward: float
    terminated: bool
    truncated: bool
    next_observation: Any = None


class ManyRewards(Struct, forbid_unknown_fields=True):
    """Rewards of many steps."""

    rewards: list[Reward]


class ManyOutcomes(Struct, forbid_unknown_fields=True):
    """Outcomes of many episodes."""

    outcomes: list[Outcome]


class Stored(Struct):
    """How many of the reports were new, and how many had been stored before."""

    accepted: int
    duplicates: int


class OverrideRequest(Struct, forbid_unknown_fields=True):
    """A human's action for a policy, or for one user or episode of it."""

    action: Any
    ttl_seconds: Annotated[float, Meta(gt=0, le=7 * 86400)]
    reason: Annotated[str, Meta(min_length=1, max_length=2000)]
    user_id: str | None = None
    episode_id: str | None = None
    force: bool = False
    who: Annotated[str, Meta(min_length=1, max_length=256)] = "admin"


class ClearRequest(Struct, forbid_unknown_fields=True):
    """Which override to clear; without user and episode, the policy's."""

    user_id: str | None = None
    episode_id: str | None = None
    who: Annotated[str, Meta(min_length=1, max_length=256)] = "admin"


class Body:
    """A decoder for one type of body. Raises Problem: 400 for what is not JSON, 422 for what does not fit."""

    def __init__(self, kind: type[_T]) -> None:
        self._decode = msgspec.json.Decoder(kind).decode

    def __call__(self, data: bytes) -> Any:
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise Problem(422, "body", f"the body does not fit: {error}") from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Problem(400, "json", f"the body is not valid JSON: {error}") from error


class ActBody:
    """Decodes the act requests of one policy: numbers are checked while they are read.

    Call it with a body: the request, and whether its observations are of numbers nested as deep as the policy's. What
    is not is read as any JSON, for whoever looks closer to say what is wrong with it. Raises Problem as `Body` does.
    """

    def __init__(self, number: type | None, depth: int) -> None:
        """`number` is float or int, `depth` an observation's number of dimensions; None: it is no array."""
        self._any = Body(ActRequest)
        self._typed: Any = None
        if number is not None:
            one: Any = number
            for _ in range(depth):
                one = list[one]
            fields = [("observation", one | None, None), ("observations", list[one] | None, None)]
            kind = msgspec.defstruct("ActRequest", fields, bases=(ActRequest,), forbid_unknown_fields=True, gc=False)
            self._typed = msgspec.json.Decoder(kind).decode

    def __call__(self, data: bytes) -> tuple[ActRequest, bool]:
        if self._typed is not None:
            try:
                return self._typed(data), True
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                pass
        return self._any(data), False
