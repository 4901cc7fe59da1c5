"""Batch: takes whatever is queued and runs it as one model call; a policy too small to gain runs inline."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from bentos.rows import MAX_ROWS, DeadlineMissed, Decision, Overloaded, Rows
from bentos.runners import Deciding
from bentos.runners.infer import Infer
from bentos.runners.pieces import joined, merged, part_of

_AT_ONCE = 8
"""Answers handed out between two looks at the network, so that those of a large batch do not hold up other policies."""
_QUIET_LOOKS = 2
"""Looks at the network that brought nothing, after which a call begins."""
_QUIET_SHARE = 1 / 32
_QUIET_SECONDS = 0.002
"""For such a share of what the last call took, and at most so long, those whom it answered are looked out for."""

_WORTH = 2.0
"""Looking out goes on while requests come so many times as fast as a call that began now would answer them."""


class _Waiting:
    """Rows that wait for their decision: one call's, or put together of several calls' that each took some of them."""

    def __init__(self, rows: Rows, future: asyncio.Future[Decision]) -> None:
        self.rows = rows
        self.future = future
        self.left = rows.size
        self._parts: list[tuple[int, Decision]] = []
        self._missing = rows.size

    def take(self, most: int) -> _Taken:
        """At most so many of the rows that no call has taken."""
        start = self.rows.size - self.left
        stop = start + min(most, self.left)
        self.left = self.rows.size - stop
        return _Taken(self, start, self.rows.part(start, stop))

    def decided(self, start: int, part: Decision, size: int) -> Decision | None:
        """The whole decision, once all parts are there."""
        self._parts.append((start, part))
        self._missing -= size
        if self._missing:
            return None
        return part if len(self._parts) == 1 else joined([one for _, one in sorted(self._parts, key=itemgetter(0))])


class _Taken(NamedTuple):
    """The rows, from `start`, that a call took of what waits."""

    waiting: _Waiting
    start: int
    rows: Rows


class Batch:
    """Gathers rows of concurrent requests into calls of at most `batch_size` rows.

    A call begins once all that has arrived is read, and the answers of the call before are out: those who got them ask
    again at once, and a call that began with the first of them would leave the others to the next. So while some of
    them are missing, and requests come in much faster than calls answer them, it is put off, until for a thirty-second
    of what the last call took (2 ms at most) nobody asks. Else nothing waits idle for company unless `max_wait` (s)
    says so. Requests are split where a call is full. As many calls run at a time as `in_flight` says: more than one
    pays where the graph can use a second core, and splits batches where calls would wait for each other.

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
        self._heard = self._began = 0.0
        self._due = self._before = 0
        self._lasted = 0.0
        self._patience = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._executor = ThreadPoolExecutor(in_flight, thread_name_prefix=name)
        self.sizes: dict[int, int] = {}

    def decide(self, rows: Rows) -> Deciding:
        """The graph's actions, computed together with whatever else is waiting."""
        size = rows.size
        if size <= self.inline_rows:
            if size <= self._batch_size:
                return self._inline(rows)
            return joined([self._inline(piece) for piece in self._pieces(rows)])
        return self._enqueue(rows)

    def close(self) -> None:
        """Let the calls in flight end and release the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _inline(self, rows: Rows) -> Decision:
        self.sizes[rows.size] = self.sizes.get(rows.size, 0) + 1
        return self.following.run(rows)

    def _pieces(self, rows: Rows) -> list[Rows]:
        return [rows.part(at, at + self._batch_size) for at in range(0, rows.size, self._batch_size)]

    def _check_room(self, size: int) -> None:
        if self._queued + size > self._max_queued:
            raise Overloaded(f"{self._queued} rows are waiting; the queue holds {self._max_queued}")

    async def _enqueue(self, rows: Rows) -> Decision:
        self._check_room(rows.size)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Decision] = loop.create_future()
        self._queue.append(_Waiting(rows, future))
        self._queued += rows.size
        self._due -= rows.size
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
            self._seen, self._quiet, self._before = self._queued, 0, self._queued
            self._heard = self._began = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Whether the last look at the network brought more; if not, and nobody is looked out for, begin a call."""
        now = time.perf_counter()
        if self._queued > self._seen or self._answers:
            self._quiet, self._heard = 0, now
        else:
            self._quiet += 1
        self._seen = self._queued
        missed = self._due > 0 and now - self._heard < self._patience and self._pays(now - self._began)
        if self._queued < self._batch_size and (missed or self._quiet < _QUIET_LOOKS):
            asyncio.get_running_loop().call_soon(self._look)
            return
        self._looking = False
        self._dispatch()

    def _pays(self, looked: float) -> bool:
        """Whether looking out, for `looked` seconds by now, brings more than a call that begins now would answer.

        It does where those who were answered ask again all at once, and not where requests come from whomever, at the
        rate at which they are answered.
        """
        came = self._queued - self._before
        return looked < self._patience or came / looked > _WORTH * self._queued / (self._lasted + looked)

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self._in_flight < self._most_in_flight:
            taken = self._take()
            if not taken:
                continue
            self._in_flight += 1
            rows = merged([one.rows for one in taken])
            self.sizes[rows.size] = self.sizes.get(rows.size, 0) + 1
            began = time.perf_counter()
            call = asyncio.get_running_loop().run_in_executor(self._executor, self.following.run, rows)
            call.add_done_callback(partial(self._finish, taken, began))

    def _take(self) -> list[_Taken]:
        """The next waiting rows, as many as fit one call; those that no longer wait are dropped."""
        taken: list[_Taken] = []
        size = 0
        while self._queue and size < self._batch_size:
            waiting = self._queue[0]
            if waiting.future.done():
                self._queued -= waiting.left
                waiting.left = 0
            elif taken and (waiting.rows.masks is None) != (taken[0].rows.masks is None):
                break
            else:
                taken.append(waiting.take(self._batch_size - size))
                size += taken[-1].rows.size
                self._queued -= taken[-1].rows.size
            if not waiting.left:
                self._queue.popleft()
        return taken

    def _finish(self, taken: list[_Taken], began: float, call: asyncio.Future[Decision]) -> None:
        self._in_flight -= 1
        self._due = sum(one.rows.size for one in taken)
        self._lasted = time.perf_counter() - began
        self._patience = min(_QUIET_SECONDS, _QUIET_SHARE * self._lasted)
        error = RuntimeError("the version was unloaded") if call.cancelled() else call.exception()
        if error is not None:
            for one in taken:
                if not one.waiting.future.done():
                    one.waiting.future.set_exception(error)
        else:
            handing_out = bool(self._answers)
            whole, at = call.result(), 0
            for waiting, start, rows in taken:
                part = whole if len(taken) == 1 else part_of(whole, at, at + rows.size)
                at += rows.size
                decision = waiting.decided(start, part, rows.size)
                if decision is not None:
                    self._answers.append((waiting, decision))
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
