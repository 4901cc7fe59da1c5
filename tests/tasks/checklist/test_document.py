"""A checklist: how checks run, the JSON object they become, and its renderings."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from tasks.checklist.render import as_markdown, as_text
from tasks.checklist.run import run_all, run_check
from tasks.checklist.types import Checklist, Finding
from tasks.spec.sections import POST_DEPLOYMENT, Mode


def _all_pass() -> dict[str, Callable[[], Finding]]:
    return {name: lambda: Finding("pass", "seen", observed=1.5, threshold=2, unit="ms") for name in POST_DEPLOYMENT}


def _run(checks: dict[str, Callable[[], Finding]], modes: dict[str, Mode] | None = None) -> Checklist:
    def mode(name: str) -> Mode:
        return (modes or {}).get(name, "enforce")

    return run_all("cartpole", "3", "post_deployment", checks, mode, "a test")[0]


def test_a_check_that_raises_has_failed_with_its_error_as_reason() -> None:
    def broken() -> Finding:
        raise ConnectionError("no gateway at port 3000")

    check = run_check("latency_sla", "post_deployment", "enforce", broken)
    assert check.status == "fail"
    assert "ConnectionError: no gateway at port 3000" in check.reason


def test_a_check_that_is_off_is_not_run() -> None:
    def never() -> Finding:
        raise AssertionError("it was run")

    check = run_check("latency_sla", "post_deployment", "off", never)
    assert (check.status, check.mode) == ("skip", "off")


def test_one_raising_check_shuts_the_gate_and_the_others_still_run() -> None:
    def broken() -> Finding:
        raise ValueError("boom")

    checklist = _run({**_all_pass(), "error_rate": broken})
    assert checklist.verdict == "fail"
    assert [check.status for check in checklist.checks].count("pass") == len(POST_DEPLOYMENT) - 1


def test_json_has_the_contracts_fields_and_survives_a_round_trip() -> None:
    document = json.loads(json.dumps(_run(_all_pass()).to_json(), allow_nan=False))
    assert set(document) == {"schema_version", "policy", "version", "phase", "verdict", "decided_by", "at", "checks"}
    assert [check["id"] for check in document["checks"]] == list(POST_DEPLOYMENT)
    assert set(document["checks"][0]) == {
        *("id", "phase", "status", "mode", "observed", "threshold"),
        *("unit", "sample_size", "evidence", "seconds", "reason"),
    }
    assert Checklist.from_json(document).to_json() == document


@pytest.mark.parametrize("odd", [np.float32(1.5), np.arange(3), float("inf"), float("nan"), (1, 2), {"a": np.int64(3)}])
def test_evidence_is_plain_json_whatever_a_check_puts_in(odd: object) -> None:
    checks = {**_all_pass(), "latency_sla": lambda: Finding("pass", "odd", observed=odd, evidence={"odd": odd})}
    json.dumps(_run(checks).to_json(), allow_nan=False)


def test_text_is_aligned_and_names_every_check() -> None:
    lines = as_text(_run(_all_pass())).splitlines()
    assert lines[0] == "post-deployment checklist of cartpole version 3: pass"
    assert [line.split()[0] for line in lines[2:]] == list(POST_DEPLOYMENT)
    assert len({line.index("seen") for line in lines[2:]}) == 1


def test_markdown_keeps_the_table_whole_whatever_a_reason_says() -> None:
    reason = "a | b\nnext line | " + "long " * 200
    checks = {**_all_pass(), "error_rate": lambda: Finding("fail", reason)}
    lines = as_markdown(_run(checks)).splitlines()
    assert len(lines) == 2 + len(POST_DEPLOYMENT)
    assert all(line.replace("\\|", "").count("|") == lines[0].count("|") for line in lines)


def test_short_markdown_leaves_out_reasons_of_passes_and_keeps_those_of_failures() -> None:
    checks = {**_all_pass(), "error_rate": lambda: Finding("fail", "3 of 10 failed")}
    text = as_markdown(_run(checks), reason_limit=0)
    assert "3 of 10 failed" in text
    assert "seen |" not in text.split("\n", 2)[2]


def test_a_dry_run_is_marked_as_such() -> None:
    checks = {**_all_pass(), "error_rate": lambda: Finding("fail", "3 of 10 failed")}
    checklist = _run(checks, {"error_rate": "dry_run"})
    assert checklist.verdict == "pass"
    assert "fail (dry run)" in as_text(checklist)
