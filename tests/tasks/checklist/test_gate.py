"""The gate: which findings, in which modes, open it."""

from __future__ import annotations

import pytest

from tasks.checklist.run import decide
from tasks.checklist.types import Check, Finding, Status
from tasks.spec.sections import Mode


def _check(status: Status, mode: Mode = "enforce", name: str = "exported") -> Check:
    return Check.of(name, "pre_deployment", mode, Finding(status, f"it did {status}"), 0.1)


@pytest.mark.parametrize(
    ("status", "mode", "verdict"),
    [
        ("pass", "enforce", "pass"),
        ("fail", "enforce", "fail"),
        ("skip", "enforce", "fail"),
        ("inconclusive", "enforce", "fail"),
        ("pass", "dry_run", "pass"),
        ("fail", "dry_run", "pass"),
        ("skip", "dry_run", "pass"),
        ("inconclusive", "dry_run", "pass"),
        ("skip", "off", "pass"),
        ("fail", "off", "pass"),
    ],
)
def test_only_a_pass_opens_an_enforcing_gate(status: Status, mode: Mode, verdict: str) -> None:
    decision = decide(["exported"], [_check(status, mode)])
    assert decision.verdict == verdict
    assert bool(decision.reasons) == (verdict == "fail")


def test_one_failure_among_passes_shuts_it_and_is_named() -> None:
    checks = [_check("pass", name="exported"), _check("fail", name="ab_plan"), _check("pass", name="action_bounds")]
    decision = decide(["exported", "ab_plan", "action_bounds"], checks)
    assert decision.verdict == "fail"
    assert decision.reasons == ("ab_plan: fail: it did fail",)


def test_every_reason_is_given_in_order() -> None:
    checks = [_check("skip", name="b"), _check("fail", name="a")]
    assert decide(["a", "b"], checks).reasons == ("a: fail: it did fail", "b: skip: it did skip")


def test_a_missing_result_shuts_it() -> None:
    decision = decide(["exported", "ab_plan"], [_check("pass")])
    assert decision.verdict == "fail"
    assert decision.reasons == ("ab_plan: no result",)


def test_two_results_for_one_check_shut_it_whatever_their_mode() -> None:
    assert decide(["exported"], [_check("pass", "off"), _check("pass", "off")]).verdict == "fail"
