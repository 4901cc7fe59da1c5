"""When the monitor acts, and when it keeps still: a pure rule, so that nothing flaps.

A finding counts only after it was made in several runs in a row, and is over only after as many clean ones as the spec
asks for. A run that could not tell counts as neither. After an action nothing is done until the cool-down has passed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """Where something stands after a run. `since` (Unix seconds) is when it was raised, null while it is not.

    `breaching` and `clean` are runs in a row so far.
    """

    breaching: int = 0
    clean: int = 0
    since: float | None = None

    @property
    def raised(self) -> bool:
        """Whether it was found often enough, and has not been clean for long enough since."""
        return self.since is not None


def after(standing: Standing, breached: bool | None, at: float, raise_after: int, clear_after: int) -> Standing:
    """The standing after one more run, at `at` (Unix seconds), that found it `breached` (null: could not tell)."""
    if breached is None:
        return standing
    if breached:
        breaching = standing.breaching + 1
        since = standing.since if standing.raised else at if breaching >= raise_after else None
        return Standing(breaching, 0, since)
    clean = standing.clean + 1
    return Standing(0, clean, None if clean >= clear_after else standing.since)


def may_act(standing: Standing, breached: bool | None, acted_at: float | None, at: float, cooldown: float) -> bool:
    """Whether to act now: it is raised, this very run found it, and the last action is `cooldown` seconds ago."""
    rested = acted_at is None or at - acted_at >= cooldown
    return standing.raised and breached is True and rested
