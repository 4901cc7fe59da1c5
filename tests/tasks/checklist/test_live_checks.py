"""Post-deployment checks of counters and returns: each branch, as a table of evidence and status."""

from __future__ import annotations

from typing import Any

import pytest

from bentos.telemetry.counters import LATENCY_BUCKETS, Arm
from tasks.checklist import live
from tasks.checklist.live import Usage
from tasks.spec.files import load
from tasks.spec.sections import PolicySpec

DISCRETE = {"kind": "discrete", "counts": [500, 500]}


@pytest.fixture
def spec() -> PolicySpec:
    return load("cartpole")


def _counters(seconds: float = 0.001, requests: int = 2_000, **changes: Any) -> dict[str, Any]:
    arm = Arm()
    for _ in range(requests):
        arm.decided(1, seconds)
    return arm.to_json() | changes


@pytest.mark.parametrize(
    ("seconds", "requests", "status"),
    [(0.001, 2_000, "pass"), (0.2, 2_000, "fail"), (9.0, 2_000, "fail"), (0.001, 50, "inconclusive")],
)
def test_latency(spec: PolicySpec, seconds: float, requests: int, status: str) -> None:
    assert live.latency_sla(_counters(seconds, requests), spec).status == status


def test_one_slow_request_in_a_hundred_is_allowed_and_two_are_not(spec: PolicySpec) -> None:
    slow = LATENCY_BUCKETS.index(1.0)

    def share(count: int) -> dict[str, Any]:
        counts = [0] * (len(LATENCY_BUCKETS) + 1)
        counts[4], counts[slow] = 1_000 - count, count
        latency = {"buckets": list(LATENCY_BUCKETS), "counts": counts, "sum": 1.0}
        return _counters(requests=1_000) | {"latency": latency}

    assert live.latency_sla(share(10), spec).status == "pass"
    assert live.latency_sla(share(20), spec).status == "fail"


@pytest.mark.parametrize(
    ("broken", "requests", "status"),
    [(0, 2_000, "pass"), (1, 2_000, "fail"), (0, 10, "inconclusive"), (1, 10, "fail")],
)
def test_finite_outputs(broken: int, requests: int, status: str) -> None:
    faults = {"non_finite": broken, "exception": 0, "deadline": 0}
    assert live.finite_outputs(_counters(requests=requests, faults=faults)).status == status


@pytest.mark.parametrize(
    ("actions", "status"),
    [
        ({"0": 1_000, "1": 1_000}, "pass"),
        ({"0": 1_300, "1": 700}, "pass"),
        ({"0": 1_500, "1": 500}, "fail"),
        ({"0": 2_000}, "fail"),
        ({"0": 100, "1": 100}, "inconclusive"),
    ],
)
def test_action_distribution_of_discrete_actions(spec: PolicySpec, actions: dict[str, int], status: str) -> None:
    assert live.action_distribution(_counters(actions=actions), DISCRETE, spec).status == status


def test_action_distribution_looks_at_the_worst_dimension(spec: PolicySpec) -> None:
    baseline = {"kind": "continuous", "edges": [[0, 1, 2]] * 2, "counts": [[500, 500], [500, 500]]}
    still = {"d0:0": 1_000, "d0:1": 1_000, "d1:0": 1_000, "d1:1": 1_000}
    moved = {"d0:0": 1_000, "d0:1": 1_000, "d1:0": 2_000}
    assert live.action_distribution(_counters(actions=still), baseline, spec).status == "pass"
    assert live.action_distribution(_counters(actions=moved), baseline, spec).status == "fail"


@pytest.mark.parametrize(
    ("returns", "evaluated", "status"),
    [
        ([490.0, 500.0] * 20, 500.0, "pass"),
        ([300.0, 310.0] * 20, 500.0, "fail"),
        ([500.0, 250.0] * 10 + [300.0, 150.0] * 10, 400.0, "inconclusive"),
        ([500.0] * 5, 500.0, "inconclusive"),
        ([-155.0, -150.0] * 20, -150.0, "pass"),
        ([-250.0, -260.0] * 20, -150.0, "fail"),
        ([600.0, 610.0] * 20, 500.0, "pass"),
    ],
)
def test_reward_trend(spec: PolicySpec, returns: list[float], evaluated: float, status: str) -> None:
    assert live.reward_trend(returns, evaluated, spec).status == status


@pytest.mark.parametrize(
    ("faults", "probes", "failures", "status"),
    [(0, 100, 0, "pass"), (19, 100, 0, "pass"), (21, 100, 0, "fail"), (0, 100, 2, "fail"), (0, 0, 0, "pass")],
)
def test_error_rate_counts_faults_and_failed_requests(faults: int, probes: int, failures: int, status: str) -> None:
    counters = _counters(faults={"non_finite": 0, "exception": faults, "deadline": 0})
    assert live.error_rate(counters, probes, ["HTTP 503"] * failures).status == status


def test_error_rate_of_hardly_any_decisions_is_inconclusive() -> None:
    assert live.error_rate(_counters(requests=10), 10, []).status == "inconclusive"


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (Usage(151.0, 2.0, 41), "pass"),
        (Usage(150.0 + live.MAX_GROWTH_MB + 1, 2.0, 41), "fail"),
        (Usage(151.0, 2.0, 40 + live.MAX_NEW_FILES + 1), "fail"),
    ],
)
def test_resource_usage_fails_on_growth_of_memory_or_files(last: Usage, status: str) -> None:
    first = Usage(150.0, 1.0, 40)
    assert live.resource_usage([first, first, last], 1_000).status == status


def test_resource_usage_of_a_gateway_elsewhere_is_inconclusive() -> None:
    assert live.resource_usage([], 1_000).status == "inconclusive"
