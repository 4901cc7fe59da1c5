"""When a slow policy's next call begins, in virtual time: with requests from whomever, and from those just answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import numpy as np
import pytest

from bentos.rows import Decision, Rows
from bentos.runners import batch as batches
from bentos.runners import batch_window, settled
from bentos.runners.batch import Batch

TURN, BUSY_TURN = 50e-6, 400e-6
"""What one turn of the event loop takes, in seconds: idle, and while it writes answers or serves other policies."""

CALL, ROW = 0.030, 5e-5


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes as it is told."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Model:
    """Takes `CALL` + n `ROW` seconds for n rows; `ended` is when the last call did, `busy` what all took."""

    def __init__(self, clock: Clock) -> None:
        self.busy = 0.0
        self.ended = 0.0
        self.calls: list[int] = []
        self._clock = clock

    def call(self, _executor: object, _run: object, rows: Rows) -> asyncio.Future[Decision]:
        seconds = CALL + ROW * rows.size
        self.busy += seconds
        self.ended = self._clock.now + seconds
        self.calls.append(rows.size)
        answered: asyncio.Future[Decision] = self._clock.create_future()
        one = np.ones(rows.size)
        decision = Decision(one, one.astype(bool), ["policy"] * rows.size, ["1"] * rows.size)
        self._clock.call_later(seconds, answered.set_result, decision)
        return answered

    def run(self, rows: Rows) -> Decision:
        raise NotImplementedError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (batches, batch_window):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock.time))
    return clock


def served(clock: Clock, monkeypatch: pytest.MonkeyPatch, live: Callable[[Batch, Model], Awaitable[None]]) -> Model:
    model = Model(clock)
    monkeypatch.setattr(clock, "run_in_executor", model.call)

    async def serve() -> None:
        batch = Batch(model, batch_size=512, deadline=1e9, in_flight=1)  # type: ignore[arg-type]
        await live(batch, model)
        batch.close()

    try:
        clock.run_until_complete(serve())
    finally:
        clock.close()
    return model


async def ask(batch: Batch) -> None:
    await settled(batch.decide(Rows(feeds={"observation": np.zeros((1, 4), np.float32)}, size=1)))


@pytest.mark.parametrize(("turn", "least"), [(TURN, 0.95), (BUSY_TURN, 0.88)])
def test_a_call_hardly_ever_waits_for_those_who_were_answered_where_others_ask(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, turn: float, least: float
) -> None:
    seconds, rate = 3.0, 4_000.0

    async def live(batch: Batch, _: Model) -> None:
        chance, asked = random.Random(1), []
        coming = chance.expovariate(rate)
        while clock.now < seconds:
            clock.now += turn
            while coming <= clock.now:
                asked.append(asyncio.ensure_future(ask(batch)))
                coming += chance.expovariate(rate)
            await asyncio.sleep(0)
        for one in asked:
            one.cancel()

    assert served(clock, monkeypatch, live).busy > least * seconds


def test_clients_that_fell_into_two_halves_are_brought_together(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """For 4 ms answers are written, of which the clients take up to 4.5 ms each to ask again."""

    async def client(batch: Batch, chance: random.Random) -> None:
        await asyncio.sleep(chance.choice([0.0, 0.01]))
        while True:
            await ask(batch)
            await asyncio.sleep(chance.uniform(0.002, 0.0045))

    async def live(batch: Batch, model: Model) -> None:
        chance = random.Random(1)
        clients = [asyncio.ensure_future(client(batch, chance)) for _ in range(64)]
        while clock.now < 1.0:
            clock.now += BUSY_TURN if 0 <= clock.now - model.ended < 0.004 else TURN
            await asyncio.sleep(0)
        for one in clients:
            one.cancel()

    calls = served(clock, monkeypatch, live).calls
    assert calls[0] < 64, "they begin apart"
    assert calls[4:] == [64] * len(calls[4:])
