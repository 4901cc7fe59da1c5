"""Batch: takes whatever is queued and runs it as one model call; a policy too small to gain runs inline."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bentos.rows import MAX_ROWS, DeadlineMissed, Decision, Overloaded, Rows
from bentos.runners.infer import Infer

_IN_FLIGHT = 2


class _Waiting(NamedTuple):
    rows: Rows
    future: asyncio.Future[Decision]


class Batch:
    """Gathers rows of concurrent requests into calls of at most `batch_size` rows.

    Nothing waits idle unless `max_wait` (s) says so. More than `max_queued` waiting rows raise Overloaded; a row not
    answered within `deadline` (s) raises DeadlineMissed and leaves the queue. `inline` runs calls on the event loop,
    without queue or deadline, for policies that answer a full batch faster than a thread can be woken. Everything but
    the model call itself happens on the event loop, so nothing here needs a lock.
    """

    def __init__(
        self,
        following: Infer,
        *,
        batch_size: int,
        deadline: float,
        max_wait: float = 0.0,
        max_queued: int | None = None,
        inline: bool = False,
        name: str = "policy",
    ) -> None:
        self.following = following
        self.inline = inline
        self._batch_size = batch_size
        self._deadline = deadline
        self._max_wait = max_wait
        self._max_queued = max_queued or max(MAX_ROWS, 32 * batch_size)
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._executor = None if inline else ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix=name)
        self.sizes: dict[int, int] = {}

    async def decide(self, rows: Rows) -> Decision:
        """The graph's actions, computed together with whatever else is waiting."""
        if rows.size > self._batch_size:
            return await self._in_pieces(rows)
        if self.inline:
            self.sizes[rows.size] = self.sizes.get(rows.size, 0) + 1
            return await self.following.decide(rows)
        return await self._enqueue(rows)

    def close(self) -> None:
        """Let the calls in flight end and release the threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _in_pieces(self, rows: Rows) -> Decision:
        edges = range(0, rows.size, self._batch_size)
        pieces = [rows.take(np.arange(at, min(at + self._batch_size, rows.size))) for at in edges]
        if self.inline:
            return _join([await self.decide(piece) for piece in pieces])
        self._check_room(rows.size)
        return _join(await asyncio.gather(*(self._enqueue(piece) for piece in pieces)))

    def _check_room(self, size: int) -> None:
        if self._queued + size > self._max_queued:
            raise Overloaded(f"{self._queued} rows are waiting; the queue holds {self._max_queued}")

    async def _enqueue(self, rows: Rows) -> Decision:
        self._check_room(rows.size)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Decision] = loop.create_future()
        self._queue.append(_Waiting(rows, future))
        self._queued += rows.size
        if self._max_wait and self._queued < self._batch_size:
            if self._timer is None:
                self._timer = loop.call_later(self._max_wait, self._dispatch)
        else:
            self._dispatch()
        late = loop.call_later(self._deadline, _expire, future)
        try:
            return await future
        finally:
            late.cancel()

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self._in_flight < _IN_FLIGHT:
            taken = self._take()
            if not taken or self._executor is None:
                continue
            self._in_flight += 1
            merged = _merge([waiting.rows for waiting in taken])
            self.sizes[merged.size] = self.sizes.get(merged.size, 0) + 1
            call = asyncio.get_running_loop().run_in_executor(self._executor, self.following.run, merged)
            call.add_done_callback(lambda done, taken=taken: self._finish(done, taken))  # type: ignore[misc]

    def _take(self) -> list[_Waiting]:
        """The next waiting rows that fit one call; those that no longer wait are dropped."""
        taken: list[_Waiting] = []
        size = 0
        while self._queue:
            waiting = self._queue[0]
            alike = not taken or (waiting.rows.masks is None) == (taken[0].rows.masks is None)
            if not waiting.future.done() and (size + waiting.rows.size > self._batch_size or not alike):
                break
            self._queue.popleft()
            self._queued -= waiting.rows.size
            if not waiting.future.done():
                taken.append(waiting)
                size += waiting.rows.size
        return taken

    def _finish(self, call: asyncio.Future[Decision], taken: list[_Waiting]) -> None:
        self._in_flight -= 1
        error = asyncio.CancelledError() if call.cancelled() else call.exception()
        start = 0
        for waiting in taken:
            stop = start + waiting.rows.size
            if not waiting.future.done():
                if error is not None:
                    waiting.future.set_exception(
                        RuntimeError("the version was unloaded") if isinstance(error, asyncio.CancelledError) else error
                    )
                elif len(taken) == 1:
                    waiting.future.set_result(call.result())
                else:
                    waiting.future.set_result(_slice(call.result(), start, stop))
            start = stop
        self._dispatch()


def _expire(future: asyncio.Future[Decision]) -> None:
    if not future.done():
        future.set_exception(DeadlineMissed("no answer within the deadline"))


def _merge(pieces: list[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    masks = [piece.masks for piece in pieces if piece.masks is not None]
    return Rows(
        feeds={name: np.concatenate([piece.feeds[name] for piece in pieces]) for name in pieces[0].feeds},
        size=sum(piece.size for piece in pieces),
        masks=np.concatenate(masks) if masks else None,
    )


def _slice(whole: Decision, start: int, stop: int) -> Decision:
    return Decision(
        action=whole.action[start:stop],
        finite=whole.finite[start:stop],
        sources=whole.sources[start:stop],
        versions=whole.versions[start:stop],
        scores=None if whole.scores is None else whole.scores[start:stop],
        recurrent=None
        if whole.recurrent is None
        else {name: array[start:stop] for name, array in whole.recurrent.items()},
    )


def _join(pieces: list[Decision]) -> Decision:
    recurrent = [piece.recurrent for piece in pieces if piece.recurrent is not None]
    scores = [piece.scores for piece in pieces if piece.scores is not None]
    return Decision(
        action=np.concatenate([piece.action for piece in pieces]),
        finite=np.concatenate([piece.finite for piece in pieces]),
        sources=[source for piece in pieces for source in piece.sources],
        versions=[version for piece in pieces for version in piece.versions],
        scores=np.concatenate(scores) if scores else None,
        recurrent={name: np.concatenate([part[name] for part in recurrent]) for name in recurrent[0]}
        if recurrent
        else None,
    )
