"""Hooked: asks the override hook that a Bento was packaged with; where it has no answer, the policy's action stands."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bentos import logs
from bentos.package.hooks import Context, Hook
from bentos.package.interface import OBSERVATION
from bentos.package.manifest import Array, Manifest
from bentos.rows import OVERRIDE, Decision, Rows
from bentos.runners import Runner, settled

HOOK = "hook"
"""The kind of fault that a hook commits when it raises, is too slow, or answers what is no action."""
_AT_ONCE = 2
_LOG_SECONDS = 1.0


class Hooked:
    """Runs the hook once a request, on threads of its own, for at most the policy's deadline.

    A hook that does not come back keeps its thread; while all are kept, it is not asked, and that is a fault, too.
    """

    def __init__(self, following: Runner, hook: Hook, manifest: Manifest, version: str) -> None:
        self.following = following
        self._hook = hook
        self._policy, self._version = manifest.name, version
        self._space = manifest.action_space
        self._deadline = manifest.serve.deadline_ms / 1000
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix=f"hook-{manifest.name}")
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._late = 0
        self._log_at = 0.0

    async def decide(self, rows: Rows) -> Decision:
        """The inner decision, with the rows replaced that the hook has another action for."""
        decision = await settled(self.following.decide(rows))
        try:
            answer = await self._ask(rows, decision)
            if answer is not None:
                self._replace(decision, *self._checked(answer, rows.size))
        except Exception as error:  # noqa: BLE001 - whatever a hook does, the policy's action stands
            decision.faults = {**(decision.faults or {}), HOOK: rows.size}
            self._log(error)
        return decision

    def close(self) -> None:
        """Release the threads that are not kept."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, rows: Rows, decision: Decision) -> Any:
        if self._late >= _AT_ONCE:
            raise TimeoutError("earlier calls have not come back")
        await self._turn()
        call = asyncio.get_running_loop().run_in_executor(
            self._threads, self._hook, _observed(rows), self._context(rows, decision)
        )
        done, _ = await asyncio.wait([call], timeout=self._deadline)
        if done:
            self._free.release()
            return call.result()
        self._late += 1
        call.add_done_callback(self._back)
        raise TimeoutError(f"no answer within {self._deadline * 1000:g} ms")

    async def _turn(self) -> None:
        """Wait for a free thread. Requests are not always answered within a task, where asyncio.timeout needs one."""
        if not self._free.locked():
            await self._free.acquire()
            return
        turn = asyncio.ensure_future(self._free.acquire())
        done, _ = await asyncio.wait([turn], timeout=self._deadline)
        if not done:
            turn.cancel()
            raise TimeoutError(f"no thread was free for it within {self._deadline * 1000:g} ms")

    def _back(self, call: asyncio.Future[Any]) -> None:
        """A late call has come back after all: nobody waits for what it says."""
        self._late -= 1
        self._free.release()
        if not call.cancelled():
            call.exception()

    def _context(self, rows: Rows, decision: Decision) -> Context:
        episodes = rows.episodes or [None] * rows.size
        return Context(
            self._policy,
            self._version,
            rows.arm,
            _read_only(decision.action),
            [episode.nonce if episode else "" for episode in episodes],
            list(rows.users) if rows.users else [episode.user if episode else "" for episode in episodes],
        )

    def _checked(self, answer: Any, size: int) -> tuple[Array, Array]:
        """Actions [n, ...] and mask bool [n] of an answer. Raises ValueError that says what was expected."""
        actions, mask = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, np.ones(size, bool))
        shape, dtype = (size, *self._space.shape), np.dtype(self._space.dtype)
        actions, mask = np.asarray(actions), np.asarray(mask)
        if actions.shape != shape or mask.shape != (size,) or mask.dtype != bool:
            raise ValueError(
                f"expected actions of shape {shape}, or a pair of them and a mask of {size} booleans; came "
                f"{actions.shape} and {mask.dtype} {mask.shape}"
            )
        if actions.dtype.kind not in ("iuf" if dtype.kind == "f" else "iu") or not np.isfinite(actions[mask]).all():
            raise ValueError(f"expected finite actions as {dtype}, came {actions.dtype} {actions.tolist()!r:.100}")
        return actions.astype(dtype), mask

    @staticmethod
    def _replace(decision: Decision, actions: Array, mask: Array) -> None:
        index = np.flatnonzero(mask)
        if not len(index):
            return
        decision.action = np.array(decision.action)
        decision.action[index] = actions[index]
        if decision.log_prob is not None:
            decision.log_prob = np.array(decision.log_prob)
            decision.log_prob[index] = np.nan  # nobody drew it
        for row in index.tolist():
            decision.sources[row] = OVERRIDE

    def _log(self, error: Exception) -> None:
        """One line a second at most."""
        now = time.monotonic()
        if now >= self._log_at:
            detail = f"{type(error).__name__}: {error}"
            logs.error("fault", policy=self._policy, version=self._version, kind=HOOK, detail=detail)
            self._log_at = now + _LOG_SECONDS


def _observed(rows: Rows) -> Any:
    """The observations as the hook takes them, read-only: one array, or a dict of them by key."""
    if OBSERVATION in rows.feeds:
        return _read_only(rows.feeds[OBSERVATION])
    prefix = f"{OBSERVATION}."
    return {
        name.removeprefix(prefix): _read_only(array) for name, array in rows.feeds.items() if name.startswith(prefix)
    }


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
