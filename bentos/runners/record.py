"""Record: counts what was decided, per version and arm; nothing here waits for anything."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any

import numpy as np

from bentos.rows import POLICY, Decision, Rows
from bentos.runners import Deciding, Runner
from bentos.store.journal import Page
from bentos.telemetry.counters import ActionLabels, Stats
from bentos.telemetry.drift import Drift


class Record:
    """The outermost runner of a version: its latency is the whole decision's.

    A decision that the fallback made is counted for the version and arm that were assigned.
    """

    def __init__(
        self,
        following: Runner,
        policy: str,
        labels: ActionLabels,
        stats: Stats,
        drift: Drift,
        page: Page | None = None,
    ) -> None:
        self.following = following
        self._policy = policy
        self._labels = labels
        self._stats = stats
        self._drift = drift
        self._page = page

    def decide(self, rows: Rows) -> Deciding:
        """The inner decision, counted."""
        started = time.perf_counter()
        decision = self.following.decide(rows)
        if isinstance(decision, Decision):
            return self._recorded(rows, decision, started)
        return self._awaited(rows, decision, started)

    async def _awaited(self, rows: Rows, coming: Coroutine[Any, Any, Decision], started: float) -> Decision:
        return self._recorded(rows, await coming, started)

    def _recorded(self, rows: Rows, decision: Decision, started: float) -> Decision:
        arm = self._stats.arm(self._policy, rows.generation, rows.version, rows.arm)
        seconds = time.perf_counter() - started
        arm.decided(rows.size, seconds, rows.size if rows.apart else 1)
        if self._page is not None and rows.episodes is not None:
            self._page.note(rows, decision, seconds)
        policy = decision.sources.count(POLICY)
        arm.count(arm.sources, POLICY, policy)
        if policy != rows.size:
            for source in decision.sources:
                if source != POLICY:
                    arm.count(arm.sources, source, 1)
        if decision.faults:
            for kind, times in decision.faults.items():
                arm.count(arm.faults, kind, times)
        if decision.adjusted:
            for reasons in decision.adjusted:
                for reason in reasons:
                    arm.count(arm.adjusted, reason, 1)
        if rows.out_of_range is not None:
            arm.observation_out_of_range += int(np.count_nonzero(rows.out_of_range))
        self._labels.count(decision.action, arm.actions)
        self._drift.sample(rows, decision.action, arm)
        return decision
