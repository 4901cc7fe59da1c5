"""The anchor: the best champion so far, and how far below it today's champion may lie.

"Not worse by more than the margin" against the champion of the day, release after release, walks downhill by almost
a margin each time. So what is lost is added up: each promotion records the lower bound of its gain, and a challenger
must show that it is not worse than the anchor, too, by more than one margin. The sum of differences from concurrent
arms, and not a mean return of the past, is what is kept: a bad season would turn every challenger away, and a good one
let any pass.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tasks.analysis.sequential.decision import Objective, floor_of


@dataclass(frozen=True)
class Anchor:
    """The best champion's `version`, and a lower bound of today's champion's mean return minus its own, at most 0."""

    version: str
    lower: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> Anchor:
        """Read what `to_json` wrote."""
        return Anchor(str(document["version"]), float(document["lower"]))


def floor(objective: Objective, margin: float, anchor: Anchor | None) -> float:
    """The difference to the champion that a promotion's lower bound must pass.

    What the objective asks, and that less than `margin` is lost since the anchor; a gain is always enough, since it
    leads away from any loss.
    """
    asked = floor_of(objective, margin)
    return asked if anchor is None else max(asked, min(0.0, -margin - anchor.lower))


def after(anchor: Anchor | None, *, version: str, champion: str | None, lower: float | None) -> Anchor:
    """What to record when `version` is promoted over `champion`, its difference having the lower bound `lower`.

    A first release, and a version that is shown to be at least as good as the anchor, is the new anchor.
    """
    if champion is None:
        return Anchor(version, 0.0)
    since = anchor or Anchor(champion, 0.0)
    total = since.lower + (lower if lower is not None else 0.0)
    return Anchor(version, 0.0) if total >= 0.0 else Anchor(since.version, total)
