"""What a sequential test says: a verdict or none yet, after how many units, and the bounds at that moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Objective = Literal["non_inferiority", "superiority"]


@dataclass(frozen=True)
class Bounds:
    """An estimate in return units with one-sided bounds, each of confidence 1-α at every look at once; null: none yet.

    `method` names the test, and whether it is exact or asymptotic.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    method: str

    def to_json(self) -> dict[str, float | str | None]:
        """As plain JSON."""
        return {"estimate": self.estimate, "lower": self.lower, "upper": self.upper, "method": self.method}


@dataclass(frozen=True)
class Decision:
    """The verdict of the primary test (None: not yet), `units` units into the sequence, and the bounds there."""

    verdict: Literal["promote", "roll_back"] | None
    units: int
    bounds: Bounds


def both_arms(challenger: Bools) -> Bools:
    """After each unit [n], whether both arms have one: until then nothing was compared, whatever a bet has won."""
    return np.logical_or.accumulate(challenger) & np.logical_or.accumulate(~challenger)


def first_look(promote: Bools, roll_back: Bools) -> tuple[Literal["promote", "roll_back"] | None, int]:
    """The first look at which either side fired, and the number of units then; both at one look is roll_back.

    Both arrays have one entry a unit. Without a verdict the number of units is all of them.
    """
    either = promote | roll_back
    if not either.any():
        return None, len(either)
    look = int(np.argmax(either))
    return ("roll_back" if roll_back[look] else "promote"), look + 1
