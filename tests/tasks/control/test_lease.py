"""The lease on a policy: one holder, fenced, expiring, renewable."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from bentos.store import tables
from tasks.control.lease import LeaseHeld, LeaseLost, acquire, held


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return tables.create(f"sqlite:///{tmp_path / 'airlock.db'}")


def test_a_second_holder_waits_and_is_then_told_who_holds_it(engine: sa.Engine) -> None:
    with held(engine, "cartpole", "release manual__1"), pytest.raises(LeaseHeld, match="release manual__1"):
        acquire(engine, "cartpole", "ada", wait=0.3)


def test_a_second_holder_gets_it_as_soon_as_it_is_given_back(engine: sa.Engine) -> None:
    first = acquire(engine, "cartpole", "ada")
    threading.Timer(0.3, first.release).start()
    assert acquire(engine, "cartpole", "bob", wait=5).fence == first.fence + 1


def test_policies_do_not_wait_for_each_other(engine: sa.Engine) -> None:
    with held(engine, "cartpole", "ada"), held(engine, "pendulum", "ada", wait=0):
        pass


def test_one_that_was_not_renewed_is_free_and_its_holder_finds_out(engine: sa.Engine) -> None:
    stalled = acquire(engine, "cartpole", "ada", ttl=0.2)
    time.sleep(0.3)
    successor = acquire(engine, "cartpole", "bob", wait=0)
    assert successor.fence > stalled.fence
    with pytest.raises(LeaseLost, match="ada"):
        stalled.renew()
    stalled.release()
    successor.renew()


def test_one_that_ran_out_cannot_be_renewed_even_if_nobody_took_it(engine: sa.Engine) -> None:
    stalled = acquire(engine, "cartpole", "ada", ttl=0.1)
    time.sleep(0.2)
    with pytest.raises(LeaseLost):
        stalled.renew()


def test_renewing_in_the_background_keeps_it_over_its_time(engine: sa.Engine) -> None:
    lease = acquire(engine, "cartpole", "ada", ttl=3.0)
    with lease.kept_alive():
        time.sleep(4.0)
        with pytest.raises(LeaseHeld):
            acquire(engine, "cartpole", "bob", wait=0)
    lease.renew()


def test_of_many_that_race_one_holds_it_at_a_time(engine: sa.Engine) -> None:
    inside, most, fences = 0, 0, []
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with held(engine, "cartpole", "racer", wait=20) as lease:
            with guard:
                inside += 1
                most = max(most, inside)
                fences.append(lease.fence)
            time.sleep(0.01)
            with guard:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert fences == sorted(set(fences))
    assert len(fences) == 6
