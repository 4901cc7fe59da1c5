"""Override: a human's action replaces the policy's, until it expires or is cleared."""

from __future__ import annotations

import time

import numpy as np

from bentos.overrides import Active, Overrides
from bentos.rows import OVERRIDE, Array, Decision, Rows
from bentos.runners import Runner


class Override:
    """Replaces actions of rows that an active override of `policy` names: by episode, else by user, else all."""

    def __init__(self, following: Runner, policy: str, overrides: Overrides) -> None:
        self.following = following
        self._policy = policy
        self._overrides = overrides

    async def decide(self, rows: Rows) -> Decision:
        """The inner action, or the human's. The inner action is computed all the same: its faults stay visible."""
        decision = await self.following.decide(rows)
        active = self._overrides.of(self._policy)
        if active:
            self._apply(rows, decision, active)
        return decision

    def _apply(self, rows: Rows, decision: Decision, active: list[Active]) -> None:
        now = time.time()
        everyone = [one for one in active if one.until > now and not one.episode and not one.user]
        by_user = {one.user: one for one in active if one.until > now and one.user}
        by_episode = {one.episode: one for one in active if one.until > now and one.episode}
        for row in range(rows.size):
            episode = rows.episodes[row] if rows.episodes else None
            user = (rows.users[row] if rows.users else "") or (episode.user if episode else "")
            chosen = (
                (by_episode.get(episode.nonce) if episode else None)
                or (by_user.get(user) if user else None)
                or (everyone[-1] if everyone else None)
            )
            if chosen is not None:
                _replace(decision, row, chosen)


def _replace(decision: Decision, row: int, chosen: Active) -> None:
    index: Array = np.array([row])
    action: Array = np.asarray(chosen.action, dtype=decision.action.dtype).reshape(decision.action.shape[1:])
    decision.action = np.array(decision.action)
    decision.action[row] = action
    decision.sources[row] = OVERRIDE
    if chosen.force:
        if decision.forced is None:
            decision.forced = np.zeros(len(decision.sources), dtype=bool)
        decision.forced[index] = True
