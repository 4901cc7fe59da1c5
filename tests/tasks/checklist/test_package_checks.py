"""Pre-deployment checks of the package's own evidence, of the thresholds and of the plan."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bentos.package.digests import write_manifest
from bentos.package.loader import load
from bentos.package.manifest import PackageError
from bentos.package.session import Policy
from tasks.checklist import package as packaged
from tasks.spec.files import load as load_spec
from tasks.spec.sections import PolicySpec


@pytest.fixture
def spec() -> PolicySpec:
    return load_spec("cartpole")


def _with(spec: PolicySpec, section: str, **fields: Any) -> PolicySpec:
    document = spec.model_dump(mode="json")
    document[section] |= fields
    return PolicySpec.model_validate(document)


def _rewritten(package: Policy, **changes: Any) -> Policy:
    write_manifest(package.directory, msgspec.structs.replace(package.manifest, **changes))
    return load(package.directory)


def test_a_whole_package_is_exported(package: Policy) -> None:
    assert packaged.exported(package).status == "pass"


def test_a_changed_file_raises_with_both_digests(package: Policy) -> None:
    (package.directory / "policy.ts").write_bytes(b"something else")
    with pytest.raises(PackageError, match=r"policy\.ts: digest mismatch"):
        packaged.exported(package)


def test_a_missing_format_fails(package: Policy) -> None:
    files = {name: file for name, file in package.manifest.files.items() if name != "policy.pt2"}
    finding = packaged.exported(_rewritten(package, files=files))
    assert (finding.status, finding.reason) == ("fail", "no policy.pt2")


def test_unproved_parity_fails(package: Policy) -> None:
    finding = packaged.exported(_rewritten(package, parity={**package.manifest.parity, "equal": False}))
    assert finding.status == "fail"
    assert "parity" in finding.reason


def test_a_shipped_variant_without_a_benchmark_fails(package: Policy, spec: PolicySpec) -> None:
    assert packaged.latency_benchmarked(_rewritten(package, benchmark={}), spec).status == "fail"


@pytest.mark.parametrize(("slo_ms", "status"), [(1.0, "pass"), (0.01, "fail")])
def test_benchmark_is_held_against_the_objective(package: Policy, spec: PolicySpec, slo_ms: float, status: str) -> None:
    assert packaged.latency_benchmarked(package, _with(spec, "serve", latency_slo_ms=slo_ms)).status == status


def test_a_batch_size_that_was_never_measured_fails(package: Policy, spec: PolicySpec) -> None:
    finding = packaged.latency_benchmarked(package, _with(spec, "serve", batch_size=4096))
    assert finding.status == "fail"
    assert "4096" in finding.reason


@pytest.mark.parametrize(("rss_mb", "status"), [(200.0, "pass"), (packaged.MAX_RSS_MB + 1, "fail")])
def test_memory_is_held_against_a_limit(package: Policy, rss_mb: float, status: str) -> None:
    assert packaged.memory_profiled(package, rss_mb).status == status


def test_memory_that_was_not_profiled_fails(package: Policy) -> None:
    unmeasured = {"fp32": {"batch": package.manifest.benchmark["fp32"]["batch"]}}
    assert packaged.memory_profiled(_rewritten(package, benchmark=unmeasured), 200.0).status == "fail"


def test_alert_thresholds_are_tried_on_both_sides(spec: PolicySpec) -> None:
    finding = packaged.alert_thresholds(spec)
    assert (finding.status, finding.observed, finding.sample_size) == ("pass", 10, 24)


def test_alert_thresholds_fail_when_a_rule_is_gone(spec: PolicySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = packaged.alerts.rules
    monkeypatch.setattr(packaged.alerts, "rules", lambda spec: rules(spec)[1:])
    finding = packaged.alert_thresholds(spec)
    assert (finding.status, finding.reason) == ("fail", "no rule for HIGH_LATENCY")


STEADY = {"mean": 480.0, "std": 30.0, "count": 50}


@pytest.mark.parametrize("champion", [None, "3"])
def test_a_plan_that_can_be_decided_passes(spec: PolicySpec, champion: str | None) -> None:
    assert packaged.ab_plan(spec, STEADY, champion).status == "pass"


def test_a_plan_too_small_to_see_twice_the_margin_fails(spec: PolicySpec) -> None:
    finding = packaged.ab_plan(_with(spec, "canary", max_units_per_arm=20), STEADY | {"std": 150.0}, "3")
    assert finding.status == "fail"
    assert finding.observed > finding.threshold


def test_a_plan_whose_range_excludes_what_was_evaluated_fails(spec: PolicySpec) -> None:
    assert packaged.ab_plan(_with(spec, "canary", return_range=[0, 200]), STEADY, "3").status == "fail"


def test_a_first_release_needs_a_minimum_within_the_range(spec: PolicySpec) -> None:
    impossible = _with(spec, "evaluate", minimum_mean_return=500)
    assert packaged.ab_plan(impossible, STEADY, None).status == "fail"
    assert packaged.ab_plan(impossible, STEADY, "3").status == "pass"


def test_a_champion_of_other_spaces_cannot_be_compared_with(spec: PolicySpec) -> None:
    finding = packaged.ab_plan(spec, STEADY, "3", comparable=False)
    assert finding.status == "fail"
    assert "champion 3 has other observation or action spaces" in finding.reason


def test_a_plan_for_unbounded_returns_passes_and_says_that_its_test_is_asymptotic(spec: PolicySpec) -> None:
    unbounded = _with(spec, "canary", return_range=None, abandoned_return=None)
    finding = packaged.ab_plan(unbounded, STEADY, "3")
    assert finding.status == "pass"
    assert "asymptotic" in finding.reason


def test_more_units_show_a_smaller_loss() -> None:
    assert packaged.detectable_loss(100, 0.05, 2_000) < packaged.detectable_loss(100, 0.05, 200)
