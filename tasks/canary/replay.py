"""`airlock analyze`: recorded or simulated canaries replayed through the primary test, one JSON line each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from tasks.analysis.judge.units import within_budget
from tasks.analysis.sequential import asymptotic, mean_difference
from tasks.analysis.sequential.decision import Decision, floor_of


class ReplayError(ValueError):
    """A line that cannot be replayed: names file, line and what was expected. The command line exits with 2."""


class Canary(msgspec.Struct, frozen=True, rename={"returns": "return"}):
    """One line of the file: units in order of their start, one a user or episode; `margin` in return units.

    `covariate` is a number known of each unit before its arm acted (null: not known); returns are adjusted for it.
    """

    id: str | int | None
    arm: list[Literal["control", "challenger"]]
    returns: list[float]
    return_range: tuple[float, float] | None
    margin: Annotated[float, msgspec.Meta(ge=0)]
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=0.5)]
    max_units_per_arm: Annotated[int, msgspec.Meta(ge=1)]
    objective: Literal["non_inferiority", "superiority"] = "non_inferiority"
    covariate: list[float | None] | None = None


def replay(path: Path) -> Iterator[dict[str, Any]]:
    """The verdict on each canary of a JSON-lines file, in order, with a look after every unit (CONTRACT.md).

    Raises ReplayError at the first line that is not a canary or has a return outside its range; blank lines are
    skipped.
    """
    decoder = msgspec.json.Decoder(Canary)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                canary = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ReplayError(f"{path}, line {number}: not a canary: {error}") from error
            problem = _problem(canary)
            if problem:
                raise ReplayError(f"{path}, line {number}: {problem}")
            yield verdict(canary)


def verdict(canary: Canary) -> dict[str, Any]:
    """What the primary test says of one canary: the line that `airlock analyze` prints.

    Bounds are one-sided 1-alpha each, at the unit of the verdict (or the last one read); null while an asymptotic
    test has not begun. The budget is spent with the unit that gives an arm its `max_units_per_arm`-th.
    """
    challenger = np.array([arm == "challenger" for arm in canary.arm], dtype=bool)
    returns = np.array(canary.returns, dtype=np.float64)
    budget = within_budget(challenger, canary.max_units_per_arm)
    challenger, returns = challenger[:budget], returns[:budget]
    covariate = None if canary.covariate is None else np.array(canary.covariate[:budget], dtype=np.float64)
    if canary.return_range is None:
        decision = asymptotic.decide(
            challenger,
            returns,
            margin=canary.margin,
            alpha=canary.alpha,
            objective=canary.objective,
            covariate=covariate,
        )
    else:
        decision = mean_difference.decide(
            challenger,
            returns,
            bounds=canary.return_range,
            margin=canary.margin,
            alpha=canary.alpha,
            objective=canary.objective,
            covariate=covariate,
        )
    counted = challenger[: decision.units]
    units = {"control": int((~counted).sum()), "challenger": int(counted.sum())}
    difference = {
        "estimate": decision.bounds.estimate,
        "lower": decision.bounds.lower,
        "upper": decision.bounds.upper,
    }
    return {
        "id": canary.id,
        "verdict": decision.verdict or "inconclusive",
        "units": units,
        "difference": difference,
        "reason": _reason(canary, decision, units),
    }


def _reason(canary: Canary, decision: Decision, units: dict[str, int]) -> str:
    floor = floor_of(canary.objective, canary.margin)
    found = decision.bounds
    if decision.verdict == "promote":
        said = f"lower bound {found.lower:.6g} is above {floor:g}"
    elif decision.verdict == "roll_back":
        said = f"upper bound {found.upper:.6g} is below 0"
    else:
        spent = max(units.values()) >= canary.max_units_per_arm
        said = f"no bound was passed before the {'budget' if spent else 'data'} ended"
    return f"{said}; {canary.objective}, {found.method}"


def _problem(canary: Canary) -> str | None:
    if len(canary.arm) != len(canary.returns):
        return f"{len(canary.arm)} entries in arm and {len(canary.returns)} in return; expected as many"
    if canary.covariate is not None and len(canary.covariate) != len(canary.returns):
        return f"{len(canary.covariate)} entries in covariate and {len(canary.returns)} in return; expected as many"
    returns = np.array(canary.returns, dtype=np.float64)
    if not np.isfinite(returns).all():
        return "a return is not finite"
    if canary.return_range is None:
        return None
    low, high = canary.return_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return f"return_range must be [low, high] with low < high, came [{low:g}, {high:g}]"
    outside = np.flatnonzero((returns < low) | (returns > high))
    if len(outside):
        place = int(outside[0])
        return f"return {returns[place]:g} of unit {place + 1} lies outside return_range [{low:g}, {high:g}]"
    return None
