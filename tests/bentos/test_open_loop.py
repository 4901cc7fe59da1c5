"""A slow policy under requests that come from whomever, in virtual time: its calls follow one another at once."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import numpy as np
import pytest

from bentos.rows import Decision, Rows
from bentos.runners import batch as batches
from bentos.runners import settled
from bentos.runners.batch import Batch

TURN = 50e-6
"""What one turn of the event loop takes, in seconds."""

CALL, ROW, RATE, SECONDS = 0.030, 5e-5, 4_000.0, 1.0


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes as it is told."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Model:
    """Takes `CALL` + n `ROW` seconds for n rows, of which `busy` is the sum."""

    def __init__(self, clock: Clock) -> None:
        self.busy = 0.0
        self._clock = clock

    def call(self, _executor: object, _run: object, rows: Rows) -> asyncio.Future[Decision]:
        seconds = CALL + ROW * rows.size
        self.busy += seconds
        answered: asyncio.Future[Decision] = self._clock.create_future()
        one = np.ones(rows.size)
        decision = Decision(one, one.astype(bool), ["policy"] * rows.size, ["1"] * rows.size)
        self._clock.call_later(seconds, answered.set_result, decision)
        return answered

    def run(self, rows: Rows) -> Decision:
        raise NotImplementedError


def test_a_call_never_waits_for_those_who_were_answered_where_others_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    model = Model(clock)
    monkeypatch.setattr(clock, "run_in_executor", model.call)
    monkeypatch.setattr(batches, "time", SimpleNamespace(perf_counter=clock.time))

    async def ask(batch: Batch) -> None:
        await settled(batch.decide(Rows(feeds={"observation": np.zeros((1, 4), np.float32)}, size=1)))

    async def live() -> None:
        batch = Batch(model, batch_size=512, deadline=1e9, in_flight=1)  # type: ignore[arg-type]
        chance, asked = random.Random(1), []
        coming = chance.expovariate(RATE)
        while clock.now < SECONDS:
            clock.now += TURN
            while coming <= clock.now:
                asked.append(asyncio.ensure_future(ask(batch)))
                coming += chance.expovariate(RATE)
            await asyncio.sleep(0)
        for one in asked:
            one.cancel()
        batch.close()

    try:
        clock.run_until_complete(live())
    finally:
        clock.close()
    assert model.busy > 0.93 * SECONDS
