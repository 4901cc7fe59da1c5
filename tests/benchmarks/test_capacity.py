"""The capacity simulation: what theory says where theory has an answer, and what was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.capacity import closed_queue, constant, exponential, group_commit, need, open_queue


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_worker_waits_as_in_an_m_d_1_queue(busy: float) -> None:
    waiting = open_queue(busy, constant(1.0), 1, count=200_000).mean() - 1.0
    assert waiting == pytest.approx(busy / (2 * (1 - busy)), rel=0.05)  # Pollaczek-Khinchine


@pytest.mark.parametrize(("workers", "busy"), [(1, 0.6), (4, 0.7), (16, 0.8)])
def test_many_workers_wait_as_in_an_m_m_c_queue(workers: int, busy: float) -> None:
    load = workers * busy
    full = load**workers / math.factorial(workers) / (1 - busy)
    queued = full / (sum(load**k / math.factorial(k) for k in range(workers)) + full)  # Erlang C
    waiting = open_queue(load, exponential(1.0), workers, count=300_000).mean() - 1.0
    assert waiting == pytest.approx(queued / (workers * (1 - busy)), rel=0.08)


def test_requests_that_come_together_wait_for_each_other() -> None:
    together = open_queue(0.01, constant(1.0), 1, burst=4)
    assert np.quantile(together, [0.2, 0.9]) == pytest.approx([1.0, 4.0])


@pytest.mark.parametrize(
    ("connections", "cpu", "rate", "p50"),
    [
        (16, 44.1e-6, 21_976, 0.623e-3),
        (64, 30.7e-6, 31_631, 1.833e-3),
    ],
)
def test_a_closed_loop_answers_as_one_gateway_worker_was_measured_to(
    connections: int, cpu: float, rate: float, p50: float
) -> None:
    """CPU time a request, requests/s and p50 are of one run with one worker, on the slower machine of docs/scale.md."""
    found, latency = closed_queue(connections, constant(cpu), 1)
    assert found == pytest.approx(rate, rel=0.05)
    assert np.median(latency) == pytest.approx(p50, rel=0.15)


def test_a_group_commit_takes_whatever_waits() -> None:
    few = group_commit(1.0, commit=0.01, row=0.0, most=1000, count=2000)
    assert np.median(few) == pytest.approx(0.01, rel=0.01)
    many = group_commit(50_000.0, commit=0.01, row=1e-6, most=1000, count=100_000)
    assert many.max() < 0.03, "what comes while one commits goes with the next"
    swamped = group_commit(200_000.0, commit=0.01, row=1e-6, most=1000, count=100_000)
    assert swamped[-1] > 10 * many.max(), "more than the writer can take piles up"


def test_more_decisions_need_workers_in_proportion_and_fewer_where_many_are_asked_at_once() -> None:
    small, large, grouped = need(1_000.0, 1), need(10_000.0, 1), need(10_000.0, 64)
    assert large.workers == 4
    assert small.workers == 2
    assert grouped.workers <= large.workers
    assert large.latency_ms <= large.latency_one_away_ms
