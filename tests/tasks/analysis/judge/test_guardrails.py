"""What ends a canary at once."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bentos.telemetry import counters
from tasks.analysis.judge import guardrails
from tasks.analysis.judge.guardrails import ArmStats

SLO = 0.050
BUCKETS = (0.01, 0.05, 0.1, 0.25)


def latencies(*counts: int) -> ArmStats:
    return ArmStats(decisions=sum(counts), latency_bounds=BUCKETS, latency_counts=counts)


def test_counters_are_read_from_what_the_gateway_stores() -> None:
    one, other = counters.Arm(), counters.Arm()
    one.decided(3, 0.02)
    one.count(one.sources, "fallback", 2)
    one.count(one.faults, "non_finite", 1)
    other.decided(4, 0.02)
    other.count(other.faults, "exception", 5)
    other.breaker_open = True
    read = ArmStats.of(counters.total([one.to_json(), other.to_json()]))
    assert (read.decisions, read.fallbacks, read.non_finite, read.exceptions, read.breaker_open) == (7, 2, 1, 5, True)
    assert sum(read.latency_counts) == 2
    assert ArmStats.of(counters.total([])).decisions == 0


def test_one_non_finite_output_or_exception_is_one_too_many() -> None:
    assert guardrails.non_finite(ArmStats(non_finite=1)).fired == "roll_back"
    assert guardrails.non_finite(ArmStats(decisions=10**6)).fired is None
    assert guardrails.exceptions(ArmStats(exceptions=1)).fired == "roll_back"
    assert guardrails.exceptions(ArmStats(decisions=10**6)).fired is None


def test_an_open_breaker_or_a_fault_event_ends_it_and_says_why() -> None:
    assert guardrails.breaker(ArmStats(breaker_open=True), ()).fired == "roll_back"
    found = guardrails.breaker(ArmStats(), ("breaker_open: 5 exceptions",))
    assert found.fired == "roll_back"
    assert "5 exceptions" in found.reason
    assert guardrails.breaker(ArmStats(), ()).fired is None


def test_a_quantile_lies_where_its_bucket_says() -> None:
    assert latencies(100, 0, 0, 0, 0).latency_quantile(0.5) == pytest.approx(0.005)
    assert latencies(98, 0, 2, 0, 0).latency_quantile(0.99) == pytest.approx(0.075)
    assert latencies(0, 0, 0, 0, 10).latency_quantile(0.99) == math.inf
    assert ArmStats().latency_quantile(0.99) is None


@pytest.mark.parametrize(
    ("control", "challenger", "fired"),
    [
        (latencies(1000, 0, 0, 0, 0), latencies(900, 0, 100, 0, 0), "roll_back"),
        (latencies(900, 0, 100, 0, 0), latencies(900, 0, 100, 0, 0), None),
        (latencies(1000, 0, 0, 0, 0), latencies(900, 100, 0, 0, 0), None),
        (latencies(10, 0, 0, 0, 0), latencies(9, 0, 1, 0, 0), None),
        (ArmStats(), latencies(900, 0, 100, 0, 0), "roll_back"),
        (ArmStats(), latencies(1000, 0, 0, 0, 0), None),
        (latencies(1000, 0, 0, 0, 0), ArmStats(), None),
    ],
    ids=["slow", "both slow", "within the objective", "too few", "slow alone", "fast alone", "silent"],
)
def test_latency_is_held_against_the_objective_and_the_concurrent_control(
    control: ArmStats, challenger: ArmStats, fired: str | None
) -> None:
    assert guardrails.latency(control, challenger, SLO).fired == fired


def test_latency_past_the_last_bucket_is_beyond_any_objective() -> None:
    fast, beyond = latencies(1000, 0, 0, 0, 0), latencies(900, 0, 0, 0, 100)
    for control in (fast, ArmStats()):
        found = guardrails.latency(control, beyond, slo_seconds=BUCKETS[-1])
        assert found.fired == "roll_back"
        assert (found.observed, "more than 250.0 ms" in found.reason) == (250.0, True)
    both = guardrails.latency(beyond, beyond, slo_seconds=BUCKETS[-1])
    assert both.fired is None
    assert json.loads(json.dumps(both.to_json(), allow_nan=False))["threshold"] == 250.0


@pytest.mark.parametrize("objective_ms", [5_000, 10_000, 60_000])
def test_every_objective_that_a_spec_may_set_can_be_missed(objective_ms: float) -> None:
    arms = {}
    for name, factor in (("within", 0.5), ("beyond", 2.0)):
        arm = counters.Arm()
        for _ in range(1000):
            arm.decided(1, factor * objective_ms / 1000)
        arms[name] = ArmStats.of(counters.total([arm.to_json()]))
    assert guardrails.latency(ArmStats(), arms["within"], objective_ms / 1000).fired is None
    assert guardrails.latency(ArmStats(), arms["beyond"], objective_ms / 1000).fired == "roll_back"


@pytest.mark.parametrize(
    ("control", "challenger", "fired"),
    [
        (ArmStats(decisions=1000), ArmStats(decisions=1000, fallbacks=50), "roll_back"),
        (ArmStats(decisions=1000, fallbacks=40), ArmStats(decisions=1000, fallbacks=50), None),
        (ArmStats(decisions=1000), ArmStats(decisions=1000, fallbacks=10), None),
        (ArmStats(decisions=10), ArmStats(decisions=10, fallbacks=5), None),
        (ArmStats(), ArmStats(), None),
    ],
    ids=["many", "as many as control", "few", "too early", "nothing"],
)
def test_the_share_of_fallbacks_is_held_against_controls(
    control: ArmStats, challenger: ArmStats, fired: str | None
) -> None:
    assert guardrails.fallback_rate(control, challenger).fired == fired


def test_abandonment_of_one_arm_alone_is_found_within_a_dozen() -> None:
    challenger = np.ones(12, dtype=bool)
    assert guardrails.abandonment(challenger, np.ones(12, dtype=bool)).fired == "roll_back"
    assert guardrails.abandonment(~challenger, np.ones(12, dtype=bool)).fired is None
    assert guardrails.abandonment(challenger, np.zeros(12, dtype=bool)).fired is None


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.5])
def test_abandonment_alike_in_both_arms_rarely_ends_a_canary(rate: float) -> None:
    generator = np.random.default_rng(3)
    fired = 0
    for _ in range(300):
        challenger, abandoned = generator.random(2000) < 0.5, generator.random(2000) < rate
        fired += guardrails.abandonment(challenger, abandoned).fired is not None
    assert fired / 300 <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 300)


def test_a_broken_split_is_inconclusive_not_the_challengers_fault() -> None:
    assert guardrails.ratio(np.ones(40, dtype=bool)).fired == "inconclusive"
    assert guardrails.ratio(np.arange(400) % 2 == 0).fired is None
    assert guardrails.ratio(np.zeros(0, dtype=bool)).fired is None
