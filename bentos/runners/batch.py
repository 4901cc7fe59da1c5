"""Batch: takes whatever is queued and runs it as one model call; a policy too small to gain runs inline."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from bentos.event_loop import Paced
from bentos.rows import MAX_ROWS, DeadlineMissed, Decision, Overloaded, Rows, joined, merged, part_of
from bentos.runners import Deciding
from bentos.runners.batch_window import LookOut
from bentos.runners.infer import Infer

_AT_ONCE = 8
"""Answers handed out between two looks at the network, so that those of a large batch do not hold up other policies."""


class _Waiting:
    """Rows that wait for their decision: one call's, or put together of several calls' that each took some of them."""

    def __init__(self, rows: Rows, future: asyncio.Future[Decision], until: float, large: bool) -> None:
        """`until`: the deadline, on the event loop's clock. `large`: one request of more rows than a call takes."""
        self.rows = rows
        self.future = future
        self.until = until
        self.large = large
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

    def expire(self) -> None:
        """The deadline has passed."""
        if not self.future.done():
            partly = self.large and self._missing < self.rows.size
            self.future.set_exception(DeadlineMissed("no answer within the deadline", partly))


class _Taken(NamedTuple):
    """The rows, from `start`, that a call took of what waits."""

    waiting: _Waiting
    start: int
    rows: Rows


class Batch:
    """Gathers rows of concurrent requests into calls of at most `batch_size` rows.

    A call begins once all that has arrived is read, and those whom the call before answered are not about to ask again
    (`LookOut`). Else nothing waits idle for company unless `max_wait` (s) says so. Requests are split where a call is
    full; one of more rows than a call takes lets others go first after each. As many calls run at a time as `in_flight`
    says: more than one pays where the graph can use a second core, and splits batches where calls would wait for each
    other.

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
        self._max_queued = max_queued or MAX_ROWS + 32 * batch_size
        self._most_in_flight = in_flight
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._in_flight = 0
        self._answers = Paced(_AT_ONCE, _answer)
        self._looking = False
        self._lookout = LookOut()
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
        until = loop.time() + self._deadline
        waiting = _Waiting(rows, future, until, rows.size > self._batch_size and not rows.apart)
        self._queue.append(waiting)
        self._queued += rows.size
        self._lookout.asked(rows.size)
        if self._queued >= self._batch_size:
            self._dispatch()
        elif not self._max_wait:
            self._look_soon()
        elif self._timer is None:
            self._timer = loop.call_later(self._max_wait, self._dispatch)
        late = loop.call_at(until, waiting.expire)
        try:
            return await future
        finally:
            late.cancel()

    def _look_soon(self) -> None:
        if not self._looking and self._in_flight < self._most_in_flight:
            self._looking = True
            self._lookout.begin(self._queued)
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        if self._queued < self._batch_size and self._lookout.goes_on(self._queued, bool(self._answers)):
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
            rows = merged([one.rows for one in taken])
            self.sizes[rows.size] = self.sizes.get(rows.size, 0) + 1
            began = time.perf_counter()
            call = asyncio.get_running_loop().run_in_executor(self._executor, self.following.run, rows)
            call.add_done_callback(partial(self._finish, taken, began))

    def _take(self) -> list[_Taken]:
        """The next waiting rows, as many as fit one call; those that no longer wait are dropped."""
        taken: list[_Taken] = []
        size = 0
        now = asyncio.get_running_loop().time()
        while self._queue and size < self._batch_size:
            waiting = self._queue[0]
            if now >= waiting.until:  # a busy event loop may not have come to it
                waiting.expire()
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
            elif waiting.large:
                self._queue.rotate(-1)
        return taken

    def _finish(self, taken: list[_Taken], began: float, call: asyncio.Future[Decision]) -> None:
        self._in_flight -= 1
        self._lookout.answered(sum(one.rows.size for one in taken), time.perf_counter() - began)
        error = RuntimeError("the version was unloaded") if call.cancelled() else call.exception()
        if error is not None:
            for one in taken:
                if not one.waiting.future.done():
                    one.waiting.future.set_exception(error)
        else:
            whole, at = call.result(), 0
            decided: list[tuple[_Waiting, Decision]] = []
            for waiting, start, rows in taken:
                part = whole if len(taken) == 1 else part_of(whole, at, at + rows.size)
                at += rows.size
                decision = waiting.decided(start, part, rows.size)
                if decision is not None:
                    decided.append((waiting, decision))
            self._answers.add(decided)
        if self._queued >= self._batch_size:
            self._dispatch()
        elif self._queue and not self._max_wait:
            self._look_soon()
        elif self._queue and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._max_wait, self._dispatch)


def _answer(decided: tuple[_Waiting, Decision]) -> None:
    waiting, decision = decided
    if not waiting.future.done():
        waiting.future.set_result(decision)
