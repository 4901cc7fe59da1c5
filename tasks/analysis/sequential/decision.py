"""What a sequential test says: a verdict or none yet, after how many units, and the bounds at that moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Objective = Literal["non_inferiority", "superiority"]
Verdict = Literal["promote", "roll_back"]

PART = 4096
"""Most units that a test takes in one go, which bounds its memory."""


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

    verdict: Verdict | None
    units: int
    bounds: Bounds


def floor_of(objective: Objective, margin: float) -> float:
    """The difference that the lower bound must pass for a promotion: any gain, or a loss of less than the margin."""
    return 0.0 if objective == "superiority" else -margin


class TwoArms(ABC):
    """A test of two arms that is fed as units come in. `verdict` falls at the same unit whatever the blocks."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        self.units = 0

    def feed(self, challenger: Bools, returns: Floats, covariate: Floats | None = None) -> Verdict | None:
        """Take the next units [n] in order of start; the verdict so far. After a verdict nothing more is taken."""
        for begin in range(0, len(returns), PART):
            if self.verdict is not None:
                break
            part = slice(begin, begin + PART)
            self._take(challenger[part], returns[part], None if covariate is None else covariate[part])
        return self.verdict

    @abstractmethod
    def _take(self, challenger: Bools, returns: Floats, covariate: Floats | None) -> None:
        """Take at most `PART` units, up to the verdict among them."""


class BothArms:
    """Whether both arms have a unit yet: until then nothing was compared, whatever a bet has won."""

    def __init__(self) -> None:
        self._challenger = self._control = False

    def feed(self, challenger: Bools) -> Bools:
        """After each of the next units [n], whether both arms have one."""
        theirs = np.logical_or.accumulate(~challenger) | self._control
        ours = np.logical_or.accumulate(challenger) | self._challenger
        if len(challenger):
            self._challenger, self._control = bool(ours[-1]), bool(theirs[-1])
        return ours & theirs


def first_look(promote: Bools, roll_back: Bools) -> tuple[Verdict | None, int]:
    """The first look at which either side fired, and the number of units then; both at one look is roll_back.

    Both arrays have one entry a unit. Without a verdict the number of units is all of them.
    """
    either = promote | roll_back
    if not either.any():
        return None, len(either)
    look = int(np.argmax(either))
    return ("roll_back" if roll_back[look] else "promote"), look + 1
