"""Shadow: a challenger decides beside the champion on samples of live requests, off the response path, for nobody."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bentos.envelope.limits import bounds
from bentos.package.manifest import Manifest
from bentos.rows import FALLBACK, POLICY, Array, Decision, Rows
from bentos.runners import Runner, settled
from bentos.runners.breaker import Breaker
from bentos.runners.constrain import Constrain
from bentos.runners.fallback import DEADLINE, EXCEPTION, NON_FINITE, finite_rows
from bentos.runners.infer import Infer
from bentos.runners.recurrent import Remember
from bentos.telemetry.counters import SHADOW, ActionLabels, Arm, Stats

MOST_WAITING = 8
"""Samples that wait; more are dropped."""
MOST_ROWS = 8
"""Rows taken of one request: many small samples say more than a few large ones, and hold up nobody."""
SHARE = 0.2
"""Most of one core's time that a version's shadow takes: it rests after each call."""


class _Sample(NamedTuple):
    """A request's rows, and what they were answered with (bool [size]: by the champion's own policy)."""

    rows: Rows
    action: Array
    own: Array
    generation: str


class Shadow:
    """One version's shadow: what it would have decided is measured and forgotten.

    Counted under the arm `shadow`: decisions, faults by kind (a faulty row counts as one that the fallback would have
    had to answer), the latency of the model call, and the adjustments that its actions would have needed. In
    `Arm.shadow` stand the rows `compared` with the champion's own actions, the sum of their `disagreement` (discrete
    actions: 1 where they differ; continuous ones: the mean distance as a share of the action's span, absolute in a
    dimension without bounds), and the requests `dropped` because the shadow was busy.

    Of a policy that explores the actions are drawn, so that even equals disagree. One with memory has none here: each
    of its rows is decided as at an episode's start, so only its faults, latency and adjustments say something, and
    nothing is compared. The version's breaker hears of faults and successes, so an open one is probed by what nobody
    acts on. Everything but the model call happens on the event loop, and no error leaves.
    """

    def __init__(self, version: str, infer: Infer, manifest: Manifest, breaker: Breaker, stats: Stats) -> None:
        self._version = version
        self._policy = manifest.name
        self._breaker = breaker
        self._stats = stats
        self._deadline = manifest.serve.deadline_ms / 1000
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"{manifest.name}-{version}-shadow")
        self._call = _Aside(infer, self._executor)
        inner: Runner = Remember(self._call, manifest, version) if Remember.needed(manifest) else self._call
        self._constrained = Constrain.of(inner, manifest)
        self._memory = bool(infer.recurrent)
        self._labels = ActionLabels(manifest)
        low, high = bounds(manifest.action_space, manifest.safety)
        span = high - low
        self._span = np.where(np.isfinite(span) & (span > 0), span, 1.0)
        self._discrete = manifest.action_space.type != "Box"
        self._waiting: deque[_Sample] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def offer(self, rows: Rows, decision: Decision, generation: str) -> None:
        """Take a sample of an answered request, unless the shadow is busy; returns at once.

        Arrays are copied: the caller may use its own again.
        """
        if self._closed or len(self._waiting) >= MOST_WAITING:
            _add(self._arm(generation), "dropped", 1)
            return
        chosen = np.arange(rows.size)
        if rows.size > MOST_ROWS:
            chosen = np.linspace(0, rows.size - 1, MOST_ROWS).astype(np.int64)
        own = [decision.sources[row] == POLICY and decision.versions[row] != self._version for row in chosen.tolist()]
        self._waiting.append(_Sample(rows.take(chosen), decision.action[chosen], np.array(own), generation))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def close(self) -> None:
        """Forget what waits and release the thread."""
        self._closed = True
        self._waiting.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        try:
            while self._waiting:
                sample = self._waiting.popleft()
                if not self._breaker.allows():
                    _add(self._arm(sample.generation), "dropped", 1)
                else:
                    started = time.perf_counter()
                    await self._decide(sample)
                    await asyncio.sleep((time.perf_counter() - started) * (1 / SHARE - 1))
        finally:
            self._task = None

    async def _decide(self, sample: _Sample) -> None:
        arm = self._arm(sample.generation)
        size = sample.rows.size
        try:
            decision = await settled(self._constrained.decide(sample.rows))
        except Exception as error:  # noqa: BLE001 - nobody waits for this answer; that it failed is what is measured
            if not self._closed:
                self._faulty(arm, EXCEPTION, size, size, f"{type(error).__name__}: {error}")
            return
        bad = size - int(np.count_nonzero(decision.finite))
        if bad:
            self._faulty(arm, NON_FINITE, bad, size, "non-finite output")
        elif self._call.seconds > self._deadline:
            self._faulty(arm, DEADLINE, size, size, f"the call took {1000 * self._call.seconds:.0f} ms")
        else:
            self._breaker.success()
            arm.decided(size, self._call.seconds)
            arm.count(arm.sources, POLICY, size)
            self._compare(arm, sample, decision)

    def _faulty(self, arm: Arm, kind: str, rows: int, size: int, detail: str) -> None:
        self._breaker.fault(f"in shadow, {kind}: {detail}")
        arm.decided(size, self._call.seconds)
        arm.count(arm.faults, kind, rows)
        arm.count(arm.sources, FALLBACK, rows)
        arm.count(arm.sources, POLICY, size - rows)

    def _compare(self, arm: Arm, sample: _Sample, decision: Decision) -> None:
        for reasons in decision.adjusted or ():
            for reason in reasons:
                arm.count(arm.adjusted, reason, 1)
        self._labels.count(decision.action, arm.actions)
        if self._memory or not sample.own.any():
            return
        ours, theirs = decision.action[sample.own], sample.action[sample.own]
        if self._discrete:
            apart = float((ours != theirs).reshape(len(ours), -1).any(axis=1).sum())
        else:
            distance = np.abs(ours.astype(np.float64) - theirs) / self._span
            apart = float(distance.reshape(len(ours), -1).mean(axis=1).sum())
        _add(arm, "compared", len(ours))
        _add(arm, "disagreement", apart)

    def _arm(self, generation: str) -> Arm:
        return self._stats.arm(self._policy, generation, self._version, SHADOW)


class _Aside:
    """The graph on the shadow's own thread; `seconds` is how long its last call took there."""

    def __init__(self, infer: Infer, executor: ThreadPoolExecutor) -> None:
        self._infer = infer
        self._executor = executor
        self.seconds = 0.0

    async def decide(self, rows: Rows) -> Decision:
        """The graph's own actions, `finite` by the actions themselves, too. Raises whatever the graph raises."""
        decision = await asyncio.get_running_loop().run_in_executor(self._executor, self._timed, rows)
        bad = finite_rows(decision)
        if bad is not None:
            decision.finite = bad
        return decision

    def _timed(self, rows: Rows) -> Decision:
        started = time.perf_counter()
        try:
            return self._infer.run(rows)
        finally:
            self.seconds = time.perf_counter() - started


def _add(arm: Arm, name: str, value: float) -> None:
    arm.shadow[name] = arm.shadow.get(name, 0) + value
    arm.changed = True


def figures(shadow: dict[str, float]) -> dict[str, float | None]:
    """`Arm.shadow` for people: requests dropped, rows compared, and the mean disagreement over them (null: none)."""
    compared = shadow.get("compared", 0)
    return {
        "dropped": shadow.get("dropped", 0),
        "compared": compared,
        "disagreement": shadow.get("disagreement", 0.0) / compared if compared else None,
    }
