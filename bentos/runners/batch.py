"""Batch: takes whatever is queued and runs it as one model call; a policy too small to gain runs inline."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bentos.rows import MAX_ROWS, DeadlineMissed, Decision, Overloaded, Rows
from bentos.runners import Deciding
from bentos.runners.infer import Infer

_AT_ONCE = 8
"""Answers handed out between two looks at the network, so that those of a large batch do not hold up other policies."""
_QUIET_LOOKS = 2
"""Looks at the network that brought nothing, after which a call begins."""


class _Waiting(NamedTuple):
    rows: Rows
    future: asyncio.Future[Decision]


class Batch:
    """Gathers rows of concurrent requests into calls of at most `batch_size` rows.

    A call begins once all that has arrived is read, and the answers of the call before are out: those who got them ask
    again at once, and a call that began with the first of them would leave the others to the next. Nothing waits idle
    for company unless `max_wait` (s) says so. As many calls run at a time as `in_flight` says: more than one pays where
    the graph can use a second core, and splits batches where calls would wait for each other.

    More than `max_queued` waiting rows raise Overloaded; a row not answered within `deadline` (s) raises DeadlineMissed
    and leaves the queue. Requests of up to `inline_rows` run here and now, without queue or deadline: for policies that
    answer faster than a thread can be woken. Everything but the model call itself happens on the event loop, so nothing
    here needs a lock.
    """

    def __init__(
        self,
        following: Infer,
        *,
        batch_size: int,
        deadline: float,
        max_wait: float = 0.0,
        max_queued: int | None = None,
        inline_rows: int = 0,
        in_flight: int = 2,
        name: str = "policy",
    ) -> None:
        self.following = following
        self.inline_rows = inline_rows
        self._batch_size = batch_size
        self._deadline = deadline
        self._max_wait = max_wait
        self._max_queued = max_queued or max(MAX_ROWS, 32 * batch_size)
        self._most_in_flight = in_flight
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._in_flight = 0
        self._answers: deque[tuple[_Waiting, Decision]] = deque()
        self._looking = False
        self._seen = 0
        self._quiet = 0
        self._timer: asyncio.TimerHandle | None = None
        self._executor = ThreadPoolExecutor(in_flight, thread_name_prefix=name)
        self.sizes: dict[int, int] = {}

    def decide(self, rows: Rows) -> Deciding:
        """The graph's actions, computed together with whatever else is waiting."""
        size = rows.size
        if size <= self.inline_rows:
            if size <= self._batch_size:
                return self._inline(rows)
            return _join([self._inline(piece) for piece in self._pieces(rows)])
        return self._queued_up(rows)

    def close(self) -> None:
        """Let the calls in flight end and release the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _inline(self, rows: Rows) -> Decision:
        self.sizes[rows.size] = self.sizes.get(rows.size, 0) + 1
        return self.following.run(rows)

    async def _queued_up(self, rows: Rows) -> Decision:
        self._check_room(rows.size)
        if rows.size <= self._batch_size:
            return await self._enqueue(rows)
        return _join(await asyncio.gather(*(self._enqueue(piece) for piece in self._pieces(rows))))

    def _pieces(self, rows: Rows) -> list[Rows]:
        return [rows.part(at, at + self._batch_size) for at in range(0, rows.size, self._batch_size)]

    def _check_room(self, size: int) -> None:
        if self._queued + size > self._max_queued:
            raise Overloaded(f"{self._queued} rows are waiting; the queue holds {self._max_queued}")

    async def _enqueue(self, rows: Rows) -> Decision:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Decision] = loop.create_future()
        self._queue.append(_Waiting(rows, future))
        self._queued += rows.size
        if self._queued >= self._batch_size:
            self._dispatch()
        elif not self._max_wait:
            self._look_soon()
        elif self._timer is None:
            self._timer = loop.call_later(self._max_wait, self._dispatch)
        late = loop.call_later(self._deadline, _expire, future)
        try:
            return await future
        finally:
            late.cancel()

    def _look_soon(self) -> None:
        if not self._looking and self._in_flight < self._most_in_flight:
            self._looking = True
            self._seen, self._quiet = self._queued, 0
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Whether the last look at the network brought more; if not, and all answers are out, begin a call."""
        self._quiet = 0 if self._queued > self._seen or self._answers else self._quiet + 1
        self._seen = self._queued
        if self._quiet < _QUIET_LOOKS and self._queued < self._batch_size:
            asyncio.get_running_loop().call_soon(self._look)
            return
        self._looking = False
        self._dispatch()

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self._in_flight < self._most_in_flight:
            taken = self._take()
            if not taken:
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
        error = RuntimeError("the version was unloaded") if call.cancelled() else call.exception()
        if error is not None:
            for waiting in taken:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
        else:
            handing_out = bool(self._answers)
            whole, start = call.result(), 0
            for waiting in taken:
                stop = start + waiting.rows.size
                part = whole if len(taken) == 1 else _slice(whole, start, stop)
                self._answers.append((waiting, part))
                start = stop
            if not handing_out:
                self._hand_out()
        if self._queued >= self._batch_size:
            self._dispatch()
        elif self._queue and not self._max_wait:
            self._look_soon()
        elif self._queue and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._max_wait, self._dispatch)

    def _hand_out(self) -> None:
        """Give some of the answers to those who wait for them, and the rest after the next look at the network."""
        for _ in range(min(_AT_ONCE, len(self._answers))):
            waiting, decision = self._answers.popleft()
            if not waiting.future.done():
                waiting.future.set_result(decision)
        if self._answers:
            asyncio.get_running_loop().call_soon(self._hand_out)


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
        log_prob=None if whole.log_prob is None else whole.log_prob[start:stop],
    )


def _join(pieces: list[Decision]) -> Decision:
    recurrent = [piece.recurrent for piece in pieces if piece.recurrent is not None]
    scores = [piece.scores for piece in pieces if piece.scores is not None]
    log_prob = [piece.log_prob for piece in pieces if piece.log_prob is not None]
    return Decision(
        action=np.concatenate([piece.action for piece in pieces]),
        finite=np.concatenate([piece.finite for piece in pieces]),
        sources=[source for piece in pieces for source in piece.sources],
        versions=[version for piece in pieces for version in piece.versions],
        scores=np.concatenate(scores) if scores else None,
        recurrent={name: np.concatenate([part[name] for part in recurrent]) for name in recurrent[0]}
        if recurrent
        else None,
        log_prob=np.concatenate(log_prob) if log_prob else None,
    )
