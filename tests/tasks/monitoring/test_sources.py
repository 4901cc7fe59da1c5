"""Counters that the monitor reads across an upgrade, when gateways with fewer latency buckets still count."""

from __future__ import annotations

import math
from typing import Any

from bentos.telemetry.counters import LATENCY_BUCKETS, Arm
from tasks.alerts.readings import quantile_ms
from tasks.monitoring import sources

OLDER = LATENCY_BUCKETS[: LATENCY_BUCKETS.index(5.0) + 1]


def _served(requests: int, seconds: float, buckets: tuple[float, ...] = LATENCY_BUCKETS) -> dict[str, Any]:
    arm = Arm()
    for _ in range(requests):
        arm.decided(1, seconds)
    document = arm.to_json()
    counts = document["latency"]["counts"]
    document["latency"] |= {"buckets": list(buckets), "counts": [*counts[: len(buckets)], sum(counts[len(buckets) :])]}
    return document


def test_what_older_gateways_counted_before_is_not_counted_again() -> None:
    before, now = _served(2000, 2.0, OLDER), _served(2000, 2.0)
    for bucket, count in enumerate(_served(1000, 0.001)["latency"]["counts"]):
        now["latency"]["counts"][bucket] += count
    gained = sources.difference(now, before)["latency"]
    assert sum(gained["counts"]) == 1000
    assert quantile_ms(gained, 0.99) <= 1.0


def test_buckets_that_only_newer_gateways_have_hide_nothing_of_the_older() -> None:
    both = {str(bound): 1100.0 for bound in OLDER if bound >= 0.001}
    upto = {**both, "10.0": 100.0, "30.0": 100.0, "60.0": 100.0, "+Inf": 1100.0}
    counts = sources._apart(upto)
    assert (sum(counts), counts[-1]) == (1100.0, 0.0)
    assert quantile_ms({"buckets": LATENCY_BUCKETS, "counts": counts}, 0.99) <= 1.0


def test_older_gateways_alone_are_read_and_what_was_slower_than_they_tell_is_as_slow_as_can_be() -> None:
    counts = sources._apart({**{str(bound): 90.0 for bound in OLDER}, "+Inf": 100.0})
    assert quantile_ms({"buckets": LATENCY_BUCKETS, "counts": counts}, 0.99) == math.inf
    assert sources._apart({"0.1": 3.0}) == [0.0] * (len(LATENCY_BUCKETS) + 1)
