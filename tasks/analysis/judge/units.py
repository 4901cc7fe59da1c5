"""From the stored starts of episodes to analysed units: one number per randomised unit, in order of start."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.analysis.sequential.decision import Bools
from tasks.analysis.sequential.wealth import Floats


@dataclass(frozen=True, slots=True)
class Start:
    """One experiment episode as stored: its place, its unit, its assigned arm and its outcome, if it has one.

    `episode_return` is null while the episode runs; `abandoned` says that it never reported. `events` names what
    befell it (see `guardrails.RATES`); `covariate` is a number known of it before its arm acted, if it is kept.
    `withdrawn`: nobody was told of it (see `bentos/store/starts.py`), so it is of no unit.
    """

    start_seq: int
    unit: str
    arm: str
    episode_return: float | None
    abandoned: bool
    events: tuple[str, ...] = ()
    covariate: float | None = None
    withdrawn: bool = False


@dataclass(frozen=True)
class Units:
    """Randomised units of one canary.

    `assigned` [all started] is True for the challenger, in order of start: what the sample ratio is read from.
    `challenger`, `returns`, `abandoned` [analysed] are the units before the first one without an outcome.
    `events` [analysed] says of each kind which of them it befell, `covariate` [analysed] is
    NaN where it was not kept, and null if it never was.
    `finished` counts every unit with an outcome by arm, `waiting` those analysed only once an earlier one ends.
    """

    assigned: Bools
    challenger: Bools
    returns: Floats
    abandoned: Bools
    finished: dict[str, int]
    waiting: int
    events: Mapping[str, Bools] = field(default_factory=dict)
    covariate: Floats | None = None

    def count(self, units: int | None = None) -> dict[str, int]:
        """Analysed units by arm, among the first `units` (all by default)."""
        arms = self.challenger[:units]
        return {"control": int((~arms).sum()), "challenger": int(arms.sum())}

    def first(self, units: int) -> Units:
        """The same canary with its analysed units cut to the first `units`."""
        return replace(
            self,
            challenger=self.challenger[:units],
            returns=self.returns[:units],
            abandoned=self.abandoned[:units],
            events={kind: befell[:units] for kind, befell in self.events.items()},
            covariate=None if self.covariate is None else self.covariate[:units],
        )


def analyse(
    starts: Iterable[Start], *, abandoned_return: float | None = None, clip: tuple[float, float] | None = None
) -> Units:
    """Analysed units from the starts of episodes, in order of `start_seq`.

    A unit counts once, with its first episode: later ones depend on it. Units are taken up to the first one whose
    first episode still runs: episodes that end early are not a fair sample, so nobody overtakes. An abandoned one
    scores `abandoned_return` in either arm (None: what was stored). A unit whose first start was withdrawn is left
    out: whether it was depends on no arm. Returns are clipped to `clip`. Overrides and fallbacks change nothing: a unit
    counts in the arm it was assigned (intention to treat).
    """
    seen: set[str] = set()
    assigned: list[bool] = []
    returns: list[float] = []
    counted: list[Start] = []
    finished = {"control": 0, "challenger": 0}
    complete = True
    for start in starts:
        if start.unit in seen:
            continue
        seen.add(start.unit)
        if start.withdrawn:
            continue
        assigned.append(start.arm == "challenger")
        if start.episode_return is None:
            complete = False
            continue
        finished[start.arm] += 1
        if complete:
            rescored = start.abandoned and abandoned_return is not None
            returns.append(float(abandoned_return) if rescored else start.episode_return)  # type: ignore[arg-type]
            counted.append(start)
    values = np.array(returns, dtype=np.float64)
    if clip:
        values = values.clip(*clip)
    arms = np.array(assigned, dtype=bool)
    kinds = sorted({kind for start in counted for kind in start.events})
    covariate = np.array([math.nan if start.covariate is None else start.covariate for start in counted])
    return Units(
        arms,
        arms[: len(returns)],
        values,
        np.array([start.abandoned for start in counted], dtype=bool),
        finished,
        sum(finished.values()) - len(returns),
        {kind: np.array([kind in start.events for start in counted], dtype=bool) for kind in kinds},
        None if np.isnan(covariate).all() else covariate,
    )


def within_budget(challenger: Bools, most_per_arm: int) -> int:
    """How many of the units come before or with the one that gives an arm its `most_per_arm`-th: none is read after."""
    larger = np.maximum(np.cumsum(challenger), np.cumsum(~challenger))
    return min(int(np.searchsorted(larger, most_per_arm)) + 1, len(challenger))
