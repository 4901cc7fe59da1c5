"""The bound of a closed loop: what it is where the answer is known, and that no sequence of calls exceeds it."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from benchmarks.serving.closed_loop import bound


def test_the_bound_is_that_of_full_calls_where_requests_turn_round_at_once() -> None:
    assert bound(64, 0.010, 0.0001, 0.0) == pytest.approx(64 / 0.0164)
    assert bound(64, 0.010, 0.0001, 52e-6) == pytest.approx(64 / (0.0164 + 64 * 52e-6))


def test_a_slow_loop_does_better_with_half_of_the_requests_in_each_call() -> None:
    assert bound(64, 0.010, 0.0001, 1.0) == pytest.approx(32 / 0.0132)


@pytest.mark.parametrize("turn_round", [0.0, 0.05, 0.5, 1.2, 2.0, 9.0])
def test_no_sequence_of_calls_exceeds_the_bound_and_one_reaches_it(turn_round: float) -> None:
    connections, call, row = 6, 10.0, 0.1
    rates = []
    for sizes in (sizes for length in (1, 2, 3, 4) for sizes in product(range(1, connections + 1), repeat=length)):
        back = (max(0, one + following - connections) for one, following in pairwise([*sizes, sizes[0]]))
        rates.append(sum(sizes) / (len(sizes) * call + sum(sizes) * row + turn_round * sum(back)))
    assert max(rates) == pytest.approx(bound(connections, call, row, turn_round))
