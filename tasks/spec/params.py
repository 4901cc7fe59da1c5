"""What a person may change of a policy spec for one release, and the spec with that applied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, ValidationError

from tasks.spec.files import SpecError, problems_of
from tasks.spec.safety import Section
from tasks.spec.sections import Objective, PolicySpec


class Params(Section):
    """What a person may change for one release, in the trigger form; null keeps the spec's value."""

    source: Literal["train", "zip", "learned"] = "train"
    zip_path: str | None = None
    learned_run: str | None = None
    """The MLflow run of learn_<policy> whose candidate is released, for `source: learned`."""
    seed: int | None = None
    timesteps: int | None = None
    minimum_mean_return: float | None = None
    objective: Objective | None = None
    canary_steps: list[float] | None = None
    max_units_per_arm: int | None = None
    max_hours: float | None = None
    approval: bool | None = None
    approval_hours: float | None = None
    dry_run_checks: list[str] = Field(default=[])
    simulate_users: int = 0
    """Concurrent simulated users that play the environment through the gateway during the canary; 0: none."""


def effective(spec: PolicySpec, params: Params) -> PolicySpec:
    """The spec with a release's parameters applied, validated again. Raises SpecError."""
    document = spec.model_dump(mode="json")
    changes: Iterable[tuple[str, str, Any]] = (
        ("train", "seed", params.seed),
        ("train", "total_timesteps", params.timesteps),
        ("evaluate", "minimum_mean_return", params.minimum_mean_return),
        ("canary", "objective", params.objective),
        ("canary", "steps", params.canary_steps or None),
        ("canary", "max_units_per_arm", params.max_units_per_arm),
        ("canary", "max_hours", params.max_hours),
    )
    for section, field, value in changes:
        if value is not None:
            document[section][field] = value
    if params.approval is not None:
        document["approval"] = (
            ("required" if spec.approval == "none" else document["approval"]) if params.approval else "none"
        )
    if params.approval_hours is not None and document["approval"] != "none":
        document["approval"] = {"timeout_hours": params.approval_hours}
    document["checks"] = {**document["checks"], **dict.fromkeys(params.dry_run_checks, "dry_run")}
    try:
        return PolicySpec.model_validate(document)
    except ValidationError as error:
        raise SpecError(problems_of(f"release parameters of {spec.name}", error)) from error
