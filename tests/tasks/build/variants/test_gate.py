"""The quantization gate: each way of being unlike fp32 rejects by itself, and only a measured gain is accepted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.build.variants.gate import (
    ActionDifference,
    Behaviour,
    Gain,
    ReturnDifference,
    Verdict,
    judge,
    judge_behaviour,
    judge_gain,
)

DISCRETE = ActionDifference(True, 100, 0.97, 0.995, 1.0, 1.0)
CONTINUOUS = ActionDifference(False, 100, 0.0, 0.0, 0.1, 0.01)
SAME = ReturnDifference(32, 0.0, -1.0, 1.0)
ALIKE = Behaviour(DISCRETE, SAME, batch_invariant=True, flags_kept=True)
FASTER = Gain(64, 0.6, 0.5, 0.9, 2_000_000, 2_000_000)
SMALLER = Gain(64, 1.0, 0.9, 1.1, 1_000_000, 2_000_000)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (
            replace(ALIKE, actions=replace(DISCRETE, weighted_agreement=0.994)),
            "agrees with fp32 on 99.40% of actions weighted by their margin (97.00% unweighted), 99.5% is asked",
        ),
        (
            replace(ALIKE, actions=replace(CONTINUOUS, p99_error=0.011)),
            "99th percentile of its action error is 1.10% of the span, 1% is allowed",
        ),
        (
            replace(ALIKE, actions=replace(CONTINUOUS, max_error=0.11)),
            "largest action error is 11.00% of the span, 10% is allowed",
        ),
        (
            replace(ALIKE, actions=replace(CONTINUOUS, p99_error=float("nan"))),
            "99th percentile of its action error is nan% of the span, 1% is allowed",
        ),
        (replace(ALIKE, batch_invariant=False), "its action depends on which other observations share the batch"),
        (
            replace(ALIKE, flags_kept=False),
            "it takes for finite what fp32 flags as not finite, or the other way round",
        ),
        (
            replace(ALIKE, returns=ReturnDifference(32, -2, -15.1, 3)),
            "its return differs by -2.00 [-15.10, 3.00], which does not exclude a loss of more than 15",
        ),
        (
            replace(ALIKE, returns=ReturnDifference(32, float("nan"), float("nan"), float("nan"))),
            "its return differs by +nan [nan, nan], which does not exclude a loss of more than 15",
        ),
        (
            replace(ALIKE, returns=None, unmeasured="the environment is not known"),
            "its return was not measured: the environment is not known",
        ),
    ],
)
def test_each_way_of_being_unlike_fp32_rejects_a_variant_by_itself(behaviour: Behaviour, said: str) -> None:
    assert judge_behaviour(behaviour, tolerated_loss=15) == Verdict(False, said)


@pytest.mark.parametrize("actions", [DISCRETE, CONTINUOUS])
def test_a_variant_at_every_limit_passes(actions: ActionDifference) -> None:
    assert judge_behaviour(replace(ALIKE, actions=actions), tolerated_loss=1.0).accepted


def test_all_reasons_are_told() -> None:
    worst = Behaviour(replace(DISCRETE, weighted_agreement=0.1), None, False, False, "no environment")
    assert judge_behaviour(worst, 1.0).reason.count(";") == 3


@pytest.mark.parametrize(
    ("gain", "accepted", "said"),
    [
        (FASTER, True, "takes 0.60 [0.50, 0.90] times fp32's time at batch 64"),
        (replace(FASTER, upper=0.91), False, "gains nothing: takes 0.60 [0.50, 0.91] times fp32's time"),
        (SMALLER, True, "saves 1.0 MB (50% of its size) and takes 1.00 [0.90, 1.10] times"),
        (replace(SMALLER, upper=1.11), False, "gains nothing"),
        (replace(SMALLER, size_bytes=1_000_001), False, "gains nothing"),
        (replace(SMALLER, size_bytes=10, fp32_size_bytes=900_000), False, "gains nothing"),
    ],
)
def test_a_gain_is_sure_to_be_one_in_time_or_a_large_one_in_size_that_costs_no_time(
    gain: Gain, accepted: bool, said: str
) -> None:
    verdict = judge_gain(gain)
    assert verdict.accepted is accepted
    assert said in verdict.reason


@pytest.mark.parametrize(
    ("behaviour", "gain", "expected"),
    [
        (Verdict(True, "alike"), Verdict(True, "faster"), Verdict(True, "alike; faster")),
        (Verdict(False, "unlike"), Verdict(True, "faster"), Verdict(False, "unlike")),
        (Verdict(True, "alike"), Verdict(False, "slower"), Verdict(False, "slower")),
        (Verdict(False, "unlike"), Verdict(False, "slower"), Verdict(False, "unlike; slower")),
    ],
)
def test_accepted_is_what_acts_alike_and_gains(behaviour: Verdict, gain: Verdict, expected: Verdict) -> None:
    assert judge(behaviour, gain) == expected
