"""What a canary's verdict was reached from, written down so that anybody can reach it again."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np

from tasks.analysis.judge.guardrails import ArmStats
from tasks.analysis.judge.plan import CanaryPlan
from tasks.analysis.judge.units import Units
from tasks.analysis.judge.verdict import Evidence, Judgement, judge, settle

ARTIFACT = "canary/judged.json"
SCHEMA_VERSION = 1


class _Units(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    assigned: list[bool]
    challenger: list[bool]
    returns: list[float]
    abandoned: list[bool]
    finished: dict[str, int]
    waiting: int
    events: dict[str, list[bool]]
    covariate: list[float | None] | None


class _Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: int
    units: _Units
    control: ArmStats
    challenger: ArmStats
    shadow: ArmStats
    events: list[str]
    stopped: str | None
    hours: float
    step: int
    paused: bool
    seen: dict[str, Any] | None


def document(evidence: Evidence, seen: dict[str, Any] | None) -> dict[str, Any]:
    """Everything the judge looked at, as plain JSON; `seen` is what an earlier look asked for, if one did.

    Units stand in the order of their start, without their names: users are nobody else's business.
    """
    fields = {name: getattr(evidence, name) for name in Evidence.__dataclass_fields__}
    written = msgspec.json.encode({**fields, "schema_version": SCHEMA_VERSION, "seen": seen}, enc_hook=_plain)
    return dict(json.loads(written))


def evidence(found: Any) -> tuple[Evidence, dict[str, Any] | None]:
    """What `document` wrote: the evidence, and what an earlier look had asked for. Raises ValueError."""
    read = msgspec.convert(found, _Judged)
    if read.schema_version != SCHEMA_VERSION:
        raise ValueError(f"written by another version of Airlock: schema_version {read.schema_version}")
    units = read.units
    analysed = {len(units.challenger), len(units.returns), len(units.abandoned)}
    analysed |= {len(befell) for befell in units.events.values()}
    analysed |= set() if units.covariate is None else {len(units.covariate)}
    if len(analysed) != 1 or units.assigned[: len(units.challenger)] != units.challenger:
        raise ValueError("its columns do not belong to the same units")
    covariate = units.covariate
    whole = Units(
        np.array(units.assigned, dtype=bool),
        np.array(units.challenger, dtype=bool),
        np.array(units.returns, dtype=np.float64),
        np.array(units.abandoned, dtype=bool),
        dict(units.finished),
        units.waiting,
        {kind: np.array(befell, dtype=bool) for kind, befell in units.events.items()},
        None if covariate is None else np.array([math.nan if v is None else v for v in covariate], dtype=np.float64),
    )
    same = ("control", "challenger", "shadow", "stopped", "hours", "step", "paused")
    rest = {name: getattr(read, name) for name in same}
    return Evidence(units=whole, events=tuple(read.events), **rest), read.seen


def again(plan: CanaryPlan, found: Any) -> tuple[str, str, Judgement]:
    """The verdict and its reason, reached again from what `document` wrote; and the judgement. Raises ValueError."""
    whole, seen = evidence(found)
    judgement = judge(whole, plan)
    return *settle(judgement, seen, whole.paused), judgement


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no part of a canary's evidence")
