"""What a person may do to a policy by a form: its fields checked, the deed done, and in words what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from tasks.control import overrides
from tasks.control.plane import ControlPlane
from tasks.errors import Misconfigured


class BadForm(Exception):
    """A form that was not filled in as it must be; the message names the field."""


class Reasoned(BaseModel):
    """What every form asks: why."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    reason: str = Field(min_length=1, max_length=1000)


class RollBack(Reasoned):
    """`now` moves running episodes at once, too."""

    now: bool = False


class SetOverride(Reasoned):
    """`action` is JSON, as the environment takes it; for a user, an episode, or all of the policy's traffic."""

    action: Json[Any]
    minutes: float = Field(gt=0, le=7 * 24 * 60)
    user_id: str | None = None
    episode_id: str | None = None
    force: bool = False


class ClearOverride(BaseModel):
    """Which override to end, as the page shows it."""

    model_config = ConfigDict(extra="forbid")
    user_id: str | None = None
    episode: str | None = None


class Release(Reasoned):
    """Parameters of the trigger form that are asked most; those left out have the spec's values."""

    seed: int | None = None
    timesteps: int | None = None
    simulate_users: int | None = None
    approval: bool = False

    def conf(self) -> dict[str, Any]:
        """The parameters of the DAG run. Airflow holds them against the trigger form."""
        given = {"seed": self.seed, "timesteps": self.timesteps, "simulate_users": self.simulate_users}
        return {name: value for name, value in given.items() if value is not None} | (
            {"approval": True} if self.approval else {}
        )


F = TypeVar("F", bound=BaseModel)
Deed = Callable[[str, str, Mapping[str, str]], str]


def filled(form: type[F], fields: Mapping[str, str]) -> F:
    """The form with its fields, of which empty ones count as left out. Raises BadForm."""
    try:
        return form.model_validate({name: value for name, value in fields.items() if value.strip()})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadForm(f"{'.'.join(map(str, first['loc'])) or 'the form'}: {first['msg']}") from error


def roll_back(policy: str, who: str, fields: Mapping[str, str]) -> str:
    """Take the champion back to the previous one. Raises what `ControlPlane.rollback` does, and BadForm."""
    form = filled(RollBack, fields)
    moved = ControlPlane(who).rollback(policy, form.reason, now=form.now)
    to = f"version {moved['to']}" if moved["to"] else "no version: the fallback serves"
    return f"Rolled back from version {moved['from']} to {to}."


def pause(policy: str, who: str, fields: Mapping[str, str]) -> str:
    """Hold the running canary. Raises what `ControlPlane.pause` does, and BadForm."""
    canary = ControlPlane(who).pause(policy, filled(Reasoned, fields).reason)
    return f"The canary of version {canary['version']} is paused; its guardrails still guard."


def resume(policy: str, who: str, fields: Mapping[str, str]) -> str:
    """Let the paused canary go on. Raises what `ControlPlane.resume` does, and BadForm."""
    canary = ControlPlane(who).resume(policy, filled(Reasoned, fields).reason)
    return f"The canary of version {canary['version']} goes on."


def abort(policy: str, who: str, fields: Mapping[str, str]) -> str:
    """End the running canary; the champion stays. Raises what `ControlPlane.abort` does, and BadForm."""
    control, reason = ControlPlane(who), filled(Reasoned, fields).reason
    running = control.state(policy)["canary"]
    if running is None:
        raise Misconfigured(f"no canary of {policy} is running")
    control.abort(policy, running["version"], reason)
    return f"The canary of version {running['version']} was aborted; the champion stays."


def set_override(policy: str, who: str, fields: Mapping[str, str]) -> str:
    """Put a person's action in the place of the policy's. Raises OverrideRefused and BadForm."""
    form = filled(SetOverride, fields)
    body = {**form.model_dump(exclude={"minutes"}), "ttl_seconds": 60 * form.minutes, "who": who}
    overrides.call("PUT", policy, json=body)
    return f"The override holds for {form.minutes:g} minutes."


def clear_override(policy: str, who: str, fields: Mapping[str, str]) -> str:
    """Let the policy decide again. Raises BadForm, and Misconfigured where there was no such override."""
    form = filled(ClearOverride, fields)
    if not overrides.clear(policy, form.user_id, form.episode, who):
        raise Misconfigured("that override had ended already")
    return "The override was cleared."


DEEDS: Mapping[str, Deed] = {
    "rollback": roll_back,
    "pause": pause,
    "resume": resume,
    "abort": abort,
    "override": set_override,
    "clear-override": clear_override,
}
"""What can be done, by the last part of its path."""
