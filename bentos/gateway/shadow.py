"""Shadowed: everybody is answered as ever; a sample of the requests goes on to a challenger that serves nobody."""

from __future__ import annotations

from bentos import logs
from bentos.gateway.assign import Assign
from bentos.routing.route import Seat
from bentos.rows import Decision, Rows
from bentos.runners import Deciding, later
from bentos.runners.shadow import Shadow


class Shadowed:
    """Around `assign`, while the route has a challenger in shadow: `generation` is its canary's."""

    def __init__(self, following: Assign, shadow: Shadow, generation: str) -> None:
        self.following = following
        self._shadow = shadow
        self._generation = generation

    def decide(self, rows: Rows, seats: list[Seat]) -> Deciding:
        """The inner answer. Raises what that raises, and nothing of the shadow's."""
        decision = self.following.decide(rows, seats)
        return self._offered(rows, decision) if isinstance(decision, Decision) else later(decision, rows, self._offered)

    def _offered(self, rows: Rows, decision: Decision) -> Decision:
        try:
            self._shadow.offer(rows, decision, self._generation)
        except Exception as error:  # noqa: BLE001 - nothing in shadow may keep a client from its answer
            logs.error("sample for the shadow failed", generation=self._generation, detail=str(error))
        return decision
