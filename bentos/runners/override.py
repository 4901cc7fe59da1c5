"""Override: a human's action replaces the policy's, until it expires or is cleared."""

from __future__ import annotations

import time

import numpy as np

from bentos.rows import OVERRIDE, Array, Decision, Rows
from bentos.runners import Deciding, Runner, later
from bentos.store.overrides import Active, Overrides


class Override:
    """Replaces actions of rows that an active override of `policy` names: by episode, else by user, else all."""

    def __init__(self, following: Runner, policy: str, overrides: Overrides) -> None:
        self.following = following
        self._policy = policy
        self._overrides = overrides

    def decide(self, rows: Rows) -> Deciding:
        """The inner action, or the human's. The inner action is computed all the same: its faults stay visible."""
        decision = self.following.decide(rows)
        if not isinstance(decision, Decision):
            return later(decision, rows, self._overridden)
        return self._overridden(rows, decision) if self._policy in self._overrides.active else decision

    def _overridden(self, rows: Rows, decision: Decision) -> Decision:
        active = self._overrides.of(self._policy)
        if active:
            self._apply(rows, decision, active)
        return decision

    def _apply(self, rows: Rows, decision: Decision, active: list[Active]) -> None:
        now = time.time()
        held = [one for one in active if one.until > now]
        everyone = next((one for one in reversed(held) if not one.episode and not one.user), None)
        by_user = {one.user: one for one in held if one.user}
        by_episode = {one.episode: one for one in held if one.episode}
        if (by_user or by_episode) and (rows.episodes or rows.users):
            for chosen, places in _named(rows, by_user, by_episode, everyone):
                _replace(decision, np.array(places), chosen)
        elif everyone is not None:
            _replace(decision, np.arange(rows.size), everyone)


def _named(
    rows: Rows, by_user: dict[str, Active], by_episode: dict[str, Active], everyone: Active | None
) -> list[tuple[Active, list[int]]]:
    """Which rows each override replaces, where some are for single users or episodes."""
    places: dict[int, tuple[Active, list[int]]] = {}
    for row in range(rows.size):
        episode = rows.episodes[row] if rows.episodes else None
        user = (rows.users[row] if rows.users else "") or (episode.user if episode else "")
        chosen = (
            (by_episode.get(episode.nonce) if episode else None) or (by_user.get(user) if user else None) or everyone
        )
        if chosen is not None:
            places.setdefault(chosen.id, (chosen, []))[1].append(row)
    return list(places.values())


def _replace(decision: Decision, index: Array, chosen: Active) -> None:
    """Put the action in the place of those of the rows at `index` (int array)."""
    size = len(decision.sources)
    decision.action = np.array(decision.action)
    decision.action[index] = np.asarray(chosen.action, dtype=decision.action.dtype)
    if decision.log_prob is not None:
        decision.log_prob = np.array(decision.log_prob)
        decision.log_prob[index] = np.nan  # nobody drew it
    if len(index) == size:
        decision.sources = [OVERRIDE] * size
    else:
        for row in index.tolist():
            decision.sources[row] = OVERRIDE
    if chosen.force:
        decision.forced = np.zeros(size, dtype=bool) if decision.forced is None else decision.forced
        decision.forced[index] = True
